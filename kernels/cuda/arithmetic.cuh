// Arithmetic that "cpu-1" and the CUDA profiles share, for the device: the same steps as kernels/cpu/exp.h, rope_table.cc and
// numerics.h, to the bit. And reductions of a warp and a block in a fixed order.
#pragma once

#include "kernels/cpu/exp.h"
#include "kernels/cuda/intrinsics.cuh"
#include "kernels/numerics.h"

namespace pagoda::kernels::cuda {

__device__ inline float Exp(float x) {
  if (!(x >= cpu::kExpLow)) return x < cpu::kExpLow ? 0.0f : x;
  if (x > cpu::kExpHigh) return FloatOfBits(0x7f800000u);
  const float t = Fma(x, cpu::kExpLog2E, cpu::kExpMagic);
  const float n = t - cpu::kExpMagic;
  float r = Fma(n, -cpu::kExpLn2High, x);
  r = Fma(n, -cpu::kExpLn2Low, r);
  float p = 0.0013863797f;  // cpu::kExpPoly, from its end; named one by one since device code cannot index a host array
  p = Fma(p, r, 0.008367478f);
  p = Fma(p, r, 0.041667238f);
  p = Fma(p, r, 0.16666535f);
  p = Fma(p, r, 0.5f);
  p = Fma(p, r, 1.0f);
  p = Fma(p, r, 1.0f);
  return (p * FloatOfBits((FloatBits(t) << 23) + 0x3f000000u)) * 2.0f;
}

struct Turn {
  float cosine;
  float sine;
};
// Cosine and sine of an angle, computed in double: the steps of cpu::DoubleSinCos.
__device__ inline Turn TurnOf(float position, float frequency, float magnitude) {
  const double angle = static_cast<double>(position * frequency);
  const double quadrant = NearestDouble(angle * 0.6366197723675814);
  const double r = FmaDouble(-quadrant, 6.123233995736766e-17, FmaDouble(-quadrant, 1.5707963267948966, angle));
  const double z = r * r;
  double s = -1.0 / 1307674368000.0;
  s = FmaDouble(s, z, 1.0 / 6227020800.0);
  s = FmaDouble(s, z, -1.0 / 39916800.0);
  s = FmaDouble(s, z, 1.0 / 362880.0);
  s = FmaDouble(s, z, -1.0 / 5040.0);
  s = FmaDouble(s, z, 1.0 / 120.0);
  s = FmaDouble(s, z, -1.0 / 6.0);
  s = FmaDouble(s * z, r, r);
  double c = 1.0 / 20922789888000.0;
  c = FmaDouble(c, z, -1.0 / 87178291200.0);
  c = FmaDouble(c, z, 1.0 / 479001600.0);
  c = FmaDouble(c, z, -1.0 / 3628800.0);
  c = FmaDouble(c, z, 1.0 / 40320.0);
  c = FmaDouble(c, z, -1.0 / 720.0);
  c = FmaDouble(c, z, 1.0 / 24.0);
  c = FmaDouble(c, z, -0.5);
  c = FmaDouble(c, z, 1.0);
  const int turn = static_cast<int>(static_cast<long long>(quadrant) & 3);
  const double sine = turn == 0 ? s : (turn == 1 ? c : (turn == 2 ? -s : -c));
  const double cosine = turn == 0 ? c : (turn == 1 ? -s : (turn == 2 ? -c : s));
  return {static_cast<float>(cosine) * magnitude, static_cast<float>(sine) * magnitude};
}

struct Scaling {
  float scale;
  float inverse;
};
__device__ inline Scaling ScalingOf(float top, float limit) {
  if (!(top < FloatOfBits(0x7f800000u))) return {FloatOfBits(0x7fc00000u), 0.0f};
  if (top < kSmallestTop) return {0.0f, 0.0f};
  return {top / limit, limit / top};
}

// The largest magnitude as bits, so that infinities and NaNs win.
__device__ inline float WarpTop(float x) {
  uint32_t top = FloatBits(x) & 0x7fffffffu;
  for (int apart = 16; apart > 0; apart /= 2) {
    const uint32_t other = ShuffleXor(top, apart);
    top = other > top ? other : top;
  }
  return FloatOfBits(top);
}
__device__ inline float WarpSum(float x) {
  for (int apart = 16; apart > 0; apart /= 2) x += ShuffleXor(x, apart);
  return x;
}
__device__ inline int WarpSum(int x) {
  for (int apart = 16; apart > 0; apart /= 2) x += ShuffleXor(x, apart);
  return x;
}

}  // namespace pagoda::kernels::cuda
