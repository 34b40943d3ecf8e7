// Writes one block of 32 values of a row, a value in each lane of a warp, in every form that an activation has.
#pragma once

#include "kernels/cuda/arithmetic.cuh"
#include "kernels/cuda/kernels.h"

namespace pagoda::kernels::cuda {

__device__ inline void WriteQuant(float x, int lane, int64_t at, int bits, const QuantView& out) {
  const Scaling scaling = ScalingOf(WarpTop(x), bits == 8 ? 127.0f : 2047.0f);
  const int q = scaling.inverse == 0.0f ? 0 : NearestInt(x * scaling.inverse);
  const int place = lane / 4 % 4, half = lane / 16, j = lane % 4;  // k = 16 half + 4 place + j
  if (bits == 8) {
    out.q[at * 32 + place * 8 + half * 4 + j] = static_cast<int8_t>(q);
  } else {
    int high = (q + 8) >> 4;
    high = high > 127 ? 127 : (high < -127 ? -127 : high);
    int8_t* bytes = out.q + at * 64 + place * 16 + half * 4 + j;
    bytes[0] = static_cast<int8_t>(high);
    bytes[8] = static_cast<int8_t>(q - 16 * high);
  }
  int total = q;
  for (int apart = 8; apart > 0; apart /= 2) total += ShuffleXor(total, apart);
  const int first = Shuffle(total, 0), second = Shuffle(total, 16);
  if (lane == 0) {
    out.scale_sum[at] = make_float2(scaling.scale, scaling.scale * static_cast<float>(first + second));
    out.half_sums[at] = make_float2(scaling.scale * static_cast<float>(first), scaling.scale * static_cast<float>(second));
  }
}

__device__ inline void WriteForms(float x, int lane, int64_t row, int64_t block, const FormsView& out) {
  const int64_t at = block * out.capacity + row;
  if (out.f32 != nullptr) out.f32[row * out.columns + block * 32 + lane] = x;
  const int element = (lane >> 1 & 3) * 8 + (lane >> 4) * 4 + (lane >> 3 & 1) * 2 + (lane & 1);  // k = 16 s + 8 h + 2 t + j
  if (out.f16 != nullptr) out.f16[at * 32 + element] = FloatToHalf(x);
  if (out.bf16 != nullptr) out.bf16[at * 32 + element] = FloatToBFloat(x);
  if (out.blocked != nullptr) {
    const int64_t group = (block * out.capacity + (row & ~int64_t{7})) * 32;
    out.blocked[group + (lane >> 3) * 64 + (row & 7) * 8 + (lane & 7)] = out.blocked_bf16 ? FloatToBFloat(x) : FloatToHalf(x);
  }
  if (out.int8.q != nullptr) WriteQuant(x, lane, at, 8, out.int8);
  if (out.int12.q != nullptr) WriteQuant(x, lane, at, 12, out.int12);
}

// The last columns of a row that are no whole block: only the f32 form has them.
__device__ inline void WriteTail(float x, int lane, int64_t row, int64_t block, const FormsView& out) {
  const int64_t column = block * 32 + lane;
  if (out.f32 != nullptr && column < out.columns) out.f32[row * out.columns + column] = x;
}

inline bool FormsFit(const FormsView& out, int64_t rows) {
  const bool blocks = out.f16 != nullptr || out.bf16 != nullptr || out.int8.q != nullptr || out.int12.q != nullptr;
  return rows >= 0 && rows <= out.capacity && out.columns > 0 && (!blocks || out.columns % 32 == 0);
}

}  // namespace pagoda::kernels::cuda
