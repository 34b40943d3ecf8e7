// How weights lie on the device. A tile is 16 rows; it holds one record for each block of 32 columns, so that a run of blocks of a
// tile is one contiguous copy. A record is in the order in which the lanes of a warp feed matrix instructions (lane = 4 g + t):
//   quants  4 bits: 8 bytes a lane: word 0 low nibbles row g, columns 4t..4t+3, high nibbles columns 16 more; word 1 row g + 8.
//           5 bits: then 16 bits a lane: bit i is the fifth bit of byte i of (a0, a1, a2, a3);  6 bits: 32 bits a lane, two each.
//           8 bits: 16 bytes a lane: a0 (row g, 4t..), a1 (row g + 8), a2 (row g, 16 more), a3: signed.
//           16 bits: 2 x 16 bytes a lane: a0..a3 of columns 0..15 (all lanes), then of 16..31.   F32: [32 columns][16 rows].
//   scales  f16 pairs (row g, row g + 8) for g = 0..7: d; then m where stored. K-quants also 4 bytes for each g:
//           one sub-block: scale g, scale g + 8, minimum g, minimum g + 8; two: scales (0: g, g + 8; 1: g, g + 8), then minimums.
#pragma once

#include "kernels/cuda/weight_blocks.cuh"

namespace pagoda::kernels::cuda {

__host__ __device__ constexpr int QuantBytes(int format) {
  if (format == kF32) return 2048;
  if (IsFloatFormat(format)) return 1024;
  if (format == kQ8_0) return 512;
  if (format == kQ5_0 || format == kQ5_1 || format == kQ5_K) return 256 + 64;
  if (format == kQ6_K) return 256 + 128;
  return 256;
}
__host__ __device__ constexpr int MinAt(int format) { return QuantBytes(format) + 32; }
__host__ __device__ constexpr int SubScaleAt(int format) { return QuantBytes(format) + (StoredMin(format) ? 64 : 32); }
__host__ __device__ constexpr int RecordBytes(int format) {
  if (IsFloatFormat(format)) return QuantBytes(format);
  const int subs = IsSuper(format) ? (SubBlocks(format) == 2 && StoredMin(format) ? 64 : 32) : 0;
  return SubScaleAt(format) + subs;
}

}  // namespace pagoda::kernels::cuda
