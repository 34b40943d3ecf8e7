#include <immintrin.h>

#include <limits>

#include "kernels/cpu/logit_kernels.h"

namespace pagoda::kernels::cpu {
namespace {

constexpr float kLowest = -std::numeric_limits<float>::infinity();

__mmask16 TailMask(int64_t left) { return static_cast<__mmask16>((1u << left) - 1); }

// The second operand is taken when one is NaN: the running value.
__m512 Larger(__m512 x, __m512 running) { return _mm512_max_ps(x, running); }

float GroupMax(const float* x, int64_t count, float* out) {
  __m512 top = _mm512_set1_ps(kLowest);
  int64_t i = 0;
  for (; i + kLogitGroup <= count; i += kLogitGroup) {
    const __m512 none = _mm512_set1_ps(kLowest);
    const __m512 a = Larger(_mm512_loadu_ps(x + i), none);
    const __m512 b = Larger(_mm512_loadu_ps(x + i + 16), none);
    const __m512 c = Larger(_mm512_loadu_ps(x + i + 32), a);
    const __m512 d = Larger(_mm512_loadu_ps(x + i + 48), b);
    const __m512 group = _mm512_max_ps(c, d);
    top = _mm512_max_ps(group, top);
    *out++ = _mm512_reduce_max_ps(group);
  }
  float largest = _mm512_reduce_max_ps(top);
  if (i == count) return largest;
  float last = kLowest;
  for (; i < count; ++i) last = x[i] > last ? x[i] : last;
  *out = last;
  return last > largest ? last : largest;
}

int64_t Find(const float* x, int64_t count, float value) {
  const __m512 wanted = _mm512_set1_ps(value);
  int64_t i = 0;
  for (; i + 16 <= count; i += 16) {
    const __mmask16 equal = _mm512_cmp_ps_mask(_mm512_loadu_ps(x + i), wanted, _CMP_EQ_OQ);
    if (equal != 0) return i + __builtin_ctz(equal);
  }
  while (i < count && x[i] != value) ++i;
  return i;
}

uint64_t Weigh(const float* x, int64_t count, float top, float factor, uint32_t* out) {
  const __m512 tops = _mm512_set1_ps(top);
  const __m512 scale = _mm512_set1_ps(factor * kLog2E);
  const __m512 lowest = _mm512_set1_ps(kLowestExponent);
  const __m512 shift = _mm512_set1_ps(30.0f);
  const __m512i low_half = _mm512_set1_epi64(0xffffffff);
  __m512i even = _mm512_setzero_si512();
  __m512i odd = _mm512_setzero_si512();
  for (int64_t i = 0; i < count; i += 16) {
    const __mmask16 in = count - i >= 16 ? 0xffff : TailMask(count - i);
    const __m512 y = _mm512_mul_ps(_mm512_sub_ps(_mm512_maskz_loadu_ps(in, x + i), tops), scale);
    const __mmask16 counts = _mm512_mask_cmp_ps_mask(in, y, lowest, _CMP_GE_OQ);
    const __m512 n = _mm512_roundscale_ps(y, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const __m512 f = _mm512_sub_ps(y, n);
    __m512 p = _mm512_set1_ps(kExp2[5]);
    for (int k = 4; k >= 0; --k) p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(kExp2[k]));
    const __m512i w = _mm512_maskz_cvtps_epu32(counts, _mm512_scalef_ps(p, _mm512_add_ps(n, shift)));
    _mm512_mask_storeu_epi32(out + i, in, w);
    even = _mm512_add_epi64(even, _mm512_and_si512(w, low_half));
    odd = _mm512_add_epi64(odd, _mm512_srli_epi64(w, 32));
  }
  return static_cast<uint64_t>(_mm512_reduce_add_epi64(_mm512_add_epi64(even, odd)));
}

int64_t AtLeast(const float* x, int64_t count, float bound, int32_t base, int32_t* out) {
  const __m512 bounds = _mm512_set1_ps(bound);
  __m512i index = _mm512_add_epi32(_mm512_set1_epi32(base), _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
  int64_t found = 0;
  for (int64_t i = 0; i < count; i += 16, index = _mm512_add_epi32(index, _mm512_set1_epi32(16))) {
    const __mmask16 in = count - i >= 16 ? 0xffff : TailMask(count - i);
    const __mmask16 kept = _mm512_mask_cmp_ps_mask(in, _mm512_maskz_loadu_ps(in, x + i), bounds, _CMP_GE_OQ);
    if (kept == 0) continue;
    _mm512_storeu_si512(out + found, _mm512_maskz_compress_epi32(kept, index));
    found += __builtin_popcount(kept);
  }
  return found;
}

int64_t Heavier(const uint32_t* weights, int64_t count, uint32_t bound, int32_t* out) {
  const __m512i bounds = _mm512_set1_epi32(static_cast<int>(bound));
  __m512i index = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  int64_t found = 0;
  for (int64_t i = 0; i < count; i += 16, index = _mm512_add_epi32(index, _mm512_set1_epi32(16))) {
    const __mmask16 in = count - i >= 16 ? 0xffff : TailMask(count - i);
    const __mmask16 kept = _mm512_mask_cmpgt_epu32_mask(in, _mm512_maskz_loadu_epi32(in, weights + i), bounds);
    if (kept == 0) continue;
    _mm512_storeu_si512(out + found, _mm512_maskz_compress_epi32(kept, index));
    found += __builtin_popcount(kept);
  }
  return found;
}

}  // namespace

const LogitKernels kAvx512Logits = {GroupMax, Find, Weigh, AtLeast, Heavier};

}  // namespace pagoda::kernels::cpu
