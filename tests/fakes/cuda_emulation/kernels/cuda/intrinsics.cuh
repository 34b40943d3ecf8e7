// The host twin of kernels/cuda/intrinsics.cuh: the same functions over emulated warps and blocks. Fragment layouts follow the
// PTX manual's tables for mma.m16n8k16 and m16n8k32.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "kernels/cpu/weight_blocks.h"
#include "tests/fakes/cuda_emulation/cuda_runtime.h"

namespace pagoda::kernels::cuda {

inline unsigned char* DynamicShared() { return cuda_emulation::Current().shared; }
inline void BlockSync() { cuda_emulation::SyncBlock(); }
inline void WarpSync() { cuda_emulation::SyncWarp(); }

inline float Fma(float a, float b, float c) { return std::fma(a, b, c); }
inline double FmaDouble(double a, double b, double c) { return std::fma(a, b, c); }
inline int NearestInt(float x) { return static_cast<int>(std::nearbyint(x)); }
inline double NearestDouble(double x) { return std::nearbyint(x); }
inline float SquareRoot(float x) { return std::sqrt(x); }
inline uint32_t FloatBits(float x) { return std::bit_cast<uint32_t>(x); }
inline float FloatOfBits(uint32_t x) { return std::bit_cast<float>(x); }
inline uint64_t DoubleBits(double x) { return std::bit_cast<uint64_t>(x); }
inline double DoubleOfBits(uint64_t x) { return std::bit_cast<double>(x); }

inline float HalfToFloat(uint16_t bits) { return cpu::HalfToFloat(bits); }
inline uint16_t FloatToHalf(float x) { return cpu::FloatToHalf(x > 65504.0f ? 65504.0f : (x < -65504.0f ? -65504.0f : x)); }
inline float BFloatToFloat(uint16_t bits) { return cpu::BFloatToFloat(bits); }
inline uint16_t FloatToBFloat(float x) { return cpu::FloatToBFloat(x); }
inline float Fp8ToFloat(uint8_t bits) {
  const int exponent = bits >> 3 & 15, mantissa = bits & 7;
  const float sign = (bits & 0x80) != 0 ? -1.0f : 1.0f;
  if (exponent == 15 && mantissa == 7) return NAN;
  if (exponent == 0) return sign * std::ldexp(static_cast<float>(mantissa), -9);
  return sign * std::ldexp(static_cast<float>(8 + mantissa), exponent - 10);
}
inline uint8_t FloatToFp8(float x) {
  if (std::isnan(x)) return 0x7f;
  const uint8_t sign = std::signbit(x) ? 0x80 : 0;
  const float magnitude = std::fmin(std::fabs(x), 448.0f);
  int best = 0;  // codes below 0x7f grow with their values
  while (best < 0x7e && Fp8ToFloat(static_cast<uint8_t>(best + 1)) <= magnitude) ++best;
  if (best < 0x7e) {
    const float low = Fp8ToFloat(static_cast<uint8_t>(best)), high = Fp8ToFloat(static_cast<uint8_t>(best + 1));
    const float middle = (low + high) / 2;
    if (magnitude > middle || (magnitude == middle && best % 2 == 1)) ++best;
  }
  return static_cast<uint8_t>(sign | best);
}

template <typename T>
T ShuffleXor(T value, int lanes) {
  cuda_emulation::MeetWarp(
      &value,
      [](void* const* all, const void* argument) {
        T old[32];
        const int x = *static_cast<const int*>(argument);
        for (int i = 0; i < 32; ++i) old[i] = *static_cast<T*>(all[i]);
        for (int i = 0; i < 32; ++i) *static_cast<T*>(all[i]) = old[i ^ x];
      },
      &lanes);
  return value;
}
template <typename T>
T Shuffle(T value, int lane) {
  struct Item {
    T value;
    int lane;
  } item{value, lane};
  cuda_emulation::MeetWarp(
      &item,
      [](void* const* all, const void*) {
        T old[32];
        for (int i = 0; i < 32; ++i) old[i] = static_cast<Item*>(all[i])->value;
        for (int i = 0; i < 32; ++i) static_cast<Item*>(all[i])->value = old[static_cast<Item*>(all[i])->lane & 31];
      },
      nullptr);
  return item.value;
}
inline uint32_t Ballot(bool value) {
  uint32_t word = value;
  cuda_emulation::MeetWarp(
      &word,
      [](void* const* all, const void*) {
        uint32_t result = 0;
        for (int i = 0; i < 32; ++i) result |= *static_cast<uint32_t*>(all[i]) << i;
        for (int i = 0; i < 32; ++i) *static_cast<uint32_t*>(all[i]) = result;
      },
      nullptr);
  return word;
}
inline bool AnyLane(bool value) { return Ballot(value) != 0; }
inline int CountBits(uint32_t x) { return std::popcount(x); }

inline int AtomicAdd(int* at, int value) { return __atomic_fetch_add(at, value, __ATOMIC_SEQ_CST); }
inline unsigned long long AtomicMax(unsigned long long* at, unsigned long long value) {
  const unsigned long long old = *at;
  if (value > old) *at = value;
  return old;
}
template <typename T>
T LoadCached(const T* at) {
  if (reinterpret_cast<uintptr_t>(at) % sizeof(T) != 0) cuda_emulation::Stop("a vector load that is not aligned");
  return *at;
}
inline uint32_t SubtractBytes(uint32_t a, uint32_t b) {
  uint32_t r = 0;
  for (int i = 0; i < 32; i += 8) r |= (((a >> i) - (b >> i)) & 0xff) << i;
  return r;
}

namespace emulated {

template <typename D, int kA, int kB>
struct Fragments {
  D* d;
  uint32_t a[kA];
  uint32_t b[kB];
};

// d[16][8] += a[16][k] b[k][8], element readers given; d goes back to its lanes.
template <typename D, int kA, int kB, int kDepth, typename ReadA, typename ReadB, typename Sum>
void Multiply(void* const* all, ReadA read_a, ReadB read_b, Sum) {
  using F = Fragments<D, kA, kB>;
  using Value = decltype(read_a(uint32_t{}, 0));
  Value a[16][kDepth], b[8][kDepth];
  constexpr int kPer = 4 / (kDepth == 16 && sizeof(D) == 4 && kA == 4 ? 2 : 1);  // elements of a word: 2 (16 bits) or 4
  for (int lane = 0; lane < 32; ++lane) {
    const F& f = *static_cast<F*>(all[lane]);
    const int g = lane / 4, t = lane % 4;
    for (int r = 0; r < kA; ++r) {
      const int row = g + (r % 2) * 8, k = r / 2 * (kPer * 4) + t * kPer;
      for (int j = 0; j < kPer; ++j) a[row][k + j] = read_a(f.a[r], j);
    }
    for (int r = 0; r < kB; ++r) {
      for (int j = 0; j < kPer; ++j) b[g][r * (kPer * 4) + t * kPer + j] = read_b(f.b[r], j);
    }
  }
  for (int lane = 0; lane < 32; ++lane) {
    const F& f = *static_cast<F*>(all[lane]);
    const int g = lane / 4, t = lane % 4;
    for (int i = 0; i < 4; ++i) {
      const int row = g + i / 2 * 8, column = 2 * t + i % 2;
      Sum sum = static_cast<Sum>(f.d[i]);
      for (int k = 0; k < kDepth; ++k) sum += static_cast<Sum>(a[row][k]) * static_cast<Sum>(b[column][k]);
      f.d[i] = static_cast<D>(sum);
    }
  }
}
inline int Signed(uint32_t word, int j) { return static_cast<int8_t>(word >> (8 * j)); }
inline int Unsigned(uint32_t word, int j) { return static_cast<uint8_t>(word >> (8 * j)); }
inline float Half(uint32_t word, int j) { return cpu::HalfToFloat(static_cast<uint16_t>(word >> (16 * j))); }
inline float BFloat(uint32_t word, int j) { return cpu::BFloatToFloat(static_cast<uint16_t>(word >> (16 * j))); }

}  // namespace emulated

#define PAGODA_EMULATED_K32(name, read)                                                                       \
  inline void name(int32_t (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {                         \
    emulated::Fragments<int32_t, 4, 2> f{d, {a[0], a[1], a[2], a[3]}, {b[0], b[1]}};                          \
    cuda_emulation::MeetWarp(                                                                                 \
        &f,                                                                                                   \
        [](void* const* all, const void*) {                                                                   \
          emulated::Multiply<int32_t, 4, 2, 32>(all, emulated::read, emulated::Signed, int32_t{});            \
        },                                                                                                    \
        nullptr);                                                                                             \
  }
PAGODA_EMULATED_K32(MmaS8, Signed)
PAGODA_EMULATED_K32(MmaU8, Unsigned)
#undef PAGODA_EMULATED_K32
#define PAGODA_EMULATED_K16(name, read)                                                                       \
  inline void name(int32_t (&d)[4], uint32_t a0, uint32_t a1, uint32_t b) {                                   \
    emulated::Fragments<int32_t, 2, 1> f{d, {a0, a1}, {b}};                                                   \
    cuda_emulation::MeetWarp(                                                                                 \
        &f,                                                                                                   \
        [](void* const* all, const void*) {                                                                   \
          emulated::Multiply<int32_t, 2, 1, 16>(all, emulated::read, emulated::Signed, int32_t{});            \
        },                                                                                                    \
        nullptr);                                                                                             \
  }
PAGODA_EMULATED_K16(MmaS8Half, Signed)
PAGODA_EMULATED_K16(MmaU8Half, Unsigned)
#undef PAGODA_EMULATED_K16
#define PAGODA_EMULATED_FLOAT(name, read)                                                                     \
  inline void name(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {                         \
    emulated::Fragments<float, 4, 2> f{d, {a[0], a[1], a[2], a[3]}, {b0, b1}};                                \
    cuda_emulation::MeetWarp(                                                                                 \
        &f,                                                                                                   \
        [](void* const* all, const void*) {                                                                   \
          emulated::Multiply<float, 4, 2, 16>(all, emulated::read, emulated::read, double{});                 \
        },                                                                                                    \
        nullptr);                                                                                             \
  }
PAGODA_EMULATED_FLOAT(MmaF16, Half)
PAGODA_EMULATED_FLOAT(MmaBF16, BFloat)
#undef PAGODA_EMULATED_FLOAT

// wgmma, warp by warp: a warp's 16 rows depend on no other's. The descriptor's fields as in the PTX manual, no swizzle.
inline uint64_t SharedMatrix(const void* shared, uint32_t depth_bytes, uint32_t column_bytes) {
  const auto offset = static_cast<uint64_t>(static_cast<const unsigned char*>(shared) - cuda_emulation::Current().shared);
  if (offset % 16 != 0 || offset >> 18 != 0) cuda_emulation::Stop("a matrix in shared memory at an address that wgmma cannot name");
  return offset >> 4 | static_cast<uint64_t>(depth_bytes >> 4) << 16 | static_cast<uint64_t>(column_bytes >> 4) << 32;
}
namespace emulated {
struct WarpgroupLane {
  float* d;
  const uint32_t* a;
  uint64_t b;
  const unsigned char* shared;
};
template <typename Read>
void MultiplyWarpgroup(void* const* all, Read read) {
  const WarpgroupLane& first = *static_cast<WarpgroupLane*>(all[0]);
  const unsigned char* base = first.shared + ((first.b & 0x3fff) << 4);
  const uint64_t depth_bytes = (first.b >> 16 & 0x3fff) << 4, column_bytes = (first.b >> 32 & 0x3fff) << 4;
  float a[16][16], b[128][16];
  for (int lane = 0; lane < 32; ++lane) {
    const WarpgroupLane& f = *static_cast<WarpgroupLane*>(all[lane]);
    if (f.b != first.b) cuda_emulation::Stop("lanes name different matrices");
    for (int r = 0; r < 4; ++r) {
      for (int j = 0; j < 2; ++j) a[lane / 4 + r % 2 * 8][r / 2 * 8 + lane % 4 * 2 + j] = read(f.a[r], j);
    }
  }
  for (uint64_t n = 0; n < 128; ++n) {
    for (uint64_t k = 0; k < 16; ++k) {
      uint16_t bits = 0;
      std::memcpy(&bits, base + n / 8 * column_bytes + k / 8 * depth_bytes + n % 8 * 16 + k % 8 * 2, 2);
      b[n][k] = read(bits, 0);
    }
  }
  for (int lane = 0; lane < 32; ++lane) {
    const WarpgroupLane& f = *static_cast<WarpgroupLane*>(all[lane]);
    for (int i = 0; i < 64; ++i) {
      const int row = lane / 4 + i % 4 / 2 * 8, column = i / 4 * 8 + lane % 4 * 2 + i % 2;
      double sum = static_cast<double>(f.d[i]);
      for (int k = 0; k < 16; ++k) sum += static_cast<double>(a[row][k]) * static_cast<double>(b[column][k]);
      f.d[i] = static_cast<float>(sum);
    }
  }
}
}  // namespace emulated
#define PAGODA_EMULATED_WARPGROUP(name, reader)                                                               \
  inline void name(float (&d)[64], const uint32_t (&a)[4], uint64_t b) {                                      \
    emulated::WarpgroupLane lane{d, a, b, cuda_emulation::Current().shared};                                  \
    cuda_emulation::MeetWarp(                                                                                 \
        &lane, [](void* const* all, const void*) { emulated::MultiplyWarpgroup(all, emulated::reader); }, nullptr); \
  }
PAGODA_EMULATED_WARPGROUP(WarpgroupF16, Half)
PAGODA_EMULATED_WARPGROUP(WarpgroupBF16, BFloat)
#undef PAGODA_EMULATED_WARPGROUP
inline void WarpgroupBegin() {}
inline void WarpgroupEnd() {}

// A barrier word: bit 63 initialised, bit 0 the parity of the phase in progress, bits 1..40 bytes still to come, bit 62: expected.
inline void BarrierInit(uint64_t* barrier) { *barrier = uint64_t{1} << 63; }
inline void CheckBarrier(const uint64_t* barrier) {
  if ((*barrier >> 63) == 0 || *barrier == ~uint64_t{0}) cuda_emulation::Stop("a barrier was not initialised");
}
inline void BarrierExpect(uint64_t* barrier, uint32_t bytes) {
  CheckBarrier(barrier);
  if ((*barrier >> 62 & 1) != 0) cuda_emulation::Stop("a barrier's phase was begun twice");
  *barrier += (uint64_t{bytes} << 1) + (uint64_t{1} << 62);
}
inline void BulkCopy(void* shared, const void* global, uint32_t bytes, uint64_t* barrier) {
  const auto bits = reinterpret_cast<uintptr_t>(shared) | reinterpret_cast<uintptr_t>(global) | bytes;
  if (bits % 16 != 0) cuda_emulation::Stop("a bulk copy that is not of multiples of 16 bytes");
  if ((*barrier >> 62 & 1) == 0) cuda_emulation::Stop("a bulk copy on a barrier that expects none");
  std::memcpy(shared, global, bytes);
  *barrier -= uint64_t{bytes} << 1;
  if ((*barrier >> 1 & ((uint64_t{1} << 40) - 1)) != 0) return;
  *barrier = (*barrier ^ 1) & ~(uint64_t{1} << 62);  // the phase is complete
}
inline void BarrierCommit(uint64_t* barrier) { CheckBarrier(barrier); }
inline void BarrierWait(uint64_t* barrier, uint32_t parity) {
  CheckBarrier(barrier);
  while ((*barrier & 1) == parity) cuda_emulation::Yield();
}

inline void FollowPrevious() {}
inline void StoreRelease(uint32_t* at, uint32_t value) { __atomic_store_n(at, value, __ATOMIC_RELEASE); }
inline uint32_t LoadAcquire(const uint32_t* at) { return __atomic_load_n(at, __ATOMIC_ACQUIRE); }
inline void Pause() { cuda_emulation::Yield(); }
inline unsigned long long ClockNs() { return 0; }

}  // namespace pagoda::kernels::cuda
