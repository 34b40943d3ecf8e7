#include "worker/sampler/fixed_math.h"

#include <bit>
#include <cstdint>

namespace pagoda::worker {

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

}  // namespace pagoda::worker
