// Matrix products with packed weights: one kernel for few tokens (a block per 16 weight rows, its warps share the slices) and one for
// many (a block per 128 rows x 128 tokens, each warp goes through all slices). Both stream weights by bulk copies, both add as
// numerics.h says, so a token's results are the same bits from either. Instantiated by gemm_*.cu, a few formats each.
#pragma once

#include "kernels/cuda/gemm_tile.cuh"
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/launch.h"

namespace pagoda::kernels::cuda {

inline constexpr int kGemmThreads = 256;
inline constexpr int kGemmWarps = kGemmThreads / 32;

// ---- few tokens ----

inline constexpr int kFewStages = 4;
inline constexpr int kFewStageBytes = 2304;  // about so much of a tile per copy
__host__ __device__ constexpr int FewStageRecords(int format) {
  const int records = kFewStageBytes / RecordBytes(format);
  return records < 1 ? 1 : records;
}

// A warp's way through its slices (warp, warp + 8, ...), a few blocks at a time.
struct SliceCursor {
  int slice = 0;
  int block = 0;
  int end = 0;
  __device__ void Begin(const GemmParams& p, int first) {
    slice = first;
    Enter(p);
  }
  __device__ void Enter(const GemmParams& p) {
    if (slice >= p.slice_count) return;
    block = slice == 0 ? 0 : p.slices[slice - 1].end_block;
    end = p.slices[slice].end_block;
  }
  __device__ bool AtEnd(const GemmParams& p) const { return slice >= p.slice_count; }
  __device__ void Advance(const GemmParams& p, int blocks) {
    block += blocks;
    if (block < end) return;
    slice += kGemmWarps;
    Enter(p);
  }
};

// The tokens' fragment of one block, and their scales, straight from memory (small, and shared by all tiles: in the caches).
template <int kFormat>
struct TokenFragment {
  uint32_t b[4] = {0, 0, 0, 0};
  TokenScales scales;

  __device__ __forceinline__ void Load(const GemmParams& p, int block, int64_t first_token, int lane) {
    const int g = lane / 4, t = lane % 4;
    const int64_t at = block * p.input.capacity + first_token;
    const bool there = first_token + g < p.tokens;
    if constexpr (IsFloatFormat(kFormat)) {
      const uint16_t* form = kFormat == kF16 ? p.input.f16 : p.input.bf16;
      if (there) {
        const uint4 v = LoadCached(reinterpret_cast<const uint4*>(form + (at + g) * 32 + t * 8));
        b[0] = v.x, b[1] = v.y, b[2] = v.z, b[3] = v.w;
      }
    } else {
      const QuantView& quant = p.activation_bits == 12 ? p.input.int12 : p.input.int8;
      if (there && p.activation_bits == 12) {
        const uint4 v = LoadCached(reinterpret_cast<const uint4*>(quant.q + (at + g) * 64 + t * 16));
        b[0] = v.x, b[1] = v.y, b[2] = v.z, b[3] = v.w;
      } else if (there) {
        const uint2 v = LoadCached(reinterpret_cast<const uint2*>(quant.q + (at + g) * 32 + t * 8));
        b[0] = v.x, b[1] = v.y;
      }
      scales = {{0, 0, 0, 0}, {0, 0, 0, 0}};
      if (first_token + 2 * t < p.tokens) {
        scales.pair = LoadCached(reinterpret_cast<const float4*>(quant.scale_sum + at + 2 * t));
        if constexpr (kFormat == kQ2_K) scales.halves = LoadCached(reinterpret_cast<const float4*>(quant.half_sums + at + 2 * t));
      }
    }
  }
};

template <int kFormat, int kTokenTiles>
__global__ void __launch_bounds__(kGemmThreads) GemmFew(const __grid_constant__ GemmParams p) {
  constexpr int kRecord = RecordBytes(kFormat), kRecords = FewStageRecords(kFormat), kStage = kRecord * kRecords;
  constexpr int kTokens = 8 * kTokenTiles;
  unsigned char* shared = DynamicShared();
  const int thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
  unsigned char* ring = shared + warp * kFewStages * kStage;
  uint64_t* barriers = reinterpret_cast<uint64_t*>(shared + kGemmWarps * kFewStages * kStage) + warp * kFewStages;
  float* partial = reinterpret_cast<float*>(shared + kGemmWarps * (kFewStages * kStage + kFewStages * 8));
  const uint8_t* tile = p.records + static_cast<int64_t>(blockIdx.x) * p.blocks * kRecord;
  const int64_t first_token = static_cast<int64_t>(blockIdx.y) * kTokens;

  SliceCursor producer;
  producer.Begin(p, warp);
  const auto produce = [&](int stage) {  // lane 0
    if (producer.AtEnd(p)) return;
    const int left = producer.end - producer.block, count = left < kRecords ? left : kRecords;
    BarrierExpect(barriers + stage, static_cast<uint32_t>(count * kRecord));
    BulkCopy(ring + stage * kStage, tile + static_cast<int64_t>(producer.block) * kRecord,
             static_cast<uint32_t>(count * kRecord), barriers + stage);
    BarrierCommit(barriers + stage);
    producer.Advance(p, count);
  };
  if (lane == 0) {
    for (int s = 0; s < kFewStages; ++s) BarrierInit(barriers + s);
    for (int s = 0; s < kFewStages; ++s) produce(s);  // weights do not wait for the kernel before
  }
  WarpSync();
  FollowPrevious();

  SliceCursor at;
  at.Begin(p, warp);
  float f[kTokenTiles][4] = {};
  for (int turn = 0; !at.AtEnd(p); ++turn) {
    const int stage = turn % kFewStages, slice = at.slice;
    const int left = at.end - at.block, count = left < kRecords ? left : kRecords;
    BarrierWait(barriers + stage, static_cast<uint32_t>(turn / kFewStages & 1));
#pragma unroll
    for (int i = 0; i < kRecords; ++i) {
      if (i >= count) break;
      const uint8_t* record = ring + stage * kStage + i * kRecord;
      if constexpr (IsFloatFormat(kFormat)) {
        uint32_t a[2][4];
        LoadFloats(record, lane, a);
#pragma unroll
        for (int n = 0; n < kTokenTiles; ++n) {
          TokenFragment<kFormat> tokens;
          tokens.Load(p, at.block + i, first_token + 8 * n, lane);
          AddFloatBlock<kFormat>(a, tokens.b, f[n]);
        }
      } else {
        WeightFragment<kFormat> w = LoadQuants<kFormat>(record, lane);
        LoadScales(record, lane, w);
#pragma unroll
        for (int n = 0; n < kTokenTiles; ++n) {
          TokenFragment<kFormat> tokens;
          tokens.Load(p, at.block + i, first_token + 8 * n, lane);
          AddBlock<kFormat>(w, tokens.b, p.activation_bits == 12 ? 2 : 1, tokens.scales, f[n]);
        }
      }
    }
    WarpSync();  // all lanes have read the stage
    if (lane == 0) produce(stage);
    at.Advance(p, count);
    if (at.slice == slice && !at.AtEnd(p)) continue;
    const int g = lane / 4, t = lane % 4;
#pragma unroll
    for (int n = 0; n < kTokenTiles; ++n) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        partial[(slice * 16 + g + i / 2 * 8) * kTokens + 8 * n + 2 * t + i % 2] = f[n][i];
        f[n][i] = 0.0f;
      }
    }
  }
  BlockSync();

  // Slices in order, shards by their tree: a thread per output; its stack of unfinished sums is where its first slices were.
  for (int i = thread; i < 16 * kTokens; i += kGemmThreads) {
    const int64_t row = static_cast<int64_t>(blockIdx.x) * 16 + i % 16, token = first_token + i / 16;
    if (row >= p.rows || token >= p.tokens) continue;
    float* mine = partial + (i % 16) * kTokens + i / 16;
    int depth = 0;
    bool begun = false;
    float sum = 0;
    for (int s = 0; s < p.slice_count; ++s) {
      const float value = mine[s * 16 * kTokens];
      sum = begun ? sum + value : value;
      begun = true;
      const SliceStep step = p.slices[s];
      if (step.ends_shard == 0) continue;
      begun = false;
      for (int a = 0; a < step.adds; ++a) sum = mine[--depth * 16 * kTokens] + sum;
      if (step.plane < 0) {
        mine[depth++ * 16 * kTokens] = sum;  // depth is at most the shards done, so these slices were read
        continue;
      }
      if (p.bias != nullptr) sum = sum + p.bias[row];
      p.out[step.plane * p.plane_stride + token * p.row_stride + row] = sum;
    }
  }
}

template <int kFormat, int kTokenTiles>
size_t FewShared(const GemmParams& p) {
  constexpr int kStage = RecordBytes(kFormat) * FewStageRecords(kFormat);
  return static_cast<size_t>(kGemmWarps) * kFewStages * (kStage + 8) +
         static_cast<size_t>(p.slice_count) * 16 * 8 * kTokenTiles * sizeof(float);
}

template <int kFormat, int kTokenTiles>
cudaError_t LaunchFew(const GemmParams& p, const char* name, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>((p.rows + 15) / 16),
                  static_cast<unsigned>((p.tokens + 8 * kTokenTiles - 1) / (8 * kTokenTiles)));
  return Launch(name, GemmFew<kFormat, kTokenTiles>, {grid, dim3(kGemmThreads), FewShared<kFormat, kTokenTiles>(p), stream}, p);
}

// ---- many tokens ----

inline constexpr int kManyRows = 128;
inline constexpr int kManyTokens = 128;
inline constexpr int kManyStages = 4;  // at most: as many as fit beside the sums
inline constexpr int kManyBlocks = 2;  // of 32 columns, per stage
inline constexpr int kManySums = 64;   // of a thread: 4 x 4 tiles of 4

struct ManyLayout {
  int weights;  // bytes of a stage
  int tokens;
  int scales;
  int halves;
  __host__ __device__ int stage() const { return weights + tokens + scales + halves; }
};
template <int kFormat>
__host__ __device__ constexpr ManyLayout LayoutOfMany(int bits) {
  const int per_token = IsFloatFormat(kFormat) || bits == 12 ? 64 : 32;
  return {8 * kManyBlocks * RecordBytes(kFormat), kManyBlocks * kManyTokens * per_token,
          IsFloatFormat(kFormat) ? 0 : kManyBlocks * kManyTokens * 8, kFormat == kQ2_K ? kManyBlocks * kManyTokens * 8 : 0};
}

// One thread: fills a stage with `count` blocks from `block` of the weights' and the tokens' tiles.
template <int kFormat>
__device__ void FillStage(const GemmParams& p, unsigned char* stage, uint64_t* barrier, int block, int count) {
  constexpr int kRecord = RecordBytes(kFormat);
  const ManyLayout layout = LayoutOfMany<kFormat>(p.activation_bits);
  const int64_t tiles = (p.rows + 15) / 16, first_tile = static_cast<int64_t>(blockIdx.y) * 8;
  const int here = static_cast<int>(tiles - first_tile < 8 ? tiles - first_tile : 8);
  const int64_t first_token = static_cast<int64_t>(blockIdx.x) * kManyTokens;
  const int per_token = layout.tokens / (kManyBlocks * kManyTokens);
  const uint32_t token_bytes = static_cast<uint32_t>(kManyTokens * per_token);
  const uint32_t scale_bytes = static_cast<uint32_t>(layout.scales / kManyBlocks);
  const uint32_t half_bytes = static_cast<uint32_t>(layout.halves / kManyBlocks);
  BarrierExpect(barrier, static_cast<uint32_t>(here * count * kRecord) +
                             static_cast<uint32_t>(count) * (token_bytes + scale_bytes + half_bytes));
  for (int i = 0; i < here; ++i) {
    BulkCopy(stage + i * kManyBlocks * kRecord, p.records + ((first_tile + i) * p.blocks + block) * kRecord,
             static_cast<uint32_t>(count * kRecord), barrier);
  }
  const QuantView& quant = p.activation_bits == 12 ? p.input.int12 : p.input.int8;
  for (int i = 0; i < count; ++i) {
    const int64_t at = static_cast<int64_t>(block + i) * p.input.capacity + first_token;
    unsigned char* tokens = stage + layout.weights + i * token_bytes;
    if constexpr (IsFloatFormat(kFormat)) {
      BulkCopy(tokens, (kFormat == kF16 ? p.input.f16 : p.input.bf16) + at * 32, token_bytes, barrier);
    } else {
      BulkCopy(tokens, quant.q + at * per_token, token_bytes, barrier);
      unsigned char* scales = stage + layout.weights + layout.tokens;
      BulkCopy(scales + i * scale_bytes, quant.scale_sum + at, scale_bytes, barrier);
      if constexpr (kFormat == kQ2_K) BulkCopy(scales + layout.scales + i * half_bytes, quant.half_sums + at, half_bytes, barrier);
    }
  }
  BarrierCommit(barrier);
}

// A warp's 64 rows x 32 tokens of one block, out of a filled stage. `i`: the block within the stage.
template <int kFormat>
__device__ __forceinline__ void MultiplyStage(const GemmParams& p, const unsigned char* stage, int i, int warp_row, int warp_token,
                                              int lane, float (&f)[4][4][4]) {
  constexpr int kRecord = RecordBytes(kFormat);
  const ManyLayout layout = LayoutOfMany<kFormat>(p.activation_bits);
  const int per_token = layout.tokens / (kManyBlocks * kManyTokens);
  const unsigned char* tokens = stage + layout.weights + i * kManyTokens * per_token + warp_token * 32 * per_token;
  const unsigned char* weights = stage + (warp_row * 4 * kManyBlocks + i) * kRecord;
  uint32_t b[4][4];
#pragma unroll
  for (int n = 0; n < 4; ++n) {
    if (IsFloatFormat(kFormat) || p.activation_bits == 12) {
      const uint4 v = *reinterpret_cast<const uint4*>(tokens + n * 8 * 64 + lane * 16);
      b[n][0] = v.x, b[n][1] = v.y, b[n][2] = v.z, b[n][3] = v.w;
    } else {
      const uint2 v = *reinterpret_cast<const uint2*>(tokens + n * 8 * 32 + lane * 8);
      b[n][0] = v.x, b[n][1] = v.y, b[n][2] = 0, b[n][3] = 0;
    }
  }
  if constexpr (IsFloatFormat(kFormat)) {
#pragma unroll
    for (int m = 0; m < 4; ++m) {
      uint32_t a[2][4];
      LoadFloats(weights + m * kManyBlocks * kRecord, lane, a);
#pragma unroll
      for (int n = 0; n < 4; ++n) AddFloatBlock<kFormat>(a, b[n], f[m][n]);
    }
  } else {
    const unsigned char* scales = stage + layout.weights + layout.tokens + (i * kManyTokens + warp_token * 32) * 8;
    const int planes = p.activation_bits == 12 ? 2 : 1;
#pragma unroll
    for (int m = 0; m < 4; ++m) {
      const uint8_t* record = weights + m * kManyBlocks * kRecord;
      WeightFragment<kFormat> w = LoadQuants<kFormat>(record, lane);
      LoadScales(record, lane, w);
#pragma unroll
      for (int n = 0; n < 4; ++n) {
        TokenScales s;
        s.pair = *reinterpret_cast<const float4*>(scales + (n * 8 + 2 * (lane % 4)) * 8);
        s.halves = float4{0, 0, 0, 0};
        if constexpr (kFormat == kQ2_K) {
          s.halves = *reinterpret_cast<const float4*>(scales + layout.scales + (n * 8 + 2 * (lane % 4)) * 8);
        }
        AddBlock<kFormat>(w, b[n], planes, s, f[m][n]);
      }
    }
  }
}

// The sums of a shard's slices so far, a column of shared memory for each thread: registers have no room beside the slice's own.
struct ManySums {
  float* mine;
  __device__ float& at(int i) const { return mine[i * kGemmThreads]; }
};

// The end of a slice: f joins the shard's sum; at the end of a shard that goes through the tree to the stack or to the output.
__device__ __forceinline__ void EndSlice(const GemmParams& p, const SliceStep& step, bool begun, int depth, int64_t first_row,
                                         int64_t first_token, const ManySums& sums, float (&f)[4][4][4]) {
  const int64_t level = p.tokens * p.rows;
#pragma unroll
  for (int m = 0; m < 4; ++m) {
#pragma unroll
    for (int n = 0; n < 4; ++n) {
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        float& sum = sums.at((m * 4 + n) * 4 + j);
        sum = begun ? sum + f[m][n][j] : f[m][n][j];
        f[m][n][j] = 0.0f;
      }
    }
  }
  if (step.ends_shard == 0) return;
#pragma unroll 1
  for (int i = 0; i < kManySums; ++i) {
    const int64_t row = first_row + i / 16 * 16 + i % 4 / 2 * 8, token = first_token + i / 4 % 4 * 8 + i % 2;
    if (row >= p.rows || token >= p.tokens) continue;
    float value = sums.at(i);
    float* place = p.stack + token * p.rows + row;
    for (int a = 0; a < step.adds; ++a) value = place[(depth - 1 - a) * level] + value;
    if (step.plane < 0) {
      place[(depth - step.adds) * level] = value;
    } else {
      if (p.bias != nullptr) value = value + p.bias[row];
      p.out[step.plane * p.plane_stride + token * p.row_stride + row] = value;
    }
  }
}

template <int kFormat>
__global__ void __launch_bounds__(kGemmThreads, 1) GemmMany(const __grid_constant__ GemmParams p, int stages) {
  FollowPrevious();
  unsigned char* shared = DynamicShared();
  const ManyLayout layout = LayoutOfMany<kFormat>(p.activation_bits);
  const int stage_bytes = layout.stage();
  uint64_t* barriers = reinterpret_cast<uint64_t*>(shared + stages * stage_bytes);
  const int thread = threadIdx.x, lane = thread % 32, warp = thread / 32, warp_row = warp / 4, warp_token = warp % 4;
  const ManySums sums{reinterpret_cast<float*>(barriers + kManyStages) + thread};
  const int turns = (p.blocks + kManyBlocks - 1) / kManyBlocks;
  const auto fill = [&](int turn) {
    if (turn >= turns) return;
    const int block = turn * kManyBlocks, left = p.blocks - block;
    FillStage<kFormat>(p, shared + turn % stages * stage_bytes, barriers + turn % stages, block,
                       left < kManyBlocks ? left : kManyBlocks);
  };
  if (thread == 0) {
    for (int s = 0; s < stages; ++s) BarrierInit(barriers + s);
    for (int s = 0; s < stages; ++s) fill(s);
  }
  BlockSync();

  float f[4][4][4] = {};
  int slice = 0, depth = 0;
  bool begun = false;
  SliceStep step = p.slices[0];
  const int64_t first_row = static_cast<int64_t>(blockIdx.y) * kManyRows + warp_row * 64 + lane / 4;
  const int64_t first_token = static_cast<int64_t>(blockIdx.x) * kManyTokens + warp_token * 32 + 2 * (lane % 4);
  for (int turn = 0; turn < turns; ++turn) {
    const unsigned char* stage = shared + turn % stages * stage_bytes;
    BarrierWait(barriers + turn % stages, static_cast<uint32_t>(turn / stages & 1));
#pragma unroll 1
    for (int i = 0; i < kManyBlocks; ++i) {
      const int block = turn * kManyBlocks + i;
      if (block >= p.blocks) break;
      MultiplyStage<kFormat>(p, stage, i, warp_row, warp_token, lane, f);
      if (block + 1 < step.end_block) continue;
      EndSlice(p, step, begun, depth, first_row, first_token, sums, f);
      begun = step.ends_shard == 0;
      if (step.ends_shard != 0) depth += (step.plane < 0 ? 1 : 0) - step.adds;
      if (++slice < p.slice_count) step = p.slices[slice];
    }
    BlockSync();  // all warps have read the stage
    if (thread == 0) fill(turn + stages);
  }
}

template <int kFormat>
cudaError_t LaunchMany(const GemmParams& p, const char* name, cudaStream_t stream) {
  const int stage = LayoutOfMany<kFormat>(p.activation_bits).stage();
  const int beside = kManySums * kGemmThreads * static_cast<int>(sizeof(float)) + kManyStages * 8;
  const int fit = (p.shared_limit - beside) / stage, stages = fit < kManyStages ? fit : kManyStages;
  if (stages < 2) return cudaErrorInvalidValue;
  const dim3 grid(static_cast<unsigned>((p.tokens + kManyTokens - 1) / kManyTokens),
                  static_cast<unsigned>((p.rows + kManyRows - 1) / kManyRows));
  return Launch(name, GemmMany<kFormat>, {grid, dim3(kGemmThreads), static_cast<size_t>(stages * stage + beside), stream}, p, stages);
}

// Up to this many tokens are few. A choice of speed alone: the bits are the same.
inline constexpr int64_t kFewTokens = 32;

template <int kFormat>
cudaError_t LaunchFormat(const GemmParams& p, const char* few_name, const char* many_name, cudaStream_t stream) {
  if (p.tokens <= 8 && FewShared<kFormat, 1>(p) <= static_cast<size_t>(p.shared_limit)) return LaunchFew<kFormat, 1>(p, few_name, stream);
  if (p.tokens <= kFewTokens && FewShared<kFormat, 2>(p) <= static_cast<size_t>(p.shared_limit)) return LaunchFew<kFormat, 2>(p, few_name, stream);
  return LaunchMany<kFormat>(p, many_name, stream);
}

}  // namespace pagoda::kernels::cuda
