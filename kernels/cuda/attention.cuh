// Attention over the paged cache. A warp takes a unit: up to 16 query vectors of one KV head (all query heads that read it, of one or
// more rows of a sequence) against chunks of 256 positions, tile after tile of 16, keys and values streamed by bulk copies into the
// warp's own ring. A unit of several chunks joins them itself; of a sequence that is split each unit has one chunk and a second
// kernel joins them in the same order by the same steps, so splitting does not change a bit.
#pragma once

#include "kernels/cuda/kv_elements.cuh"
#include "kernels/cuda/launch.h"

namespace pagoda::kernels::cuda {


// Rows g and g + 8 of the unit's 16 vectors; o: the accumulators of padded_dim / 8 column tiles.
template <int kTiles>
struct Softmax {
  float m[2];
  float l[2];
  float o[kTiles][4];
};

__device__ __forceinline__ float NegativeInfinity() { return FloatOfBits(0xff800000u); }

template <int kTiles>
__device__ __forceinline__ void Clear(Softmax<kTiles>& s) {
  s.m[0] = s.m[1] = NegativeInfinity();
  s.l[0] = s.l[1] = 0.0f;
#pragma unroll
  for (int n = 0; n < kTiles; ++n) s.o[n][0] = s.o[n][1] = s.o[n][2] = s.o[n][3] = 0.0f;
}

struct JoinFactors {
  float left;
  float right;
  float m;
};
__device__ __forceinline__ JoinFactors FactorsOf(float left, float right) {
  const float m = left > right ? left : right;
  if (m == NegativeInfinity()) return {0.0f, 0.0f, m};
  return {Exp(left - m), Exp(right - m), m};
}

// The steps of one tile of 16 positions for a warp's 16 vectors. q: fragments of padded_dim / 16 steps. limit: visible are
// positions first..limit of each of the two rows, relative to the tile.
template <int kType, int kTiles>
__device__ __forceinline__ void AddTile(const unsigned char* tile, const KvView& kv, const uint32_t (&q)[kTiles / 2][4], float scale,
                                        const int (&first)[2], const int (&limit)[2], int last_stored, int lane,
                                        Softmax<kTiles>& state) {
  const int t = lane % 4;
  const float* key_scales = reinterpret_cast<const float*>(tile + kv.scale_at);
  float s[2][4] = {};  // tokens 0..7 and 8..15: columns 2t, 2t + 1 of rows g, g + 8
#pragma unroll
  for (int group = 0; group < kTiles / 4; ++group) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      uint32_t b[4];
      const int64_t at = (group * 16 + half * 8) * 32 + lane * 8;  // token half * 8 + g
      if constexpr (KvHasScales(kType)) {
        const uint2 v = *reinterpret_cast<const uint2*>(tile + at);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const uint32_t two = (i < 2 ? v.x : v.y) >> (i % 2 * 16);
          b[i] = ByteToHalf(kType, two & 255) | ByteToHalf(kType, two >> 8 & 255) << 16;
        }
      } else {
        const uint4 v = *reinterpret_cast<const uint4*>(tile + at * 2);
        b[0] = v.x, b[1] = v.y, b[2] = v.z, b[3] = v.w;
      }
#pragma unroll
      for (int step = 0; step < 2; ++step) {
        if constexpr (kType == kKvBF16) {
          MmaBF16(s[half], q[2 * group + step], b[2 * step], b[2 * step + 1]);
        } else {
          MmaF16(s[half], q[2 * group + step], b[2 * step], b[2 * step + 1]);
        }
      }
    }
  }
  float top[2] = {NegativeInfinity(), NegativeInfinity()};
#pragma unroll
  for (int half = 0; half < 2; ++half) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int token = half * 8 + 2 * t + i % 2, r = i / 2;
      float value = s[half][i];
      if constexpr (KvHasScales(kType)) value = value * key_scales[token];
      value = value * scale;
      s[half][i] = token >= first[r] && token <= limit[r] ? value : NegativeInfinity();
      if (s[half][i] > top[r]) top[r] = s[half][i];
    }
  }
  float c[2];
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    for (int apart = 1; apart <= 2; apart *= 2) {
      const float other = ShuffleXor(top[r], apart);
      if (other > top[r]) top[r] = other;
    }
    const float next = state.m[r] > top[r] ? state.m[r] : top[r];
    // Nothing visible yet: nothing to scale. Else e(-infinity) is 0, which is right for what was not begun.
    c[r] = next == NegativeInfinity() ? 1.0f : Exp(state.m[r] - next);
    state.m[r] = next;
  }
  float sum[2] = {0.0f, 0.0f};
  uint32_t p[4];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float e[2];
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const float value = s[half][2 * r + j];
        e[j] = value == NegativeInfinity() ? 0.0f : Exp(value - state.m[r]);
        sum[r] = sum[r] + e[j];
        if constexpr (KvHasScales(kType)) {
          const int token = half * 8 + 2 * t + j;
          e[j] = token <= last_stored ? e[j] * key_scales[16 + token] : 0.0f;
        }
      }
      p[2 * half + r] = kType == kKvBF16 ? (FloatToBFloat(e[0]) | static_cast<uint32_t>(FloatToBFloat(e[1])) << 16)
                                         : (FloatToHalf(e[0]) | static_cast<uint32_t>(FloatToHalf(e[1])) << 16);
    }
  }
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    sum[r] = sum[r] + ShuffleXor(sum[r], 1);
    sum[r] = sum[r] + ShuffleXor(sum[r], 2);
    state.l[r] = Fma(state.l[r], c[r], sum[r]);
  }
  if (AnyLane(c[0] != 1.0f || c[1] != 1.0f)) {  // times 1 changes no bit
#pragma unroll
    for (int n = 0; n < kTiles; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) state.o[n][i] = state.o[n][i] * c[i / 2];
    }
  }
  // Values past the last stored position may be anything: as zeros they add nothing.
  const uint32_t low = (2 * t <= last_stored ? 0xffffu : 0u) | (2 * t + 1 <= last_stored ? 0xffff0000u : 0u);
  const uint32_t high = (2 * t + 8 <= last_stored ? 0xffffu : 0u) | (2 * t + 9 <= last_stored ? 0xffff0000u : 0u);
#pragma unroll
  for (int pair = 0; pair < kTiles / 2; ++pair) {
    uint32_t b[4];
    const int64_t at = pair * 256 + lane * 8;
    if constexpr (KvHasScales(kType)) {
      const uint2 v = *reinterpret_cast<const uint2*>(tile + kv.value_at + at);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const uint32_t two = (i < 2 ? v.x : v.y) >> (i % 2 * 16);
        b[i] = ByteToHalf(kType, two & 255) | ByteToHalf(kType, two >> 8 & 255) << 16;
      }
    } else {
      const uint4 v = *reinterpret_cast<const uint4*>(tile + kv.value_at + at * 2);
      b[0] = v.x, b[1] = v.y, b[2] = v.z, b[3] = v.w;
    }
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      if constexpr (kType == kKvBF16) {
        MmaBF16(state.o[2 * pair + n], p, b[2 * n] & low, b[2 * n + 1] & high);
      } else {
        MmaF16(state.o[2 * pair + n], p, b[2 * n] & low, b[2 * n + 1] & high);
      }
    }
  }
}

// total joined with chunk, in this order.
template <int kTiles>
__device__ __forceinline__ void Join(Softmax<kTiles>& total, const Softmax<kTiles>& chunk) {
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const JoinFactors factors = FactorsOf(total.m[r], chunk.m[r]);
    total.m[r] = factors.m;
    total.l[r] = Fma(total.l[r], factors.left, chunk.l[r] * factors.right);
#pragma unroll
    for (int n = 0; n < kTiles; ++n) {
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        total.o[n][2 * r + j] = Fma(total.o[n][2 * r + j], factors.left, chunk.o[n][2 * r + j] * factors.right);
      }
    }
  }
}

// The queries of a unit as fragments: vector g and g + 8, dimensions in steps of 16.
template <int kType, int kTiles>
__device__ __forceinline__ void LoadQueries(const AttendKernelParams& p, const AttentionUnit& unit, int lane,
                                            uint32_t (&q)[kTiles / 2][4]) {
  const int g = lane / 4, t = lane % 4;
  const int first_head = p.head_begin[unit.kv_head], heads = p.head_begin[unit.kv_head + 1] - first_head;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int vector = g + 8 * r;
    const int index = unit.first_vector + vector;
    const float* head = nullptr;
    if (vector < unit.vectors) {
      head = p.qkv + static_cast<int64_t>(unit.first_row + index / heads) * p.qkv_stride +
             static_cast<int64_t>(p.head_order[first_head + index % heads]) * p.kv.head_dim;
    }
#pragma unroll
    for (int step = 0; step < kTiles / 2; ++step) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int d = step * 16 + h * 8 + 2 * t;
        const float x = head != nullptr && d < p.kv.head_dim ? head[d] : 0.0f;
        const float y = head != nullptr && d + 1 < p.kv.head_dim ? head[d + 1] : 0.0f;
        q[step][2 * h + r] = kType == kKvBF16 ? (FloatToBFloat(x) | static_cast<uint32_t>(FloatToBFloat(y)) << 16)
                                              : (FloatToHalf(x) | static_cast<uint32_t>(FloatToHalf(y)) << 16);
      }
    }
  }
}

// A finished vector's o / l to the output.
template <int kTiles>
__device__ __forceinline__ void WriteOut(const AttendKernelParams& p, int first_row, int kv_head, int first_vector, int vectors,
                                         int lane, const Softmax<kTiles>& state) {
  const int g = lane / 4, t = lane % 4;
  const int first_head = p.head_begin[kv_head], heads = p.head_begin[kv_head + 1] - first_head;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    if (g + 8 * r >= vectors) continue;
    const int index = first_vector + g + 8 * r;
    float* out = p.out + static_cast<int64_t>(first_row + index / heads) * p.out_stride +
                 static_cast<int64_t>(p.head_order[first_head + index % heads]) * p.kv.head_dim;
#pragma unroll
    for (int n = 0; n < kTiles; ++n) {
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const int d = n * 8 + 2 * t + j;
        if (d < p.kv.head_dim) out[d] = state.o[n][2 * r + j] / state.l[r];
      }
    }
  }
}

template <int kType, int kTiles>
__device__ void RunUnit(const AttendKernelParams& p, const AttentionUnit& unit, unsigned char* ring, uint64_t* barriers, int lane,
                        int& turn) {
  const int g = lane / 4;
  const int heads = p.head_begin[unit.kv_head + 1] - p.head_begin[unit.kv_head];
  int row_position[2];
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int vector = g + 8 * r < unit.vectors ? g + 8 * r : unit.vectors - 1;
    row_position[r] = unit.first_position + (unit.first_vector + vector) / heads;
  }
  const int first_position = unit.first_position + unit.first_vector / heads;
  const int last_position = unit.first_position + (unit.first_vector + unit.vectors - 1) / heads;
  const int begin = unit.first_chunk * kAttentionChunk;
  const int end = begin + unit.chunks * kAttentionChunk;
  const int window_first = p.sliding_window > 0 ? first_position - p.sliding_window + 1 : 0;
  const int tile_first = (begin > window_first ? begin : window_first) / 16;
  const int tile_last = (end - 1 < last_position ? end - 1 : last_position) / 16;
  const int32_t* blocks = p.step.block_ids + p.step.block_begin[unit.sequence];
  const auto fetch = [&](int tile, int slot) {  // lane 0
    const int position = tile * 16;
    const uint8_t* from = p.kv.layer + static_cast<int64_t>(blocks[position / p.kv.block_tokens]) * p.kv.block_bytes +
                          unit.kv_head * p.kv.head_bytes + position % p.kv.block_tokens / 16 * p.kv.tile_bytes;
    BarrierExpect(barriers + slot, static_cast<uint32_t>(p.kv.tile_bytes));
    BulkCopy(ring + slot * p.kv.tile_bytes, from, static_cast<uint32_t>(p.kv.tile_bytes), barriers + slot);
    BarrierCommit(barriers + slot);
  };
  if (lane == 0) {
    for (int i = 0; i < p.stages && tile_first + i <= tile_last; ++i) fetch(tile_first + i, (turn + i) % p.stages);
  }
  uint32_t q[kTiles / 2][4];
  LoadQueries<kType, kTiles>(p, unit, lane, q);
  Softmax<kTiles> chunk, total;
  Clear(chunk);
  Clear(total);
  for (int tile = tile_first; tile <= tile_last; ++tile, ++turn) {
    const int slot = turn % p.stages, base = tile * 16;
    int first[2], limit[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      limit[r] = row_position[r] - base;
      first[r] = p.sliding_window > 0 ? row_position[r] - p.sliding_window + 1 - base : 0;
    }
    BarrierWait(barriers + slot, static_cast<uint32_t>(turn / p.stages & 1));
    AddTile<kType, kTiles>(ring + slot * p.kv.tile_bytes, p.kv, q, p.scale, first, limit, last_position - base, lane, chunk);
    WarpSync();  // all lanes have read the stage
    if (lane == 0 && tile + p.stages <= tile_last) fetch(tile + p.stages, slot);
    if ((tile + 1) % (kAttentionChunk / 16) == 0 && tile < tile_last) {
      Join(total, chunk);
      Clear(chunk);
    }
  }
  if (unit.partial < 0) {
    Join(total, chunk);
    WriteOut(p, unit.first_row, unit.kv_head, unit.first_vector, unit.vectors, lane, total);
    return;
  }
  const int t = lane % 4;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    if (g + 8 * r >= unit.vectors) continue;
    const int64_t vector = static_cast<int64_t>(unit.partial) + g + 8 * r;
    if (t == 0) {
      p.partial_ml[vector * 2] = chunk.m[r];
      p.partial_ml[vector * 2 + 1] = chunk.l[r];
    }
#pragma unroll
    for (int n = 0; n < kTiles; ++n) {
#pragma unroll
      for (int j = 0; j < 2; ++j) p.partial_o[vector * p.kv.padded_dim + n * 8 + 2 * t + j] = chunk.o[n][2 * r + j];
    }
  }
}

template <int kType, int kTiles>
__global__ void __launch_bounds__(kAttentionWarps * 32) Attend(const __grid_constant__ AttendKernelParams p) {
  FollowPrevious();
  unsigned char* shared = DynamicShared();
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  unsigned char* ring = shared + static_cast<int64_t>(warp) * p.stages * p.kv.tile_bytes;
  uint64_t* barriers = reinterpret_cast<uint64_t*>(shared + kAttentionWarps * p.stages * p.kv.tile_bytes) + warp * p.stages;
  if (lane == 0) {
    for (int s = 0; s < p.stages; ++s) BarrierInit(barriers + s);
  }
  WarpSync();
  const int units = p.counts[0];
  int turn = 0;
  // Few units are spread over all blocks before a block gets a second one.
  const int blocks = static_cast<int>(gridDim.x);
  for (int i = warp * blocks + static_cast<int>(blockIdx.x); i < units; i += blocks * kAttentionWarps) {
    RunUnit<kType, kTiles>(p, p.units[i], ring, barriers, lane, turn);
  }
}

// A warp per group of vectors whose chunks were split.
template <int kTiles>
__global__ void __launch_bounds__(kAttentionWarps * 32) JoinChunks(const __grid_constant__ AttendKernelParams p) {
  FollowPrevious();
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  const int joins = p.counts[1];
  for (int i = blockIdx.x * kAttentionWarps + warp; i < joins; i += static_cast<int>(gridDim.x) * kAttentionWarps) {
    const AttentionJoin join = p.joins[i];
    Softmax<kTiles> total, chunk;
    Clear(total);
    for (int c = 0; c < join.partials; ++c) {
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        // Vectors past the last repeat it: computed and not written.
        const int place = g + 8 * r < join.vectors ? g + 8 * r : join.vectors - 1;
        const int64_t vector = static_cast<int64_t>(join.partial) + static_cast<int64_t>(c) * join.vectors + place;
        chunk.m[r] = p.partial_ml[vector * 2];
        chunk.l[r] = p.partial_ml[vector * 2 + 1];
#pragma unroll
        for (int n = 0; n < kTiles; ++n) {
#pragma unroll
          for (int j = 0; j < 2; ++j) chunk.o[n][2 * r + j] = p.partial_o[vector * p.kv.padded_dim + n * 8 + 2 * t + j];
        }
      }
      Join(total, chunk);
    }
    WriteOut(p, join.first_row, join.kv_head, join.first_vector, join.vectors, lane, total);
  }
}

template <int kType, int kTiles>
cudaError_t LaunchAttendOf(const AttendKernelParams& p, cudaStream_t stream) {
  const size_t shared = static_cast<size_t>(kAttentionWarps * p.stages) * (static_cast<size_t>(p.kv.tile_bytes) + 8);
  cudaError_t error = Launch("Attend", Attend<kType, kTiles>,
                             {dim3(static_cast<unsigned>(p.unit_grid)), dim3(kAttentionWarps * 32), shared, stream}, p);
  if (error != cudaSuccess || p.join_grid == 0) return error;
  return Launch("JoinChunks", JoinChunks<kTiles>,
                {dim3(static_cast<unsigned>(p.join_grid)), dim3(kAttentionWarps * 32), 0, stream}, p);
}

template <int kType>
cudaError_t LaunchAttendType(const AttendKernelParams& p, cudaStream_t stream) {
  switch (p.kv.padded_dim) {
    case 32:
      return LaunchAttendOf<kType, 4>(p, stream);
    case 64:
      return LaunchAttendOf<kType, 8>(p, stream);
    case 96:
      return LaunchAttendOf<kType, 12>(p, stream);
    case 128:
      return LaunchAttendOf<kType, 16>(p, stream);
    case 256:
      return LaunchAttendOf<kType, 32>(p, stream);
    default:
      return cudaErrorNotSupported;
  }
}

}  // namespace pagoda::kernels::cuda
