// e(x), the exponential of profile "cpu-1". This is the scalar twin; vector files spell the same steps with the same
// constants. Error below 2 ulp on [-86.5, 88.7] (measured by tests/kernels/exp_test.cc); below kExpLow exactly 0 (so -inf
// gives 0), above kExpHigh infinity; e(0) == 1; NaN stays NaN.
//   t = fma(x, log2(e), 1.5 * 2^23); n = t - 1.5 * 2^23; r = fma(n, -ln2_high, x); r = fma(n, -ln2_low, r)
//   p = polynomial of degree 6 in r by Horner with fma; result (p * 2^(n-1)) * 2
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

namespace pagoda::kernels::cpu {

inline constexpr float kExpLow = -86.5f;
inline constexpr float kExpHigh = 88.7f;
inline constexpr float kExpMagic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
inline constexpr float kExpLog2E = 1.44269504088896341f;
inline constexpr float kExpLn2High = 0.693359375f;
inline constexpr float kExpLn2Low = -2.12194440e-4f;
inline constexpr float kExpPoly[7] = {1.0f,         1.0f,         0.5f,         0.16666535f,
                                      0.041667238f, 0.008367478f, 0.0013863797f};
// GELU (tanh form): z = g * fma(kGeluCubic, g * g, kGeluLinear); gelu = g / (1 + e(-z)).
inline constexpr float kGeluLinear = 1.59576912160573f;
inline constexpr float kGeluCubic = 0.0713548162726009f;

static inline float ScalarExp(float x) {
  if (!(x >= kExpLow)) return x < kExpLow ? 0.0f : x;
  if (x > kExpHigh) return INFINITY;
  const float t = std::fma(x, kExpLog2E, kExpMagic);
  const float n = t - kExpMagic;
  float r = std::fma(n, -kExpLn2High, x);
  r = std::fma(n, -kExpLn2Low, r);
  float p = kExpPoly[6];
  for (int i = 5; i >= 0; --i) p = std::fma(p, r, kExpPoly[i]);
  uint32_t bits = 0;
  std::memcpy(&bits, &t, 4);
  bits = (bits << 23) + 0x3f000000u;  // 2^(n-1)
  float power = 0;
  std::memcpy(&power, &bits, 4);
  return (p * power) * 2.0f;
}

}  // namespace pagoda::kernels::cpu
