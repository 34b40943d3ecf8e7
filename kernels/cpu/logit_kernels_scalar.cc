// The plain definitions, and the choice among the tables.
#include <cmath>
#include <limits>

#include "kernels/cpu/logit_kernels.h"

namespace pagoda::kernels {
namespace cpu {
namespace {

float GroupMax(const float* x, int64_t count, float* out) {
  float top = -std::numeric_limits<float>::infinity();
  for (int64_t begin = 0; begin < count; begin += kLogitGroup) {
    float largest = -std::numeric_limits<float>::infinity();
    for (int64_t i = begin; i < count && i < begin + kLogitGroup; ++i) largest = x[i] > largest ? x[i] : largest;
    *out++ = largest;
    top = largest > top ? largest : top;
  }
  return top;
}

int64_t Find(const float* x, int64_t count, float value) {
  int64_t i = 0;
  while (i < count && x[i] != value) ++i;
  return i;
}

uint32_t WeightOf(float x, float top, float factor) {
  const float y = (x - top) * (factor * kLog2E);
  if (!(y >= kLowestExponent)) return 0;
  const float n = std::nearbyint(y);
  const float f = y - n;
  float p = kExp2[5];
  for (int i = 4; i >= 0; --i) p = std::fma(p, f, kExp2[i]);
  return static_cast<uint32_t>(std::nearbyint(std::ldexp(p, static_cast<int>(n) + 30)));
}

uint64_t Weigh(const float* x, int64_t count, float top, float factor, uint32_t* out) {
  uint64_t sum = 0;
  for (int64_t i = 0; i < count; ++i) sum += out[i] = WeightOf(x[i], top, factor);
  return sum;
}

int64_t AtLeast(const float* x, int64_t count, float bound, int32_t base, int32_t* out) {
  int64_t found = 0;
  for (int64_t i = 0; i < count; ++i) {
    if (x[i] >= bound) out[found++] = base + static_cast<int32_t>(i);
  }
  return found;
}

int64_t Heavier(const uint32_t* weights, int64_t count, uint32_t bound, int32_t* out) {
  int64_t found = 0;
  for (int64_t i = 0; i < count; ++i) {
    if (weights[i] > bound) out[found++] = static_cast<int32_t>(i);
  }
  return found;
}

}  // namespace

const LogitKernels kScalarLogits = {GroupMax, Find, Weigh, AtLeast, Heavier};

}  // namespace cpu

const LogitKernels& LogitKernelsOf(Isa isa) {
  static const Isa best = IsaSupported(Isa::kAvx512) ? Isa::kAvx512 : IsaSupported(Isa::kAvx2) ? Isa::kAvx2 : Isa::kScalar;
  switch (isa == Isa::kAuto ? best : isa) {
    case Isa::kAvx512:
    case Isa::kAmx:
      return cpu::kAvx512Logits;
    case Isa::kAvx2:
      return cpu::kAvx2Logits;
    default:
      return cpu::kScalarLogits;
  }
}

}  // namespace pagoda::kernels
