// AVX2 with FMA and F16C. This file alone is built with those machine flags: everything in it is in an anonymous namespace,
// and it uses no library templates, so that the linker can never pick its code for another machine.
#include <immintrin.h>

#include <cstdint>

#include "kernels/cpu/exp.h"
#include "kernels/cpu/kernel_table.h"

namespace pagoda::kernels::cpu {
namespace {

struct V16 {
  __m256 a, b;
};
struct I16 {
  __m256i a, b;
};
struct M16 {
  __m256 a, b;
};

inline V16 Load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
inline void Store(float* p, V16 v) {
  _mm256_storeu_ps(p, v.a);
  _mm256_storeu_ps(p + 8, v.b);
}
inline V16 Set1(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
inline V16 Zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
inline V16 Add(V16 x, V16 y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
inline V16 Sub(V16 x, V16 y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
inline V16 Mul(V16 x, V16 y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
inline V16 Div(V16 x, V16 y) { return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
inline V16 Fma(V16 x, V16 y, V16 z) { return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)}; }
inline V16 Fnma(V16 x, V16 y, V16 z) { return {_mm256_fnmadd_ps(x.a, y.a, z.a), _mm256_fnmadd_ps(x.b, y.b, z.b)}; }
inline V16 Xor(V16 x, V16 y) { return {_mm256_xor_ps(x.a, y.a), _mm256_xor_ps(x.b, y.b)}; }
inline M16 Less(V16 x, V16 y) {
  return {_mm256_cmp_ps(x.a, y.a, _CMP_LT_OQ), _mm256_cmp_ps(x.b, y.b, _CMP_LT_OQ)};
}
inline V16 Select(M16 m, V16 yes, V16 no) {
  return {_mm256_blendv_ps(no.a, yes.a, m.a), _mm256_blendv_ps(no.b, yes.b, m.b)};
}
inline M16 LaneRange(int begin, int end) {
  const __m256i low = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), high = _mm256_setr_epi32(8, 9, 10, 11, 12, 13, 14, 15);
  const __m256i from = _mm256_set1_epi32(begin - 1), to = _mm256_set1_epi32(end);
  const __m256i a = _mm256_and_si256(_mm256_cmpgt_epi32(low, from), _mm256_cmpgt_epi32(to, low));
  const __m256i b = _mm256_and_si256(_mm256_cmpgt_epi32(high, from), _mm256_cmpgt_epi32(to, high));
  return {_mm256_castsi256_ps(a), _mm256_castsi256_ps(b)};
}
inline float MaxLanes(V16 v) {
  const __m256 eight = _mm256_max_ps(v.a, v.b);
  __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  four = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(four, _mm_shuffle_ps(four, four, 1)));
}
// Lanes 8 apart, then 4, 2, 1 apart.
inline float AddLanes(V16 v) {
  const __m256 eight = _mm256_add_ps(v.a, v.b);
  __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  four = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(four, _mm_shuffle_ps(four, four, 1)));
}
inline V16 AddOfEach(const float* rows) {
  alignas(32) float out[16];
  for (int i = 0; i < 16; ++i) out[i] = AddLanes(Load(rows + 16 * i));
  return Load(out);
}
inline V16 MaxOfEach(const float* rows) {
  alignas(32) float out[16];
  for (int i = 0; i < 16; ++i) out[i] = MaxLanes(Load(rows + 16 * i));
  return Load(out);
}
inline __m256 ExpPower8(__m256 t) {
  const __m256i shifted = _mm256_slli_epi32(_mm256_castps_si256(t), 23);
  return _mm256_castsi256_ps(_mm256_add_epi32(shifted, _mm256_set1_epi32(0x3f000000)));
}
inline V16 ExpPower(V16 t) { return {ExpPower8(t.a), ExpPower8(t.b)}; }

inline __m128i Load128(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }
inline void Store128(void* p, __m128i v) { _mm_storeu_si128(static_cast<__m128i*>(p), v); }
inline __m256 Half8(const uint8_t* p) { return _mm256_cvtph_ps(Load128(p)); }
inline __m256 BFloat8(const uint8_t* p) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(Load128(p)), 16));
}
inline V16 LoadHalf(const uint8_t* p) { return {Half8(p), Half8(p + 16)}; }
inline V16 LoadBFloat(const uint8_t* p) { return {BFloat8(p), BFloat8(p + 16)}; }
inline void StoreHalf(uint8_t* p, V16 v) {
  Store128(p, _mm256_cvtps_ph(v.a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  Store128(p + 16, _mm256_cvtps_ph(v.b, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
// Rounded to bfloat16, in the low half of each lane.
inline __m256i RoundBFloat8(__m256 v) {
  const __m256i bits = _mm256_castps_si256(v);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
  const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
  const __m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
  return _mm256_srli_epi32(_mm256_blendv_epi8(rounded, quiet, is_nan), 16);
}
inline void StoreBFloat(uint8_t* p, V16 v) {
  const __m256i packed = _mm256_packus_epi32(RoundBFloat8(v.a), RoundBFloat8(v.b));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_permute4x64_epi64(packed, 0xd8));
}
inline __m256 Signed8(const void* p) {
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(static_cast<const __m128i*>(p))));
}
inline __m256 Unsigned8(const void* p) {
  return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(static_cast<const __m128i*>(p))));
}
inline V16 LoadInt8(const int8_t* p) { return {Signed8(p), Signed8(p + 8)}; }
inline I16 ZeroInt() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
inline I16 RoundToInt(V16 v) { return {_mm256_cvtps_epi32(v.a), _mm256_cvtps_epi32(v.b)}; }
inline V16 ToFloat(I16 v) { return {_mm256_cvtepi32_ps(v.a), _mm256_cvtepi32_ps(v.b)}; }
// Of magnitudes.
inline bool AllFinite(V16 v) {
  const __m256 infinity = _mm256_set1_ps(__builtin_inff());
  return _mm256_movemask_ps(_mm256_or_ps(_mm256_cmp_ps(v.a, infinity, _CMP_NLT_UQ), _mm256_cmp_ps(v.b, infinity, _CMP_NLT_UQ))) == 0;
}
inline void StoreInt8(int8_t* p, I16 v) {
  const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(v.a, v.b), 0xd8);
  Store128(p, _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1)));
}
inline __m256i HighPart8(__m256i v) {
  const __m256i high = _mm256_srai_epi32(_mm256_add_epi32(v, _mm256_set1_epi32(8)), 4);
  return _mm256_max_epi32(_mm256_min_epi32(high, _mm256_set1_epi32(127)), _mm256_set1_epi32(-127));
}
// The parts of 12-bit values: high here, low 32 bytes on.
inline void StoreInt12(int8_t* p, I16 v) {
  const I16 high = {HighPart8(v.a), HighPart8(v.b)};
  StoreInt8(p, high);
  StoreInt8(p + 32, {_mm256_sub_epi32(v.a, _mm256_slli_epi32(high.a, 4)),
                     _mm256_sub_epi32(v.b, _mm256_slli_epi32(high.b, 4))});
}
inline int32_t SumInt(I16 v) {
  alignas(32) int32_t lanes[8];
  _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), _mm256_add_epi32(v.a, v.b));
  int32_t sum = 0;
  for (int i = 0; i < 8; ++i) sum += lanes[i];
  return sum;
}
inline __m256 MaxMagnitude8(__m256 a, __m256 b) {
  const __m256i mask = _mm256_set1_epi32(0x7fffffff);
  return _mm256_castsi256_ps(_mm256_max_epi32(_mm256_and_si256(_mm256_castps_si256(a), mask),
                                              _mm256_and_si256(_mm256_castps_si256(b), mask)));
}
// The larger |x| of each lane as bits, so that infinities and NaNs win.
inline V16 MaxMagnitude(V16 x, V16 y) { return {MaxMagnitude8(x.a, y.a), MaxMagnitude8(x.b, y.b)}; }
inline float TopMagnitude(V16 x, V16 y) {
  const V16 both = MaxMagnitude(x, y);
  alignas(32) int32_t lanes[8];
  _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), _mm256_castps_si256(MaxMagnitude8(both.a, both.b)));
  int32_t top = lanes[0];
  for (int i = 1; i < 8; ++i) top = lanes[i] > top ? lanes[i] : top;
  float value;
  __builtin_memcpy(&value, &top, 4);
  return value;
}
constexpr int kQkVectors = 4;
constexpr int kPvVectors = 2;
constexpr int kDirectVectors = 3;
constexpr int kPvDims = 2;
constexpr int kTogetherVectors = 1;

#include "kernels/cpu/row_kernels.h"

#include "kernels/cpu/attention_kernels.h"

// ---- Matrix products: half tiles of 8 rows ----

// As in the AVX-512 file: weights are asked for well ahead, into the second-level cache.
constexpr int64_t kPrefetchBytes = 32 << 10;

// Always inlined: gcc drops calls of a function that only prefetches.
template <int kBytes>
inline __attribute__((always_inline)) void PrefetchAhead(const uint8_t* p) {
#pragma GCC unroll 32
  for (int i = 0; i < kBytes; i += 64) {
    _mm_prefetch(reinterpret_cast<const char*>(p + kPrefetchBytes + i), _MM_HINT_T1);
  }
}

// How one format's packed block is read: columns 8g..8g+3 and 8g+4..8g+7 of rows 8 * half on. vpmaddubsw saturates at 16
// bits, so kSteps says how many products of unsigned weights with |q| <= 127 may be added up before they are widened:
// 15 * 127 * 2 * 8, 31 * 127 * 2 * 4 and 63 * 127 * 2 * 2 are below 2^15.
template <int kExtraBits>
struct NibbleQuants {
  static constexpr int kQuantBytes = 256 + 64 * kExtraBits;
  static constexpr int kSteps = 8 >> kExtraBits;
  static constexpr bool kSigned = false;
  static inline void LoadPair(const uint8_t* q, int g, int half, __m256i& w0, __m256i& w1) {
    const __m256i low = _mm256_set1_epi8(15);
    const __m256i pairs = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(q + 64 * g + 32 * half));
    w0 = _mm256_and_si256(pairs, low);
    w1 = _mm256_and_si256(_mm256_srli_epi16(pairs, 4), low);
    if constexpr (kExtraBits == 1) {
      w0 = _mm256_or_si256(w0, FifthBits(q + 256 + 16 * g + 4 * half));
      w1 = _mm256_or_si256(w1, FifthBits(q + 256 + 16 * g + 8 + 4 * half));
    } else if constexpr (kExtraBits == 2) {
      const __m256i mask = _mm256_set1_epi8(0x30);
      const __m256i high = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(q + 256 + 64 * (g / 2) + 32 * half));
      const bool first = g % 2 == 0;
      w0 = _mm256_or_si256(w0, _mm256_and_si256(first ? _mm256_slli_epi16(high, 4) : high, mask));
      w1 = _mm256_or_si256(w1, _mm256_and_si256(first ? _mm256_slli_epi16(high, 2) : _mm256_srli_epi16(high, 2), mask));
    }
  }
  // 32 bits to 32 bytes of 0 or 16.
  static inline __m256i FifthBits(const uint8_t* p) {
    int32_t bits;
    __builtin_memcpy(&bits, p, 4);
    const __m256i spread = _mm256_shuffle_epi8(
        _mm256_set1_epi32(bits), _mm256_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2,
                                                  3, 3, 3, 3, 3, 3, 3, 3));
    const __m256i place = _mm256_set1_epi64x(static_cast<int64_t>(0x8040201008040201u));
    return _mm256_and_si256(_mm256_cmpeq_epi8(_mm256_and_si256(spread, place), place), _mm256_set1_epi8(16));
  }
};
// Weights less 128, as signed bytes. |w| * |q| * 2 stays below 2^15 once.
struct ByteQuants {
  static constexpr int kQuantBytes = 512;
  static constexpr int kSteps = 1;
  static constexpr bool kSigned = true;
  static inline void LoadPair(const uint8_t* q, int g, int half, __m256i& w0, __m256i& w1) {
    const __m256i sign = _mm256_set1_epi8(-128);
    const auto* at = reinterpret_cast<const __m256i*>(q + 128 * g + 32 * half);
    w0 = _mm256_xor_si256(_mm256_loadu_si256(at), sign);
    w1 = _mm256_xor_si256(_mm256_loadu_si256(at + 2), sign);
  }
};

// The 16-bit sums of pairs.
template <class Quants>
inline __m256i Dot(__m256i w, __m256i q) {
  if constexpr (Quants::kSigned) return _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(q, w));
  return _mm256_maddubs_epi16(w, q);
}

template <int kMinFactor>
struct PlainScales {
  static constexpr int kSubs = 1;
  static constexpr bool kHasMin = kMinFactor != 0;
  static inline void Get(const GemmTask& task, const uint8_t* tile, int64_t b, int, int half, __m256& d, __m256& m) {
    d = Half8(tile + task.scales_at + b * 32 + 16 * half);
    if constexpr (kHasMin) m = _mm256_mul_ps(_mm256_set1_ps(static_cast<float>(kMinFactor)), d);
  }
};
struct MinScales {
  static constexpr int kSubs = 1;
  static constexpr bool kHasMin = true;
  static inline void Get(const GemmTask& task, const uint8_t* tile, int64_t b, int, int half, __m256& d, __m256& m) {
    d = Half8(tile + task.scales_at + b * 64 + 16 * half);
    m = Half8(tile + task.scales_at + b * 64 + 32 + 16 * half);
  }
};
template <int kSubBlocks>
struct SuperMinScales {
  static constexpr int kSubs = kSubBlocks;
  static constexpr bool kHasMin = true;
  static inline void Get(const GemmTask& task, const uint8_t* tile, int64_t b, int sub, int half, __m256& d, __m256& m) {
    const uint8_t* scales = tile + task.scales_at + b * 32 * kSubBlocks + 8 * half;
    const uint8_t* super = tile + task.supers_at + (b + task.super_phase) / 8 * 64 + 16 * half;
    d = _mm256_mul_ps(Half8(super), Unsigned8(scales + 16 * sub));
    m = _mm256_mul_ps(Half8(super + 32), Unsigned8(scales + 16 * (kSubBlocks + sub)));
    m = _mm256_xor_ps(m, _mm256_set1_ps(-0.0f));
  }
};
struct SuperSignedScales {
  static constexpr int kSubs = 2;
  static constexpr bool kHasMin = false;
  static inline void Get(const GemmTask& task, const uint8_t* tile, int64_t b, int sub, int half, __m256& d, __m256&) {
    const uint8_t* scales = tile + task.scales_at + b * 32 + 8 * half;
    const uint8_t* super = tile + task.supers_at + (b + task.super_phase) / 8 * 32 + 16 * half;
    d = _mm256_mul_ps(Half8(super), Signed8(scales + 16 * sub));
  }
};

template <class QuantsT, class ScalesT, int kOffsetValue>
struct Format {
  using Quants = QuantsT;
  using Scales = ScalesT;
  static constexpr int kOffset = kOffsetValue;
};

// A register block: kTokens tokens by kHalves half tiles of one tile.
struct BlockPlace {
  const uint8_t* tile = nullptr;
  int half = 0;  // the first
  int64_t token = 0;
  float* out = nullptr;         // of the tile's first row
  const float* bias = nullptr;  // the same
  int rows = kTileRows;         // of the tile that exist
};

inline __m256i Broadcast4(const int8_t* p) {
  int32_t four;
  __builtin_memcpy(&four, p, 4);
  return _mm256_set1_epi32(four);
}

// Integer sums of sub-block `sub` for one plane of the input.
template <class F, int kTokens, int kHalves>
inline __attribute__((always_inline)) void SumBlock(const BlockPlace& place, const uint8_t* quants, const int8_t* input,
                                                    int64_t input_stride, int sub, __m256i (&sum)[kTokens][kHalves]) {
  using Quants = typename F::Quants;
  constexpr int kVectors = 8 / F::Scales::kSubs;
  constexpr int kSteps = Quants::kSteps < kVectors ? Quants::kSteps : kVectors;
  const __m256i ones = _mm256_set1_epi16(1);
#pragma GCC unroll 8
  for (int t = 0; t < kTokens; ++t) {
#pragma GCC unroll 2
    for (int h = 0; h < kHalves; ++h) sum[t][h] = _mm256_setzero_si256();
  }
#pragma GCC unroll 8
  for (int begin = sub * kVectors; begin < (sub + 1) * kVectors; begin += kSteps < 2 ? 2 : kSteps) {
    __m256i words[kTokens][kHalves];
#pragma GCC unroll 4
    for (int v = begin; v < begin + (kSteps < 2 ? 2 : kSteps); v += 2) {
#pragma GCC unroll 2
      for (int h = 0; h < kHalves; ++h) {
        __m256i w0, w1;
        Quants::LoadPair(quants, v / 2, place.half + h, w0, w1);
#pragma GCC unroll 8
        for (int t = 0; t < kTokens; ++t) {
          const int8_t* q = input + t * input_stride + 4 * v;
          const __m256i p0 = Dot<Quants>(w0, Broadcast4(q)), p1 = Dot<Quants>(w1, Broadcast4(q + 4));
          if constexpr (kSteps < 2) {
            sum[t][h] = _mm256_add_epi32(sum[t][h], _mm256_madd_epi16(p0, ones));
            sum[t][h] = _mm256_add_epi32(sum[t][h], _mm256_madd_epi16(p1, ones));
          } else {
            const __m256i both = _mm256_add_epi16(p0, p1);
            words[t][h] = v == begin ? both : _mm256_add_epi16(words[t][h], both);
          }
        }
      }
    }
    if constexpr (kSteps >= 2) {
#pragma GCC unroll 8
      for (int t = 0; t < kTokens; ++t) {
#pragma GCC unroll 2
        for (int h = 0; h < kHalves; ++h) {
          sum[t][h] = _mm256_add_epi32(sum[t][h], _mm256_madd_epi16(words[t][h], ones));
        }
      }
    }
  }
}

// Adds block b to f.
template <class F, int kTokens, int kHalves, int kBits>
inline __attribute__((always_inline)) void AddBlock(const GemmTask& task, const BlockPlace& place, int64_t b,
                                                    __m256 (&f)[kTokens][kHalves]) {
  using Scales = typename F::Scales;
  constexpr int kInputBytes = kBits == 8 ? 32 : 64;
  const QuantRows& quant = *task.quant;
  const int64_t blocks = task.blocks;
  const int8_t* input = quant.q + (place.token * blocks + b) * kInputBytes;
  const uint8_t* quants = place.tile + b * F::Quants::kQuantBytes;
  PrefetchAhead<F::Quants::kQuantBytes>(quants);
  PrefetchAhead<64>(place.tile + task.scales_at + b * 64);
#pragma GCC unroll 2
  for (int sub = 0; sub < Scales::kSubs; ++sub) {
    __m256i sum[kTokens][kHalves];
    SumBlock<F, kTokens, kHalves>(place, quants, input, blocks * kInputBytes, sub, sum);
    if constexpr (kBits == 12) {
      __m256i low[kTokens][kHalves];
      SumBlock<F, kTokens, kHalves>(place, quants, input + 32, blocks * kInputBytes, sub, low);
#pragma GCC unroll 8
      for (int t = 0; t < kTokens; ++t) {
#pragma GCC unroll 2
        for (int h = 0; h < kHalves; ++h) sum[t][h] = _mm256_add_epi32(_mm256_slli_epi32(sum[t][h], 4), low[t][h]);
      }
    }
#pragma GCC unroll 2
    for (int h = 0; h < kHalves; ++h) {
      __m256 d, m = _mm256_setzero_ps();
      Scales::Get(task, place.tile, b, sub, place.half + h, d, m);
#pragma GCC unroll 8
      for (int t = 0; t < kTokens; ++t) {
        const int64_t index = (place.token + t) * blocks + b;
        __m256i total = sum[t][h];
        if constexpr (F::kOffset != 0 && !F::Quants::kSigned) {
          const int32_t q = Scales::kSubs == 1 ? quant.total[index] : quant.half_total[2 * index + sub];
          total = _mm256_sub_epi32(total, _mm256_set1_epi32(F::kOffset * q));
        }
        const __m256 scale = _mm256_set1_ps(quant.scale[index]);
        f[t][h] = _mm256_fmadd_ps(_mm256_mul_ps(d, scale), _mm256_cvtepi32_ps(total), f[t][h]);
        if constexpr (Scales::kHasMin) {
          const float x = Scales::kSubs == 1 ? quant.sum[index] : quant.half_sum[2 * index + sub];
          f[t][h] = _mm256_fmadd_ps(m, _mm256_set1_ps(x), f[t][h]);
        }
      }
    }
  }
}

template <int kTokens, int kHalves>
inline void WriteOut(const GemmTask& task, const BlockPlace& place, int plane, const __m256 (&f)[kTokens][kHalves]) {
  for (int t = 0; t < kTokens; ++t) {
    for (int h = 0; h < kHalves; ++h) {
      const int first = 8 * (place.half + h), rows = place.rows - first;
      if (rows <= 0) continue;
      float* out = place.out + plane * task.plane_stride + t * task.row_stride + first;
      __m256 value = f[t][h];
      if (place.bias != nullptr) value = _mm256_add_ps(value, _mm256_loadu_ps(place.bias + first));
      if (rows >= 8) {
        _mm256_storeu_ps(out, value);
        continue;
      }
      alignas(32) float some[8];
      _mm256_store_ps(some, value);
      for (int i = 0; i < rows; ++i) out[i] = some[i];
    }
  }
}

// Runs `add(block, f)` over all shards and adds them up as the steps say.
template <int kTokens, int kHalves, class AddFunction>
inline __attribute__((always_inline)) void SumShards(const GemmTask& task, const BlockPlace& place, AddFunction add) {
  alignas(32) float stack[kMaxTreeDepth][kTokens][kHalves][8];
  int depth = 0;
  int64_t b = 0;
  for (int i = 0; i < task.step_count; ++i) {
    const ShardStep step = task.steps[i];
    __m256 f[kTokens][kHalves];
#pragma GCC unroll 8
    for (int t = 0; t < kTokens; ++t) {
#pragma GCC unroll 2
      for (int h = 0; h < kHalves; ++h) f[t][h] = _mm256_setzero_ps();
    }
    for (; b < step.end_block; ++b) add(b, f);
    for (int a = 0; a < step.adds; ++a) {
      --depth;
#pragma GCC unroll 8
      for (int t = 0; t < kTokens; ++t) {
#pragma GCC unroll 2
        for (int h = 0; h < kHalves; ++h) f[t][h] = _mm256_add_ps(_mm256_load_ps(stack[depth][t][h]), f[t][h]);
      }
    }
    if (step.plane >= 0) {
      WriteOut<kTokens, kHalves>(task, place, step.plane, f);
      continue;
    }
#pragma GCC unroll 8
    for (int t = 0; t < kTokens; ++t) {
#pragma GCC unroll 2
      for (int h = 0; h < kHalves; ++h) _mm256_store_ps(stack[depth][t][h], f[t][h]);
    }
    ++depth;
  }
}

template <class F, int kBits>
struct QuantKernel {
  // Above kWholeTiles tokens at once the two halves of a tile go one after the other, for want of registers.
  static constexpr int kWholeTiles = 2;
  static constexpr int kMostTokens = kBits == 8 ? 4 : 3;
  template <int kTokens, int kHalves>
  static void Run(const GemmTask& task, const BlockPlace& place) {
    SumShards<kTokens, kHalves>(task, place, [&](int64_t b, __m256 (&f)[kTokens][kHalves]) __attribute__((always_inline)) {
      AddBlock<F, kTokens, kHalves, kBits>(task, place, b, f);
    });
  }
};

enum FloatKind { kFloat32, kFloat16, kBFloat16 };
template <int kKind>
struct FloatKernel {
  static constexpr int kWholeTiles = 4;
  static constexpr int kMostTokens = 4;
  static constexpr int kBytes = kKind == kFloat32 ? 4 : 2;
  static inline __m256 LoadWeights(const uint8_t* p) {
    if constexpr (kKind == kFloat32) return _mm256_loadu_ps(reinterpret_cast<const float*>(p));
    if constexpr (kKind == kFloat16) return Half8(p);
    if constexpr (kKind == kBFloat16) return BFloat8(p);
  }
  template <int kTokens, int kHalves>
  static void Run(const GemmTask& task, const BlockPlace& place) {
    const int64_t columns = task.blocks * 32;
    const float* input = task.input + place.token * columns;
    SumShards<kTokens, kHalves>(task, place, [&](int64_t b, __m256 (&f)[kTokens][kHalves]) __attribute__((always_inline)) {
      for (int64_t k = 32 * b; k < 32 * b + 32; ++k) {
#pragma GCC unroll 2
        for (int h = 0; h < kHalves; ++h) {
          const __m256 w = LoadWeights(place.tile + (k * 16 + 8 * (place.half + h)) * kBytes);
#pragma GCC unroll 8
          for (int t = 0; t < kTokens; ++t) f[t][h] = _mm256_fmadd_ps(w, _mm256_set1_ps(input[t * columns + k]), f[t][h]);
        }
      }
    });
  }
};

template <class Kernel, int kTokens>
void RunTile(const GemmTask& task, BlockPlace place) {
  if constexpr (kTokens <= Kernel::kWholeTiles) {
    Kernel::template Run<kTokens, 2>(task, place);
  } else {
    for (place.half = 0; place.half < 2; ++place.half) Kernel::template Run<kTokens, 1>(task, place);
  }
}

template <class Kernel>
void Gemm(const GemmTask& task) {
  for (int tile = 0; tile < task.tile_count; ++tile) {
    BlockPlace place;
    place.tile = task.tiles + tile * task.tile_bytes;
    place.rows = tile + 1 == task.tile_count ? task.last_rows : kTileRows;
    if (task.bias != nullptr) place.bias = task.bias + tile * 16;
    for (int64_t t = 0; t < task.tokens;) {
      place.token = task.first_token + t;
      place.out = task.out + tile * 16 + t * task.row_stride;
      const int64_t left = task.tokens - t;
      const int64_t parts = (left + Kernel::kMostTokens - 1) / Kernel::kMostTokens;
      const int64_t tokens = (left + parts - 1) / parts;
      switch (tokens) {
        case 1:
          RunTile<Kernel, 1>(task, place);
          break;
        case 2:
          RunTile<Kernel, 2>(task, place);
          break;
        case 3:
          RunTile<Kernel, 3>(task, place);
          break;
        default:
          if constexpr (Kernel::kMostTokens >= 4) RunTile<Kernel, 4>(task, place);
      }
      t += tokens;
    }
  }
}

int TilesAtOnce(int64_t) { return 1; }

template <class F>
void SetGemm(KernelTable& table, int format) {
  table.gemm[format][0] = Gemm<QuantKernel<F, 8>>;
  table.gemm[format][1] = Gemm<QuantKernel<F, 12>>;
}

KernelTable MakeTable() {
  KernelTable table;
  table.gemm[0][0] = Gemm<FloatKernel<kFloat32>>;
  table.gemm[1][0] = Gemm<FloatKernel<kFloat16>>;
  table.gemm[2][0] = Gemm<FloatKernel<kBFloat16>>;
  SetGemm<Format<NibbleQuants<0>, PlainScales<-8>, 0>>(table, 3);      // Q4_0
  SetGemm<Format<NibbleQuants<0>, MinScales, 0>>(table, 4);            // Q4_1
  SetGemm<Format<NibbleQuants<1>, PlainScales<-16>, 0>>(table, 5);     // Q5_0
  SetGemm<Format<NibbleQuants<1>, MinScales, 0>>(table, 6);            // Q5_1
  SetGemm<Format<ByteQuants, PlainScales<0>, 128>>(table, 7);          // Q8_0
  SetGemm<Format<NibbleQuants<0>, SuperMinScales<2>, 0>>(table, 8);    // Q2_K
  SetGemm<Format<NibbleQuants<0>, SuperSignedScales, 4>>(table, 9);    // Q3_K
  SetGemm<Format<NibbleQuants<0>, SuperMinScales<1>, 0>>(table, 10);   // Q4_K
  SetGemm<Format<NibbleQuants<1>, SuperMinScales<1>, 0>>(table, 11);   // Q5_K
  SetGemm<Format<NibbleQuants<2>, SuperSignedScales, 32>>(table, 12);  // Q6_K
  table.tiles_at_once = TilesAtOnce;
  SetRowKernels(table);
  return table;
}

}  // namespace

const KernelTable& Avx2Kernels() {
  static const KernelTable table = MakeTable();
  return table;
}

}  // namespace pagoda::kernels::cpu
