// One block of 32 columns of a weight tile (16 rows) times 8 tokens: what both matrix product kernels are made of, so that they give
// the same bits. The accumulator f holds, of a lane 4 g + t: rows g, g, g + 8, g + 8 by tokens 2t, 2t + 1, 2t, 2t + 1.
#pragma once

#include "kernels/cuda/arithmetic.cuh"
#include "kernels/cuda/packed_layout.cuh"

namespace pagoda::kernels::cuda {

// A lane's part of a record, ready for the matrix instruction.
template <int kFormat>
struct WeightFragment {
  uint32_t a[4];       // 8-bit weights; unsigned unless the format has an offset
  float d[2][2];       // [half][row g, g + 8]
  float m[2][2];
};

template <int kFormat>
__device__ __forceinline__ WeightFragment<kFormat> LoadQuants(const uint8_t* record, int lane) {
  WeightFragment<kFormat> w;
  if constexpr (kFormat == kQ8_0) {
    const uint4 v = *reinterpret_cast<const uint4*>(record + lane * 16);
    w.a[0] = v.x, w.a[1] = v.y, w.a[2] = v.z, w.a[3] = v.w;
  } else {
    const uint2 v = *reinterpret_cast<const uint2*>(record + lane * 8);
    w.a[0] = v.x & 0x0f0f0f0fu, w.a[1] = v.y & 0x0f0f0f0fu;
    w.a[2] = v.x >> 4 & 0x0f0f0f0fu, w.a[3] = v.y >> 4 & 0x0f0f0f0fu;
  }
  if constexpr (QuantBytes(kFormat) == 320) {
    const uint32_t bits = *reinterpret_cast<const uint16_t*>(record + 256 + lane * 2);
    for (int i = 0; i < 4; ++i) {
      const uint32_t four = bits >> (4 * i) & 15;  // bit j to bit 8 j + 4
      w.a[i] |= (four << 4 & 0x10u) | (four << 11 & 0x1000u) | (four << 18 & 0x100000u) | (four << 25 & 0x10000000u);
    }
  }
  if constexpr (kFormat == kQ6_K) {
    const uint32_t bits = *reinterpret_cast<const uint32_t*>(record + 256 + lane * 4);
    for (int i = 0; i < 4; ++i) {
      const uint32_t four = bits >> (8 * i) & 255;  // bits 2j, 2j + 1 to 8 j + 4, 8 j + 5
      w.a[i] |= (four << 4 & 0x30u) | (four << 10 & 0x3000u) | (four << 16 & 0x300000u) | (four << 22 & 0x30000000u);
      w.a[i] = SubtractBytes(w.a[i], 0x20202020u);
    }
  }
  if constexpr (kFormat == kQ3_K) {
    for (int i = 0; i < 4; ++i) w.a[i] = SubtractBytes(w.a[i], 0x04040404u);
  }
  return w;
}

template <int kFormat>
__device__ __forceinline__ void LoadScales(const uint8_t* record, int lane, WeightFragment<kFormat>& w) {
  const int g = lane / 4;
  const uint32_t d_pair = *reinterpret_cast<const uint32_t*>(record + QuantBytes(kFormat) + 4 * g);
  const float d[2] = {HalfToFloat(static_cast<uint16_t>(d_pair)), HalfToFloat(static_cast<uint16_t>(d_pair >> 16))};
  float m[2] = {0.0f, 0.0f};
  if constexpr (StoredMin(kFormat)) {
    const uint32_t m_pair = *reinterpret_cast<const uint32_t*>(record + MinAt(kFormat) + 4 * g);
    m[0] = HalfToFloat(static_cast<uint16_t>(m_pair)), m[1] = HalfToFloat(static_cast<uint16_t>(m_pair >> 16));
  }
  if constexpr (!IsSuper(kFormat)) {
    for (int r = 0; r < 2; ++r) {
      w.d[0][r] = d[r];
      w.m[0][r] = StoredMin(kFormat) ? m[r] : static_cast<float>(MinFactor(kFormat)) * d[r];
    }
  } else {
    const uint32_t subs = *reinterpret_cast<const uint32_t*>(record + SubScaleAt(kFormat) + 4 * g);
    uint32_t minimums = subs >> 16;
    if constexpr (SubBlocks(kFormat) == 2 && StoredMin(kFormat)) {
      minimums = *reinterpret_cast<const uint32_t*>(record + SubScaleAt(kFormat) + 32 + 4 * g);
    }
    for (int s = 0; s < SubBlocks(kFormat); ++s) {
      for (int r = 0; r < 2; ++r) {
        const uint32_t scale = subs >> (16 * s + 8 * r) & 255;
        w.d[s][r] = d[r] * (StoredMin(kFormat) ? static_cast<float>(scale) : static_cast<float>(static_cast<int8_t>(scale)));
        w.m[s][r] = -(m[r] * static_cast<float>(minimums >> (16 * s + 8 * r) & 255));
      }
    }
  }
}

// Scales of tokens 2t and 2t + 1: scale, sum of each; of their halves' sums only Q2_K needs to know.
struct TokenScales {
  float4 pair;
  float4 halves;
};

// f += one block. b: the tokens' fragment, planes of 2 words: 8 bits one, 12 bits high and low.
template <int kFormat>
__device__ __forceinline__ void AddBlock(const WeightFragment<kFormat>& w, const uint32_t (&b)[4], int planes,
                                         const TokenScales& scales, float (&f)[4]) {
  constexpr bool kSigned = OffsetOf(kFormat) != 0;
  constexpr bool kMin = StoredMin(kFormat) || MinFactor(kFormat) != 0;
  const float scale[2] = {scales.pair.x, scales.pair.z};
  for (int s = 0; s < SubBlocks(kFormat); ++s) {
    int32_t total[4] = {0, 0, 0, 0};
    for (int plane = 0; plane < 2; ++plane) {
      if (plane == 1 && planes == 1) break;
      if (plane == 1) {
        for (int i = 0; i < 4; ++i) total[i] *= 16;
      }
      const uint32_t words[2] = {b[2 * plane], b[2 * plane + 1]};
      if constexpr (SubBlocks(kFormat) == 2) {
        if constexpr (kSigned) {
          MmaS8Half(total, w.a[2 * s], w.a[2 * s + 1], words[s]);
        } else {
          MmaU8Half(total, w.a[2 * s], w.a[2 * s + 1], words[s]);
        }
      } else if constexpr (kSigned) {
        MmaS8(total, w.a, words);
      } else {
        MmaU8(total, w.a, words);
      }
    }
    for (int i = 0; i < 4; ++i) {
      f[i] = Fma(w.d[s][i / 2] * scale[i % 2], static_cast<float>(total[i]), f[i]);
      if constexpr (kMin) {
        float sum = i % 2 == 0 ? scales.pair.y : scales.pair.w;
        if constexpr (SubBlocks(kFormat) == 2) {
          sum = s == 0 ? (i % 2 == 0 ? scales.halves.x : scales.halves.z) : (i % 2 == 0 ? scales.halves.y : scales.halves.w);
        }
        f[i] = Fma(w.m[s][i / 2], sum, f[i]);
      }
    }
  }
}

// 16-bit formats. b: two words for each of the two steps of 16 columns.
template <int kFormat>
__device__ __forceinline__ void AddFloatBlock(const uint32_t (&a)[2][4], const uint32_t (&b)[4], float (&f)[4]) {
  for (int step = 0; step < 2; ++step) {
    if constexpr (kFormat == kF16) {
      MmaF16(f, a[step], b[2 * step], b[2 * step + 1]);
    } else {
      MmaBF16(f, a[step], b[2 * step], b[2 * step + 1]);
    }
  }
}

__device__ __forceinline__ void LoadFloats(const uint8_t* record, int lane, uint32_t (&a)[2][4]) {
  for (int step = 0; step < 2; ++step) {
    const uint4 v = *reinterpret_cast<const uint4*>(record + (step * 32 + lane) * 16);
    a[step][0] = v.x, a[step][1] = v.y, a[step][2] = v.z, a[step][3] = v.w;
  }
}

}  // namespace pagoda::kernels::cuda
