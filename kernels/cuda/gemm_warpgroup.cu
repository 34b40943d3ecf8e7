// The fast profile's product of 16-bit weights by many tokens: wgmma, the whole of a plane's columns in one accumulator (numerics.h). A
// block: 128 rows x 128 tokens by two warpgroups; weights as every other kernel has them, out of shared memory into registers; tokens
// in 8 x 8 blocks (FormsView's `blocked`), straight from shared memory. Two blocks a multiprocessor hide each other's waits.
#include "kernels/cuda/gemm_formats.h"
#include "kernels/cuda/gemm_tile.cuh"
#include "kernels/cuda/launch.h"

namespace pagoda::kernels::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kTokens = 128;
constexpr int kBlocks = 2;  // of 32 columns, per stage
constexpr int kStages = 3;
constexpr int kWeightBytes = 8 * kBlocks * 1024;
constexpr int kTokenBytes = kBlocks * kTokens * 64;
constexpr int kStageBytes = kWeightBytes + kTokenBytes;

__device__ void Fill(const GemmParams& p, const uint16_t* tokens, unsigned char* stage, uint64_t* barrier, int block, int count) {
  const int64_t tiles = (p.rows + 15) / 16, first_tile = static_cast<int64_t>(blockIdx.y) * 8;
  const int here = static_cast<int>(tiles - first_tile < 8 ? tiles - first_tile : 8);
  BarrierExpect(barrier, static_cast<uint32_t>(count * (here * 1024 + kTokens * 64)));
  for (int i = 0; i < here; ++i) {
    BulkCopy(stage + i * kBlocks * 1024, p.records + ((first_tile + i) * p.blocks + block) * 1024,
             static_cast<uint32_t>(count * 1024), barrier);
  }
  for (int i = 0; i < count; ++i) {
    const int64_t at = static_cast<int64_t>(block + i) * p.input.capacity + static_cast<int64_t>(blockIdx.x) * kTokens;
    BulkCopy(stage + kWeightBytes + i * kTokens * 64, tokens + at * 32, kTokens * 64, barrier);
  }
  BarrierCommit(barrier);
}

// The end of a plane: rows `row` and 8 on, tokens `token`, `token` + 1 and each 8 on; d starts again.
__device__ __forceinline__ void WritePlane(const GemmParams& p, int plane, int row, int token, float (&d)[64]) {
  const float bias[2] = {p.bias != nullptr && row < p.rows ? p.bias[row] : -0.0f,
                         p.bias != nullptr && row + 8 < p.rows ? p.bias[row + 8] : -0.0f};
  float* out = p.out + plane * p.plane_stride + token * p.row_stride + row;
#pragma unroll
  for (int n = 0; n < 16; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (row + i / 2 * 8 < p.rows && token + 8 * n + i % 2 < p.tokens) {
        out[(i % 2) * p.row_stride + i / 2 * 8] = d[4 * n + i] + bias[i / 2];
      }
      d[4 * n + i] = 0.0f;
    }
    out += 8 * p.row_stride;
  }
}

template <int kFormat>
__global__ void __launch_bounds__(kThreads, 2) GemmWarpgroup(const __grid_constant__ GemmParams p) {
  FollowPrevious();
  unsigned char* shared = DynamicShared();
  uint64_t* barriers = reinterpret_cast<uint64_t*>(shared + kStages * kStageBytes);
  const int thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
  const int turns = (p.blocks + kBlocks - 1) / kBlocks;
  const uint16_t* tokens = p.input.blocked;
  const auto fill = [&](int turn) {
    if (turn >= turns) return;
    const int block = turn * kBlocks, left = p.blocks - block;
    Fill(p, tokens, shared + turn % kStages * kStageBytes, barriers + turn % kStages, block, left < kBlocks ? left : kBlocks);
  };
  if (thread == 0) {
    for (int s = 0; s < kStages; ++s) BarrierInit(barriers + s);
    for (int s = 0; s < kStages; ++s) fill(s);
  }
  BlockSync();
  float d[64];
#pragma unroll
  for (int i = 0; i < 64; ++i) d[i] = 0.0f;
  int slice = 0;
  while (slice < p.slice_count && p.slices[slice].plane < 0) ++slice;  // the end of the first plane
  SliceStep plane = p.slices[slice];
  for (int turn = 0; turn < turns; ++turn) {
    const unsigned char* stage = shared + turn % kStages * kStageBytes;
    BarrierWait(barriers + turn % kStages, static_cast<uint32_t>(turn / kStages & 1));
#pragma unroll 1
    for (int i = 0; i < kBlocks; ++i) {
      const int block = turn * kBlocks + i;
      if (block >= p.blocks) break;
      uint32_t a[2][4];
      LoadFloats(stage + (warp * kBlocks + i) * 1024, lane, a);
      WarpgroupBegin();
#pragma unroll
      for (int step = 0; step < 2; ++step) {
        const uint64_t b = SharedMatrix(stage + kWeightBytes + i * kTokens * 64 + step * 256, 128, 512);
        if constexpr (kFormat == kF16) {
          WarpgroupF16(d, a[step], b);
        } else {
          WarpgroupBF16(d, a[step], b);
        }
      }
      WarpgroupEnd();
      if (block + 1 < plane.end_block) continue;
WritePlane(p, plane.plane, static_cast<int>(blockIdx.y) * 128 + warp * 16 + lane / 4,
                 static_cast<int>(blockIdx.x) * kTokens + 2 * (lane % 4), d);
      while (++slice < p.slice_count && p.slices[slice].plane < 0) {
      }
      if (slice < p.slice_count) plane = p.slices[slice];
    }
    BlockSync();
    if (thread == 0) fill(turn + kStages);
  }
}

template <int kFormat>
cudaError_t LaunchOf(const GemmParams& p, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>((p.tokens + kTokens - 1) / kTokens), static_cast<unsigned>((p.rows + 127) / 128));
  return Launch("GemmWarpgroup", GemmWarpgroup<kFormat>, {grid, dim3(kThreads), kStages * (kStageBytes + 8), stream}, p);
}

}  // namespace

cudaError_t LaunchGemmWarpgroup(const GemmParams& p, cudaStream_t stream) {
  if (p.tokens == 0 || p.rows == 0) return cudaSuccess;
  if ((p.format != kF16 && p.format != kBF16) || p.input.blocked == nullptr || p.slice_count < 1 || p.blocks < 1 ||
      p.input.columns != static_cast<int64_t>(p.blocks) * 32 || p.tokens > p.input.capacity || p.row_stride < p.rows ||
      p.rows > int64_t{128} * 65535) {
    return cudaErrorInvalidValue;
  }
  return p.format == kF16 ? LaunchOf<kF16>(p, stream) : LaunchOf<kBF16>(p, stream);
}

}  // namespace pagoda::kernels::cuda
