#include <immintrin.h>

#include <limits>

#include "kernels/cpu/logit_kernels.h"

namespace pagoda::kernels::cpu {
namespace {

constexpr float kLowest = -std::numeric_limits<float>::infinity();

float LargestOf(__m256 x) {
  alignas(32) float lanes[8];
  _mm256_store_ps(lanes, x);
  float largest = lanes[0];
  for (const float lane : lanes) largest = lane > largest ? lane : largest;
  return largest;
}

float GroupMax(const float* x, int64_t count, float* out) {
  __m256 top = _mm256_set1_ps(kLowest);
  int64_t i = 0;
  for (; i + kLogitGroup <= count; i += kLogitGroup) {
    __m256 a = _mm256_set1_ps(kLowest);
    __m256 b = a;
    // The second operand is taken when one is NaN: the running value.
    for (int j = 0; j < kLogitGroup; j += 16) {
      a = _mm256_max_ps(_mm256_loadu_ps(x + i + j), a);
      b = _mm256_max_ps(_mm256_loadu_ps(x + i + j + 8), b);
    }
    const __m256 group = _mm256_max_ps(a, b);
    top = _mm256_max_ps(group, top);
    *out++ = LargestOf(group);
  }
  const float largest = LargestOf(top);
  if (i == count) return largest;
  float last = kLowest;
  for (; i < count; ++i) last = x[i] > last ? x[i] : last;
  *out = last;
  return last > largest ? last : largest;
}

int64_t Find(const float* x, int64_t count, float value) {
  const __m256 wanted = _mm256_set1_ps(value);
  int64_t i = 0;
  for (; i + 8 <= count; i += 8) {
    const int equal = _mm256_movemask_ps(_mm256_cmp_ps(_mm256_loadu_ps(x + i), wanted, _CMP_EQ_OQ));
    if (equal != 0) return i + __builtin_ctz(static_cast<unsigned>(equal));
  }
  while (i < count && x[i] != value) ++i;
  return i;
}

// Of eight logits; lanes outside the definition's range are 0.
__m256i Weights(__m256 x, __m256 tops, __m256 scale) {
  const __m256 y = _mm256_mul_ps(_mm256_sub_ps(x, tops), scale);
  const __m256 counts = _mm256_cmp_ps(y, _mm256_set1_ps(kLowestExponent), _CMP_GE_OQ);
  const __m256 safe = _mm256_and_ps(y, counts);  // 0 where it does not count
  const __m256 n = _mm256_round_ps(safe, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const __m256 f = _mm256_sub_ps(safe, n);
  __m256 p = _mm256_set1_ps(kExp2[5]);
  for (int k = 4; k >= 0; --k) p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(kExp2[k]));
  const __m256i exponent = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(30)), 23);
  const __m256 scaled = _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(p), exponent));
  return _mm256_and_si256(_mm256_cvtps_epi32(scaled), _mm256_castps_si256(counts));
}

uint64_t Weigh(const float* x, int64_t count, float top, float factor, uint32_t* out) {
  const __m256 tops = _mm256_set1_ps(top);
  const __m256 scale = _mm256_set1_ps(factor * kLog2E);
  const __m256i low_half = _mm256_set1_epi64x(0xffffffff);
  __m256i sums = _mm256_setzero_si256();
  int64_t i = 0;
  for (; i + 8 <= count; i += 8) {
    const __m256i w = Weights(_mm256_loadu_ps(x + i), tops, scale);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + i), w);
    sums = _mm256_add_epi64(sums, _mm256_add_epi64(_mm256_and_si256(w, low_half), _mm256_srli_epi64(w, 32)));
  }
  alignas(32) uint64_t lanes[4];
  _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), sums);
  uint64_t sum = lanes[0] + lanes[1] + lanes[2] + lanes[3];
  if (i == count) return sum;
  alignas(32) float rest[8];
  alignas(32) uint32_t weights[8];
  for (int j = 0; j < 8; ++j) rest[j] = i + j < count ? x[i + j] : kLowest;
  _mm256_store_si256(reinterpret_cast<__m256i*>(weights), Weights(_mm256_load_ps(rest), tops, scale));
  for (int j = 0; i + j < count; ++j) sum += out[i + j] = weights[j];
  return sum;
}

int64_t AtLeast(const float* x, int64_t count, float bound, int32_t base, int32_t* out) {
  const __m256 bounds = _mm256_set1_ps(bound);
  int64_t found = 0;
  int64_t i = 0;
  for (; i + 8 <= count; i += 8) {
    unsigned kept = static_cast<unsigned>(_mm256_movemask_ps(_mm256_cmp_ps(_mm256_loadu_ps(x + i), bounds, _CMP_GE_OQ)));
    for (; kept != 0; kept &= kept - 1) out[found++] = base + static_cast<int32_t>(i) + __builtin_ctz(kept);
  }
  for (; i < count; ++i) {
    if (x[i] >= bound) out[found++] = base + static_cast<int32_t>(i);
  }
  return found;
}

int64_t Heavier(const uint32_t* weights, int64_t count, uint32_t bound, int32_t* out) {
  const __m256i bounds = _mm256_set1_epi32(static_cast<int>(bound));  // weights are below 2^31: signed comparison does
  int64_t found = 0;
  int64_t i = 0;
  for (; i + 8 <= count; i += 8) {
    const __m256i w = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(weights + i));
    unsigned kept = static_cast<unsigned>(_mm256_movemask_ps(_mm256_castsi256_ps(_mm256_cmpgt_epi32(w, bounds))));
    for (; kept != 0; kept &= kept - 1) out[found++] = static_cast<int32_t>(i) + __builtin_ctz(kept);
  }
  for (; i < count; ++i) {
    if (weights[i] > bound) out[found++] = static_cast<int32_t>(i);
  }
  return found;
}

}  // namespace

const LogitKernels kAvx2Logits = {GroupMax, Find, Weigh, AtLeast, Heavier};

}  // namespace pagoda::kernels::cpu
