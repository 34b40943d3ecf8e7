#include "bench/kernels/roofs.h"

#include <immintrin.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <thread>
#include <vector>

namespace pagoda::bench {
namespace {

double Now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Runs body(thread) on all threads at the same moment, `rounds` times; the quickest round in seconds.
template <typename Body>
double Quickest(int threads, int rounds, Body body) {
  double best = 1e9;
  for (int round = 0; round < rounds; ++round) {
    std::atomic<int> ready{0};
    std::vector<double> begin(threads), end(threads);
    std::vector<std::thread> team;
    for (int i = 0; i < threads; ++i) {
      team.emplace_back([&, i] {
        ready.fetch_add(1);
        while (ready.load() < threads) _mm_pause();
        begin[i] = Now();
        body(i);
        end[i] = Now();
      });
    }
    for (std::thread& thread : team) thread.join();
    best = std::min(best, *std::max_element(end.begin(), end.end()) - *std::min_element(begin.begin(), begin.end()));
  }
  return best;
}

constexpr int kChains = 12;
constexpr int kTurns = 400000;

void VnniLoop() {
  __m512i sum[kChains];
  for (int i = 0; i < kChains; ++i) sum[i] = _mm512_set1_epi32(i);
  __m512i a = _mm512_set1_epi8(3), b = _mm512_set1_epi8(1);
  asm volatile("" : "+v"(a), "+v"(b));
  for (int turn = 0; turn < kTurns; ++turn) {
#pragma GCC unroll 12
    for (int i = 0; i < kChains; ++i) sum[i] = _mm512_dpbusd_epi32(sum[i], a, b);
  }
  for (int i = 0; i < kChains; ++i) asm volatile("" ::"v"(sum[i]));
}

void F32Loop() {
  __m512 sum[kChains];
  for (int i = 0; i < kChains; ++i) sum[i] = _mm512_set1_ps(1.0f);
  __m512 a = _mm512_set1_ps(0.5f), b = _mm512_set1_ps(1.0f);
  asm volatile("" : "+v"(a), "+v"(b));
  for (int turn = 0; turn < kTurns; ++turn) {
#pragma GCC unroll 12
    for (int i = 0; i < kChains; ++i) sum[i] = _mm512_fmadd_ps(sum[i], a, b);
  }
  for (int i = 0; i < kChains; ++i) asm volatile("" ::"v"(sum[i]));
}

}  // namespace

double MeasureF32(int threads) {
  if (!__builtin_cpu_supports("avx512f")) return 0;
  const double seconds = Quickest(threads, 8, [](int) { F32Loop(); });
  return 32.0 * kChains * kTurns * threads / seconds;
}

double MeasureVnni(int threads) {
  if (!__builtin_cpu_supports("avx512vnni")) return 0;
  const double seconds = Quickest(threads, 8, [](int) { VnniLoop(); });
  return 128.0 * kChains * kTurns * threads / seconds;
}

double MeasureRead(int threads, size_t bytes) {
  if (!__builtin_cpu_supports("avx512f")) return 0;
  const size_t size = (bytes + (2u << 20) - 1) & ~size_t{(2u << 20) - 1};
  auto* data = static_cast<uint8_t*>(std::aligned_alloc(2u << 20, size));
  madvise(data, size, MADV_HUGEPAGE);
  std::memset(data, 1, size);
  const double seconds = Quickest(threads, 8, [&](int thread) {
    const size_t begin = bytes / 4096 * thread / threads * 4096, end = bytes / 4096 * (thread + 1) / threads * 4096;
    __m512i x[8];
    for (auto& v : x) v = _mm512_setzero_si512();
    for (size_t at = begin; at < end; at += 512) {
#pragma GCC unroll 8
      for (int i = 0; i < 8; ++i) x[i] = _mm512_or_si512(x[i], _mm512_load_si512(data + at + 64 * i));
    }
    for (auto& v : x) asm volatile("" ::"v"(v));
  });
  std::free(data);
  return bytes / seconds;
}

}  // namespace pagoda::bench
