// Turns queries and keys by their position and writes keys and values into the cache. A block per row: the row's cosines and sines
// once, then a warp per head.
#include "kernels/cuda/kv_elements.cuh"
#include "kernels/cuda/launch.h"

namespace pagoda::kernels::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kMaxPairs = 256;

__device__ void TurnHead(const RopeStoreParams& p, float* head, const float* cosine, const float* sine, int lane) {
  for (int i = lane; i < p.pairs; i += 32) {
    float& a = head[p.interleaved ? 2 * i : i];
    float& b = head[p.interleaved ? 2 * i + 1 : i + p.pairs];
    const float old_a = a, old_b = b;
    a = Fma(old_a, cosine[i], -(old_b * sine[i]));
    b = Fma(old_a, sine[i], old_b * cosine[i]);
  }
}

__device__ void StoreHead(const KvView& kv, uint8_t* tile, int token, const float* head, bool values, int lane) {
  float inverse = 0;
  if (KvHasScales(kv.type)) {
    float top = 0;
    for (int d = lane; d < kv.head_dim; d += 32) {
      const uint32_t bits = FloatBits(head[d]) & 0x7fffffffu;
      if (bits > FloatBits(top)) top = FloatOfBits(bits);
    }
    const Scaling scaling = ScalingOf(WarpTop(top), KvLimit(kv.type));
    inverse = scaling.inverse;
    if (lane == 0) reinterpret_cast<float*>(tile + kv.scale_at)[(values ? 16 : 0) + token] = scaling.scale;
  }
  uint8_t* base = tile + (values ? kv.value_at : 0);
  for (int d = lane; d < kv.padded_dim; d += 32) {
    const float x = d < kv.head_dim ? head[d] : 0.0f;
    StoreKvElement(kv.type, base, values ? KvValueIndex(token, d) : KvKeyIndex(token, d), x, inverse);
  }
}

__global__ void RopeStore(const __grid_constant__ RopeStoreParams p) {
  FollowPrevious();
  float* cosine = reinterpret_cast<float*>(DynamicShared());
  float* sine = cosine + p.pairs;
  const int thread = threadIdx.x, lane = thread % 32;
  const int64_t row = blockIdx.x;
  const int sequence = p.step.row_sequence[row];
  if (sequence < 0) return;
  const int position = p.step.row_position[row];
  for (int i = thread; i < p.pairs; i += kThreads) {
    const Turn turn = TurnOf(static_cast<float>(position), p.frequencies[i], p.magnitude);
    cosine[i] = turn.cosine;
    sine[i] = turn.sine;
  }
  BlockSync();
  float* qkv = p.qkv + row * p.stride;
  const int block = p.step.block_ids[p.step.block_begin[sequence] + position / p.kv.block_tokens];
  const int in_block = position % p.kv.block_tokens;
  uint8_t* storage = p.kv.layer + static_cast<int64_t>(block) * p.kv.block_bytes + in_block / 16 * p.kv.tile_bytes;
  const int heads = p.query_heads + 2 * p.kv.kv_heads;
  for (int h = thread / 32; h < heads; h += kWarps) {
    float* head = qkv + static_cast<int64_t>(h) * p.kv.head_dim;
    const bool values = h >= p.query_heads + p.kv.kv_heads;
    if (!values) TurnHead(p, head, cosine, sine, lane);
    if (h < p.query_heads) continue;
    WarpSync();  // the head is turned
    const int kv_head = values ? h - p.query_heads - p.kv.kv_heads : h - p.query_heads;
    StoreHead(p.kv, storage + kv_head * p.kv.head_bytes, in_block % 16, head, values, lane);
  }
}

}  // namespace

cudaError_t LaunchRopeStore(const RopeStoreParams& p, cudaStream_t stream) {
  if (p.rows == 0) return cudaSuccess;
  if (p.pairs < 0 || p.pairs > kMaxPairs || 2 * p.pairs > p.kv.head_dim || p.kv.block_tokens % 16 != 0 ||
      p.kv.padded_dim % 32 != 0 || p.kv.padded_dim < p.kv.head_dim) {
    return cudaErrorInvalidValue;
  }
  const size_t shared = static_cast<size_t>(p.pairs) * 2 * sizeof(float);
  return Launch("RopeStore", RopeStore, {dim3(static_cast<unsigned>(p.rows)), dim3(kThreads), shared, stream}, p);
}

}  // namespace pagoda::kernels::cuda
