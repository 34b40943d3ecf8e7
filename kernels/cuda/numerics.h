// The arithmetic of the CUDA profiles.
//
// "cuda-sm90-1" (and -sm80, -sm100: the profile carries the architecture, since 16-bit matrix instructions round inside in their
// own way) is invariant: a row's bits depend on its own sequence alone. Nothing below depends on the batch, on the chunk a prompt
// was cut into, on the number of ranks, or on how many multiprocessors there are.
//
// Quantised activations and weights, norms' and gates' formulas, exp, rope angles: as "cpu-1" (kernels/numerics.h), to the bit,
//   but for the order of sums over a row: RMSNorm adds fma(x, x, s) per thread of 256 (thread t: t, t + 256, ...), then lanes
//   16, 8, 4, 2, 1 apart, then the 8 warps in order.
// Matrix product, one output and one virtual shard of B blocks of 32 columns: the shard is cut into slices of
//   L = clamp(ceil(B / 8), 2, 16) blocks; each slice starts at 0 and takes its blocks in order; slices are added in order, shards
//   by the tree of reduction_tree.h, the bias last. All row counts use these slices, so prefill and decode are one family.
//   Quantised formats: exact integers per block (two 16-column halves where the format has them), then as "cpu-1":
//     f = fma(d * scale, (float)I, f) and with a minimum f = fma(m, sum, f).
//   F16, BF16: inputs rounded to the weights' type (F16: bounded by 65504), mma.m16n8k16 with an f32 accumulator over the slice.
//   F32: f = fma(w, x, f) in order.
// Attention of one row and head, K, V and q in f16 (bf16 with a bf16 cache): positions in chunks of 256, within a chunk tiles of 16 at
//   absolute positions: s = mma over the head's dimensions in order, times softmax_scale (8 bits: times the key's scale first);
//   m' = max(m, max s); c = e(m - m'); p = e(s - m'); l = fma(l, c, T(p)) (T: columns 2t, 2t+1 and +8 in one lane, then lanes 1 and 2
//   apart); o = o * c, then o += mma(p as 16 bits (8 bits: p times the value's scale first), v). Chunks are joined in order: M = max;
//   o = fma(o, e(m - M), o' * e(m' - M)), l alike; at the end o / l. Where a sequence's chunks ran does not matter.
//
// "cuda-sm90-fast-1": the same, but products of F16 and BF16 weights by more than 32 tokens use wgmma (m64n128k16) with one f32
//   accumulator over all columns of a plane, so a row's bits depend on how many tokens share its step.
#pragma once

#include <cstdint>

namespace pagoda::kernels::cuda {

inline constexpr int kTileRows = 16;         // weight rows of one packed tile
inline constexpr int kAttentionChunk = 256;  // positions

inline constexpr int SliceBlocks(int shard_blocks) {
  const int length = (shard_blocks + 7) / 8;
  return length < 2 ? 2 : (length > 16 ? 16 : length);
}

}  // namespace pagoda::kernels::cuda
