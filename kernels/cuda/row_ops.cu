// Operations on rows: embedding, residual + norm, quantisation, gate, copies. A block of threads per row, or a warp per 32 columns.
#include <atomic>

#include "kernels/cuda/forms.cuh"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/weight_blocks.cuh"

namespace pagoda::kernels::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kMaxDepth = 8;  // of the tree over at most kMaxPlanes planes

__global__ void Embed(EmbedParams p) {
  FollowPrevious();
  const int lane = threadIdx.x % 32;
  const int64_t row = blockIdx.x;
  const uint8_t* source = p.table + static_cast<int64_t>(p.tokens[row]) * p.row_bytes;
  const int64_t blocks = (p.columns + 31) / 32;
  for (int64_t block = threadIdx.x / 32; block < blocks; block += kWarps) {
    const int64_t column = block * 32 + lane;
    if (column >= p.columns) continue;
    float value;
    if (p.format == kF32) {
      const uint8_t* at = source + 4 * column;
      value = FloatOfBits(static_cast<uint32_t>(ReadU16(at)) | static_cast<uint32_t>(ReadU16(at + 2)) << 16);
    } else if (IsFloatFormat(p.format)) {
      const uint16_t bits = ReadU16(source + 2 * column);
      value = p.format == kF16 ? HalfToFloat(bits) : BFloatToFloat(bits);
    } else {
      const uint8_t* at = BlockAt(p.format, source, block);
      const int part = static_cast<int>(block % 8);
      value = Dequantize(p.format, ReadQuant(p.format, at, part, lane), ReadScales(p.format, at, part), lane);
    }
    p.out[row * p.stride + column] = value;
  }
}

// The tree over the planes at one column; the stack lies in shared memory, a place for each thread.
__device__ float AddPlanes(const AddNormKernelParams& p, int64_t at, float* stack) {
  if (p.plane_count == 1) return p.planes[0][at];
  int depth = 0;
  float sum = 0;
  for (int i = 0; i < p.plane_count; ++i) {
    sum = p.planes[i][at];
    for (int a = 0; a < p.adds[i]; ++a) sum = stack[--depth * kThreads] + sum;
    stack[depth++ * kThreads] = sum;
  }
  return sum;
}

__global__ void AddNorm(const __grid_constant__ AddNormKernelParams p) {
  FollowPrevious();
  float* shared = reinterpret_cast<float*>(DynamicShared());  // [8] sums, [kMaxDepth][kThreads] stacks
  const int thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
  const int64_t row = blockIdx.x;
  float* residual = p.residual + row * p.residual_stride;
  float sum = 0;
  for (int64_t i = thread; i < p.columns; i += kThreads) {
    float x = residual[i];
    if (p.plane_count > 0) {
      x = x + AddPlanes(p, row * p.columns + i, shared + kWarps + thread);
      residual[i] = x;
    }
    sum = Fma(x, x, sum);
  }
  if (p.norm_weight == nullptr) return;
  sum = WarpSum(sum);
  if (lane == 0) shared[warp] = sum;
  BlockSync();  // also: the row is written
  float total = 0;
  for (int w = 0; w < kWarps; ++w) total += shared[w];
  const float r = 1.0f / SquareRoot(total / static_cast<float>(p.columns) + p.epsilon);
  const int64_t blocks = (p.columns + 31) / 32;
  for (int64_t block = warp; block < blocks; block += kWarps) {
    const int64_t column = block * 32 + lane;
    const bool inside = column < p.columns;
    const float x = inside ? (residual[column] * r) * p.norm_weight[column] : 0.0f;
    if (block * 32 + 32 <= p.columns) {
      WriteForms(x, lane, row, block, p.out);
    } else {
      WriteTail(x, lane, row, block, p.out);
    }
  }
}

__device__ float GateOf(float g, float u, bool gelu) {
  const float z = gelu ? g * Fma(cpu::kGeluCubic, g * g, cpu::kGeluLinear) : g;
  return (g / (1.0f + Exp(-z))) * u;
}

// grid: x over groups of 8 blocks of columns, y over rows.
__global__ void Gate(GateParams p) {
  FollowPrevious();
  const int lane = threadIdx.x % 32;
  const int64_t block = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32, row = blockIdx.y;
  if (block * 32 >= p.out.columns) return;
  const float* gate = p.gate_up + row * p.stride;
  const int64_t column = block * 32 + lane;
  const bool inside = column < p.out.columns;
  const float x = inside ? GateOf(gate[column], gate[p.out.columns + column], p.gelu) : 0.0f;
  if (block * 32 + 32 <= p.out.columns) {
    WriteForms(x, lane, row, block, p.out);
  } else {
    WriteTail(x, lane, row, block, p.out);
  }
}

__global__ void Quantize(QuantizeParams p) {
  FollowPrevious();
  const int lane = threadIdx.x % 32;
  const int64_t block = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32, row = blockIdx.y;
  if (block * 32 >= p.out.columns) return;
  const int64_t column = block * 32 + lane;
  const float x = column < p.out.columns ? p.in[row * p.stride + column] : 0.0f;
  if (block * 32 + 32 <= p.out.columns) {
    WriteForms(x, lane, row, block, p.out);
  } else {
    WriteTail(x, lane, row, block, p.out);
  }
}

__global__ void CopyRows(CopyRowsKernelParams p) {
  FollowPrevious();
  const int64_t row = blockIdx.x;
  const int64_t from = p.indices != nullptr ? p.indices[row] : row;
  for (int64_t i = threadIdx.x; i < p.columns; i += kThreads) {
    p.to[row * p.to_stride + i] = p.from[from * p.from_stride + i];
  }
}

// grid: x over layers, y over copies.
__global__ void CopyBlocks(CopyBlocksParams p) {
  FollowPrevious();
  const int2 copy = p.copies[blockIdx.y];
  uint8_t* layer = p.base + static_cast<int64_t>(blockIdx.x) * p.layer_bytes;
  const uint4* from = reinterpret_cast<const uint4*>(layer + copy.x * p.block_bytes);
  uint4* to = reinterpret_cast<uint4*>(layer + copy.y * p.block_bytes);
  for (int64_t i = threadIdx.x; i < p.block_bytes / 16; i += kThreads) to[i] = from[i];
}

dim3 BlockGrid(int64_t columns, int64_t rows) {
  return dim3(static_cast<unsigned>((columns + 32 * kWarps - 1) / (32 * kWarps)), static_cast<unsigned>(rows));
}

thread_local const char* last_kernel = "none";
std::atomic<bool> launches_overlap{false};

}  // namespace

void NoteKernel(const char* name) { last_kernel = name; }
const char* LastKernel() { return last_kernel; }
void AllowOverlap(bool allowed) { launches_overlap.store(allowed); }
bool LaunchesOverlap() { return launches_overlap.load(std::memory_order_relaxed); }

cudaError_t LaunchEmbed(const EmbedParams& p, cudaStream_t stream) {
  if (p.rows == 0) return cudaSuccess;
  const int64_t unit = IsSuper(p.format) ? 256 : (IsFloatFormat(p.format) ? 1 : 32);
  if (p.columns % unit != 0 || p.stride < p.columns) return cudaErrorInvalidValue;
  return Launch("Embed", Embed, {dim3(static_cast<unsigned>(p.rows)), dim3(kThreads), 0, stream}, p);
}

cudaError_t LaunchAddNorm(const AddNormKernelParams& p, cudaStream_t stream) {
  if (p.rows == 0) return cudaSuccess;
  if (p.plane_count < 0 || p.plane_count > kMaxPlanes || (p.norm_weight != nullptr && !FormsFit(p.out, p.rows))) {
    return cudaErrorInvalidValue;
  }
  const size_t shared = (kWarps + (p.plane_count > 1 ? kMaxDepth * kThreads : 0)) * sizeof(float);
  return Launch("AddNorm", AddNorm, {dim3(static_cast<unsigned>(p.rows)), dim3(kThreads), shared, stream}, p);
}

cudaError_t LaunchQuantize(const QuantizeParams& p, cudaStream_t stream) {
  if (p.rows == 0) return cudaSuccess;
  if (!FormsFit(p.out, p.rows) || p.rows > 65535) return cudaErrorInvalidValue;
  return Launch("Quantize", Quantize, {BlockGrid(p.out.columns, p.rows), dim3(kThreads), 0, stream}, p);
}

cudaError_t LaunchGate(const GateParams& p, cudaStream_t stream) {
  if (p.rows == 0) return cudaSuccess;
  if (!FormsFit(p.out, p.rows) || p.rows > 65535 || p.stride < 2 * p.out.columns) return cudaErrorInvalidValue;
  return Launch("Gate", Gate, {BlockGrid(p.out.columns, p.rows), dim3(kThreads), 0, stream}, p);
}

cudaError_t LaunchCopyRows(const CopyRowsKernelParams& p, cudaStream_t stream) {
  if (p.rows == 0 || p.columns == 0) return cudaSuccess;
  return Launch("CopyRows", CopyRows, {dim3(static_cast<unsigned>(p.rows)), dim3(kThreads), 0, stream}, p);
}

cudaError_t LaunchCopyBlocks(const CopyBlocksParams& p, cudaStream_t stream) {
  if (p.count == 0 || p.layers == 0) return cudaSuccess;
  if (p.count > 65535 || p.block_bytes % 16 != 0) return cudaErrorInvalidValue;
  return Launch("CopyBlocks", CopyBlocks,
                {dim3(static_cast<unsigned>(p.layers), static_cast<unsigned>(p.count)), dim3(kThreads), 0, stream}, p);
}

}  // namespace pagoda::kernels::cuda
