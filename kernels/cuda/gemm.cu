// Products with F32 weights (plain threads: such models are small), and the table of all formats.
#include "kernels/cuda/arithmetic.cuh"
#include "kernels/cuda/gemm_formats.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/packed_layout.cuh"

namespace pagoda::kernels::cuda {
namespace {

// A block: 16 rows x 16 tokens, a thread each. The stack of the shards' tree is in shared memory: [max_depth][256].
__global__ void GemmF32(const __grid_constant__ GemmParams p) {
  FollowPrevious();
  float* stack = reinterpret_cast<float*>(DynamicShared()) + threadIdx.x;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * 16 + threadIdx.x % 16;
  const int64_t token = static_cast<int64_t>(blockIdx.y) * 16 + threadIdx.x / 16;
  if (row >= p.rows || token >= p.tokens) return;
  const float* tile = reinterpret_cast<const float*>(p.records) + static_cast<int64_t>(blockIdx.x) * p.blocks * 512;
  const float* x = p.input.f32 + token * p.input.columns;
  int depth = 0;
  int64_t k = 0;
  bool begun = false;
  float sum = 0;
  for (int s = 0; s < p.slice_count; ++s) {
    const SliceStep step = p.slices[s];
    float f = 0;
    for (; k < static_cast<int64_t>(step.end_block) * 32; ++k) f = Fma(tile[k * 16 + threadIdx.x % 16], x[k], f);
    sum = begun ? sum + f : f;
    begun = step.ends_shard == 0;
    if (begun) continue;
    for (int a = 0; a < step.adds; ++a) sum = stack[--depth * 256] + sum;
    if (step.plane < 0) {
      stack[depth++ * 256] = sum;
      continue;
    }
    if (p.bias != nullptr) sum = sum + p.bias[row];
    p.out[step.plane * p.plane_stride + token * p.row_stride + row] = sum;
  }
}

cudaError_t GemmF32Of(const GemmParams& p, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>((p.rows + 15) / 16), static_cast<unsigned>((p.tokens + 15) / 16));
  return Launch("GemmF32", GemmF32, {grid, dim3(256), static_cast<size_t>(p.max_depth + 1) * 1024, stream}, p);
}

using GemmFunction = cudaError_t (*)(const GemmParams&, cudaStream_t);
constexpr GemmFunction kByFormat[] = {GemmF32Of, GemmF16,  GemmBF16, GemmQ4_0, GemmQ4_1, GemmQ5_0, GemmQ5_1,
                                      GemmQ8_0,  GemmQ2_K, GemmQ3_K, GemmQ4_K, GemmQ5_K, GemmQ6_K};

bool InputFits(const GemmParams& p) {
  const int64_t multiple = p.input.capacity % 128;
  if (p.input.columns != static_cast<int64_t>(p.blocks) * 32 || p.tokens > p.input.capacity || multiple != 0) return false;
  if (p.format == kF32) return p.input.f32 != nullptr;
  if (p.format == kF16) return p.input.f16 != nullptr;
  if (p.format == kBF16) return p.input.bf16 != nullptr;
  return p.activation_bits == 12 ? p.input.int12.q != nullptr : p.activation_bits == 8 && p.input.int8.q != nullptr;
}

}  // namespace

int64_t GemmStackFloats(const GemmParams& p) {
  return p.format == kF32 ? 0 : static_cast<int64_t>(p.max_depth) * p.tokens * p.rows;
}

cudaError_t LaunchGemm(const GemmParams& p, cudaStream_t stream) {
  if (p.tokens == 0 || p.rows == 0) return cudaSuccess;
  if (p.format < 0 || p.format > kQ6_K || p.slice_count < 1 || p.blocks < 1 || !InputFits(p) || p.row_stride < p.rows ||
      p.tokens > 16 * 65535 || p.rows > int64_t{128} * 65535 || (p.max_depth > 0 && p.format != kF32 && p.stack == nullptr)) {
    return cudaErrorInvalidValue;
  }
  return kByFormat[p.format](p, stream);
}

}  // namespace pagoda::kernels::cuda
