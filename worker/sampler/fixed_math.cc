#include "worker/sampler/fixed_math.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

namespace pagoda::worker {
namespace {

constexpr int kLanes = 16;
constexpr int64_t kSumChunk = 1024;
constexpr float kExpLow = -87.0f;

// exp(x) for x <= 0: x = n ln2 + r, a polynomial of degree 6 in r, scaled by 2^n. Below kExpLow exactly 0.
[[gnu::always_inline]] inline float ExpOf(float x) {
  const float clamped = x < kExpLow ? kExpLow : x;
  const float magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  const float t = clamped * 1.44269504088896341f + magic;
  const float n = t - magic;
  const float r = (clamped - n * 0.693359375f) - n * -2.12194440e-4f;
  float p = 0.00139362610f;
  p = p * r + 0.00833336823f;
  p = p * r + 0.0416664853f;
  p = p * r + 0.166666672f;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  const uint32_t power = (std::bit_cast<uint32_t>(t) << 23) + 0x3f800000u;
  const float value = p * std::bit_cast<float>(power);
  return x < kExpLow ? 0.0f : value;
}

[[gnu::always_inline]] inline double AddLanes(double* lanes) {
  for (int width = kLanes / 2; width > 0; width /= 2) {
    for (int i = 0; i < width; ++i) lanes[i] += lanes[i + width];
  }
  return lanes[0];
}

[[gnu::always_inline]] inline double ExpSumBody(const float* x, int64_t count, float top, float factor) {
  double total = 0;
  for (int64_t chunk = 0; chunk < count; chunk += kSumChunk) {
    const int64_t end = std::min(count, chunk + kSumChunk);
    double lanes[kLanes] = {};
    int64_t i = chunk;
    for (; i + kLanes <= end; i += kLanes) {
      float w[kLanes];
      for (int l = 0; l < kLanes; ++l) w[l] = ExpOf((x[i + l] - top) * factor);
      for (int l = 0; l < kLanes; ++l) lanes[l] += static_cast<double>(w[l]);
    }
    for (int l = 0; i + l < end; ++l) {
      lanes[l] += static_cast<double>(ExpOf((x[i + l] - top) * factor));
    }
    total += AddLanes(lanes);
  }
  return total;
}

[[gnu::always_inline]] inline float MaxBody(const float* x, int64_t count) {
  const float lowest = -std::numeric_limits<float>::infinity();
  float lanes[kLanes];
  std::fill_n(lanes, kLanes, lowest);
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (int l = 0; l < kLanes; ++l) lanes[l] = x[i + l] > lanes[l] ? x[i + l] : lanes[l];
  }
  float top = lowest;
  for (const float lane : lanes) top = lane > top ? lane : top;
  for (; i < count; ++i) top = x[i] > top ? x[i] : top;
  return top;
}

// Wider vectors, the same operations: nothing here may be fused, so the bits do not change.
#if defined(__x86_64__)
__attribute__((target("avx2"))) double ExpSumAvx2(const float* x, int64_t count, float top, float factor) {
  return ExpSumBody(x, count, top, factor);
}
__attribute__((target("avx2"))) float MaxAvx2(const float* x, int64_t count) { return MaxBody(x, count); }
bool HasAvx2() {
  static const bool has = __builtin_cpu_supports("avx2");
  return has;
}
#else
double ExpSumAvx2(const float* x, int64_t count, float top, float factor) {
  return ExpSumBody(x, count, top, factor);
}
float MaxAvx2(const float* x, int64_t count) { return MaxBody(x, count); }
bool HasAvx2() { return false; }
#endif

}  // namespace

double FixedLog(double x) {
  // x = 2^n * m with m in [sqrt(1/2), sqrt(2)); log m = 2 atanh(s), s = (m - 1) / (m + 1).
  const uint64_t bits = std::bit_cast<uint64_t>(x);
  int64_t exponent = static_cast<int64_t>(bits >> 52) - 1023;
  double m = std::bit_cast<double>((bits & 0xfffffffffffffULL) | 0x3ff0000000000000ULL);
  if (m > 1.4142135623730951) {
    m *= 0.5;
    ++exponent;
  }
  const double s = (m - 1.0) / (m + 1.0);
  const double z = s * s;
  double p = 0;
  for (int k = 23; k >= 3; k -= 2) p = (p + 1.0 / k) * z;
  const double log_m = 2.0 * s + 2.0 * s * p;
  const double n = static_cast<double>(exponent);
  return n * 6.93147180369123816490e-01 + (n * 1.90821492927058770002e-10 + log_m);
}

float MaxOf(std::span<const float> x) {
  const int64_t count = static_cast<int64_t>(x.size());
  return HasAvx2() ? MaxAvx2(x.data(), count) : MaxBody(x.data(), count);
}

double ExpSum(std::span<const float> x, float top, float factor) {
  const int64_t count = static_cast<int64_t>(x.size());
  return HasAvx2() ? ExpSumAvx2(x.data(), count, top, factor) : ExpSumBody(x.data(), count, top, factor);
}

}  // namespace pagoda::worker
