// Vectors of 16 floats and the reading of packed blocks with AVX-512. Included by the AVX-512 and AMX files inside their own
// anonymous namespaces, after <immintrin.h> and kernel_table.h; no includes here, and nothing may leak out.

using V16 = __m512;
using I16 = __m512i;
using M16 = __mmask16;

inline V16 Load(const float* p) { return _mm512_loadu_ps(p); }
inline void Store(float* p, V16 v) { _mm512_storeu_ps(p, v); }
inline V16 Set1(float x) { return _mm512_set1_ps(x); }
inline V16 Zero() { return _mm512_setzero_ps(); }
inline V16 Add(V16 a, V16 b) { return _mm512_add_ps(a, b); }
inline V16 Sub(V16 a, V16 b) { return _mm512_sub_ps(a, b); }
inline V16 Mul(V16 a, V16 b) { return _mm512_mul_ps(a, b); }
inline V16 Div(V16 a, V16 b) { return _mm512_div_ps(a, b); }
inline V16 Fma(V16 a, V16 b, V16 c) { return _mm512_fmadd_ps(a, b, c); }
inline V16 Fnma(V16 a, V16 b, V16 c) { return _mm512_fnmadd_ps(a, b, c); }
inline V16 Xor(V16 a, V16 b) { return _mm512_xor_ps(a, b); }
inline M16 Less(V16 a, V16 b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
inline V16 Select(M16 mask, V16 yes, V16 no) { return _mm512_mask_blend_ps(mask, no, yes); }
inline M16 LaneRange(int begin, int end) {
  return static_cast<M16>((1u << end) - 1u) & static_cast<M16>(~((1u << begin) - 1u));
}
inline float MaxLanes(V16 v) { return _mm512_reduce_max_ps(v); }
// Lanes 8 apart, then 4, 2, 1 apart.
inline float AddLanes(V16 v) {
  const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
  __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  four = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(four, _mm_shuffle_ps(four, four, 1)));
}
// Sixteen rows of sixteen floats, each reduced in the order of AddLanes: halves of two rows are put side by side and combined
// at once, then quarters, pairs, single lanes; the last step puts the rows in order.
template <class Combine>
inline V16 ReduceEach(const float* rows, Combine combine) {
  V16 t[8], u[4];
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    const V16 x = Load(rows + 16 * i), y = Load(rows + 16 * (i + 8));
    t[i] = combine(_mm512_shuffle_f32x4(x, y, 0x44), _mm512_shuffle_f32x4(x, y, 0xee));
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    u[i] = combine(_mm512_shuffle_f32x4(t[i], t[i + 4], 0x88), _mm512_shuffle_f32x4(t[i], t[i + 4], 0xdd));
  }
  const V16 w0 = combine(_mm512_shuffle_ps(u[0], u[2], 0x44), _mm512_shuffle_ps(u[0], u[2], 0xee));
  const V16 w1 = combine(_mm512_shuffle_ps(u[1], u[3], 0x44), _mm512_shuffle_ps(u[1], u[3], 0xee));
  const V16 z = combine(_mm512_shuffle_ps(w0, w1, 0x88), _mm512_shuffle_ps(w0, w1, 0xdd));
  return _mm512_permutexvar_ps(_mm512_setr_epi32(0, 2, 1, 3, 8, 10, 9, 11, 4, 6, 5, 7, 12, 14, 13, 15), z);
}
inline V16 AddOfEach(const float* rows) {
  return ReduceEach(rows, [](V16 a, V16 b) { return _mm512_add_ps(a, b); });
}
inline V16 MaxOfEach(const float* rows) {
  return ReduceEach(rows, [](V16 a, V16 b) { return _mm512_max_ps(a, b); });
}
inline V16 ExpPower(V16 t) {
  const I16 shifted = _mm512_slli_epi32(_mm512_castps_si512(t), 23);
  return _mm512_castsi512_ps(_mm512_add_epi32(shifted, _mm512_set1_epi32(0x3f000000)));
}
inline V16 LoadHalf(const void* p) { return _mm512_cvtph_ps(_mm256_loadu_si256(static_cast<const __m256i*>(p))); }
inline void StoreHalf(void* p, V16 v) {
  _mm256_storeu_si256(static_cast<__m256i*>(p), _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
inline V16 LoadBFloat(const void* p) {
  const I16 wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(static_cast<const __m256i*>(p)));
  return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}
inline void StoreBFloat(void* p, V16 v) {
  const I16 bits = _mm512_castps_si512(v);
  const I16 odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const I16 rounded = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
  const I16 quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x400000));
  const M16 is_nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
  const I16 result = _mm512_srli_epi32(_mm512_mask_blend_epi32(is_nan, rounded, quiet), 16);
  _mm256_storeu_si256(static_cast<__m256i*>(p), _mm512_cvtepi32_epi16(result));
}
inline V16 LoadInt8(const int8_t* p) {
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
}
inline I16 ZeroInt() { return _mm512_setzero_si512(); }
inline I16 RoundToInt(V16 v) { return _mm512_cvtps_epi32(v); }
inline V16 ToFloat(I16 v) { return _mm512_cvtepi32_ps(v); }
// Of magnitudes.
inline bool AllFinite(V16 v) { return _mm512_cmp_ps_mask(v, _mm512_set1_ps(__builtin_inff()), _CMP_NLT_UQ) == 0; }
inline void StoreInt8(int8_t* p, I16 v) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(v));
}
// The parts of 12-bit values: high here, low 32 bytes on.
inline void StoreInt12(int8_t* p, I16 v) {
  I16 high = _mm512_srai_epi32(_mm512_add_epi32(v, _mm512_set1_epi32(8)), 4);
  high = _mm512_max_epi32(_mm512_min_epi32(high, _mm512_set1_epi32(127)), _mm512_set1_epi32(-127));
  StoreInt8(p, high);
  StoreInt8(p + 32, _mm512_sub_epi32(v, _mm512_slli_epi32(high, 4)));
}
inline int32_t SumInt(I16 v) { return _mm512_reduce_add_epi32(v); }
// The larger |x| of each lane as bits, so that infinities and NaNs win.
inline V16 MaxMagnitude(V16 a, V16 b) {
  const I16 mask = _mm512_set1_epi32(0x7fffffff);
  return _mm512_castsi512_ps(_mm512_max_epi32(_mm512_and_si512(_mm512_castps_si512(a), mask),
                                              _mm512_and_si512(_mm512_castps_si512(b), mask)));
}
inline float TopMagnitude(V16 a, V16 b) {
  const int32_t top = _mm512_reduce_max_epi32(_mm512_castps_si512(MaxMagnitude(a, b)));
  float value;
  __builtin_memcpy(&value, &top, 4);
  return value;
}

// ---- Weights ----

// How far ahead of its reading a weight is asked for, into the second-level cache: tiles are read a few at a time, which the
// processor's own prefetchers follow badly (bench/kernels: 1.4 to 1.7 times at 1 to 8 tokens on Zen 4; 24 to 64 KiB are alike).
constexpr int64_t kPrefetchBytes = 32 << 10;

// Always inlined: gcc drops calls of a function that only prefetches.
template <int kBytes>
inline __attribute__((always_inline)) void PrefetchAhead(const uint8_t* p) {
#pragma GCC unroll 32
  for (int i = 0; i < kBytes; i += 64) {
    _mm_prefetch(reinterpret_cast<const char*>(p + kPrefetchBytes + i), _MM_HINT_T1);
  }
}

// How one format's packed block is read. LoadPair gives columns 8g..8g+3 and 8g+4..8g+7 as unsigned bytes.
template <int kExtraBits>
struct NibbleQuants {
  static constexpr int kQuantBytes = 256 + 64 * kExtraBits;
  static inline void LoadPair(const uint8_t* q, int g, __m512i& w0, __m512i& w1) {
    const __m512i low = _mm512_set1_epi8(15);
    const __m512i pairs = _mm512_loadu_si512(q + 64 * g);
    w0 = _mm512_and_si512(pairs, low);
    w1 = _mm512_and_si512(_mm512_srli_epi16(pairs, 4), low);
    if constexpr (kExtraBits == 1) {
      uint64_t bits[2];
      __builtin_memcpy(bits, q + 256 + 16 * g, 16);
      const __m512i fifth = _mm512_set1_epi8(16);
      w0 = _mm512_mask_add_epi8(w0, bits[0], w0, fifth);
      w1 = _mm512_mask_add_epi8(w1, bits[1], w1, fifth);
    } else if constexpr (kExtraBits == 2) {
      const __m512i mask = _mm512_set1_epi8(0x30);
      const __m512i high = _mm512_loadu_si512(q + 256 + 64 * (g / 2));
      if (g % 2 == 0) {
        w0 = _mm512_or_si512(w0, _mm512_and_si512(_mm512_slli_epi16(high, 4), mask));
        w1 = _mm512_or_si512(w1, _mm512_and_si512(_mm512_slli_epi16(high, 2), mask));
      } else {
        w0 = _mm512_or_si512(w0, _mm512_and_si512(high, mask));
        w1 = _mm512_or_si512(w1, _mm512_and_si512(_mm512_srli_epi16(high, 2), mask));
      }
    }
  }
};
struct ByteQuants {
  static constexpr int kQuantBytes = 512;
  static inline void LoadPair(const uint8_t* q, int g, __m512i& w0, __m512i& w1) {
    w0 = _mm512_loadu_si512(q + 128 * g);
    w1 = _mm512_loadu_si512(q + 128 * g + 64);
  }
};

// Scales of block b of the tile. `sub` counts sub-blocks of 16 where there are two.
template <int kMinFactor>
struct PlainScales {
  static constexpr int kSubs = 1;
  static constexpr int kBytes = 32;  // per block
  static constexpr bool kHasMin = kMinFactor != 0;
  static inline void Get(const GemmTask& task, const uint8_t* tile, int64_t b, int, __m512& d, __m512& m) {
    d = LoadHalf(tile + task.scales_at + b * 32);
    if constexpr (kHasMin) m = Mul(Set1(static_cast<float>(kMinFactor)), d);
  }
};
struct MinScales {
  static constexpr int kSubs = 1;
  static constexpr int kBytes = 64;
  static constexpr bool kHasMin = true;
  static inline void Get(const GemmTask& task, const uint8_t* tile, int64_t b, int, __m512& d, __m512& m) {
    d = LoadHalf(tile + task.scales_at + b * 64);
    m = LoadHalf(tile + task.scales_at + b * 64 + 32);
  }
};
inline __m512 UnsignedBytes(const uint8_t* p) {
  return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
}
template <int kSubBlocks>
struct SuperMinScales {
  static constexpr int kSubs = kSubBlocks;
  static constexpr int kBytes = 32 * kSubBlocks;
  static constexpr bool kHasMin = true;
  static inline void Get(const GemmTask& task, const uint8_t* tile, int64_t b, int sub, __m512& d, __m512& m) {
    const uint8_t* scales = tile + task.scales_at + b * 32 * kSubBlocks;
    const uint8_t* super = tile + task.supers_at + (b + task.super_phase) / 8 * 64;
    d = Mul(LoadHalf(super), UnsignedBytes(scales + 16 * sub));
    m = Xor(Mul(LoadHalf(super + 32), UnsignedBytes(scales + 16 * (kSubBlocks + sub))), Set1(-0.0f));
  }
};
struct SuperSignedScales {
  static constexpr int kSubs = 2;
  static constexpr int kBytes = 32;
  static constexpr bool kHasMin = false;
  static inline void Get(const GemmTask& task, const uint8_t* tile, int64_t b, int sub, __m512& d, __m512&) {
    const uint8_t* scales = tile + task.scales_at + b * 32;
    const uint8_t* super = tile + task.supers_at + (b + task.super_phase) / 8 * 32;
    d = Mul(LoadHalf(super), LoadInt8(reinterpret_cast<const int8_t*>(scales + 16 * sub)));
  }
};

template <int kFormatValue, class QuantsT, class ScalesT, int kOffsetValue>
struct Format {
  using Quants = QuantsT;
  using Scales = ScalesT;
  static constexpr int kFormat = kFormatValue;  // of WeightFormat
  static constexpr int kOffset = kOffsetValue;
};
using FormatQ4_0 = Format<3, NibbleQuants<0>, PlainScales<-8>, 0>;
using FormatQ4_1 = Format<4, NibbleQuants<0>, MinScales, 0>;
using FormatQ5_0 = Format<5, NibbleQuants<1>, PlainScales<-16>, 0>;
using FormatQ5_1 = Format<6, NibbleQuants<1>, MinScales, 0>;
using FormatQ8_0 = Format<7, ByteQuants, PlainScales<0>, 128>;
using FormatQ2_K = Format<8, NibbleQuants<0>, SuperMinScales<2>, 0>;
using FormatQ3_K = Format<9, NibbleQuants<0>, SuperSignedScales, 4>;
using FormatQ4_K = Format<10, NibbleQuants<0>, SuperMinScales<1>, 0>;
using FormatQ5_K = Format<11, NibbleQuants<1>, SuperMinScales<1>, 0>;
using FormatQ6_K = Format<12, NibbleQuants<2>, SuperSignedScales, 32>;
