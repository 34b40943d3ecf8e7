// AVX-512 with VNNI. This file alone is built with those machine flags: everything in it is in an anonymous namespace, and
// it uses no library templates, so that the linker can never pick its code for another machine.
#include <immintrin.h>

#include <cstdint>

#include "kernels/cpu/exp.h"
#include "kernels/cpu/kernel_table.h"

namespace pagoda::kernels::cpu {
namespace {

#include "kernels/cpu/avx512_vectors.h"

constexpr int kQkVectors = 12;
constexpr int kPvVectors = 6;
constexpr int kDirectVectors = 6;
constexpr int kPvDims = 4;
constexpr int kTogetherVectors = 3;

#include "kernels/cpu/row_kernels.h"

#include "kernels/cpu/attention_kernels.h"

// ---- Matrix products ----

// A register block: kTokens tokens by kTiles tiles.
struct BlockPlace {
  const uint8_t* tile = nullptr;  // the first of the block
  int64_t token = 0;              // of the input
  float* out = nullptr;
  const float* bias = nullptr;
  __mmask16 last_mask = 0xffff;  // rows of the block's last tile
  bool first_pass = true;  // over these weights: later ones find them in the cache
};

inline __m512i Broadcast4(const int8_t* p) {
  int32_t four;
  __builtin_memcpy(&four, p, 4);
  return _mm512_set1_epi32(four);
}

// Adds block b to f.
template <class F, int kTokens, int kTiles, int kBits>
inline __attribute__((always_inline)) void AddBlock(const GemmTask& task, const BlockPlace& place, int64_t b,
                                                    __m512 (&f)[kTokens][kTiles]) {
  using Quants = typename F::Quants;
  using Scales = typename F::Scales;
  constexpr int kPairs = 4 / Scales::kSubs;
  constexpr int kQuantBlockBytes = kBits == 8 ? 32 : 64;
  const QuantRows& quant = *task.quant;
  const int64_t blocks = task.blocks;
  const int8_t* input = quant.q + (place.token * blocks + b) * kQuantBlockBytes;
  const int64_t input_stride = blocks * kQuantBlockBytes;
  const int64_t at = place.token * blocks + b;
  if (place.first_pass) {
#pragma GCC unroll 8
    for (int r = 0; r < kTiles; ++r) {
      const uint8_t* tile = place.tile + r * task.tile_bytes;
      PrefetchAhead<Quants::kQuantBytes>(tile + b * Quants::kQuantBytes);
      PrefetchAhead<Scales::kBytes>(tile + task.scales_at + b * Scales::kBytes);
    }
  }
#pragma GCC unroll 2
  for (int sub = 0; sub < Scales::kSubs; ++sub) {
    __m512i sum[kTokens][kTiles], low_sum[kTokens][kTiles];
#pragma GCC unroll 8
    for (int t = 0; t < kTokens; ++t) {
      __m512i start = _mm512_setzero_si512();
      if constexpr (F::kOffset != 0) {
        const int64_t index = at + t * blocks;
        const int32_t total = Scales::kSubs == 1 ? quant.total[index] : quant.half_total[2 * index + sub];
        start = _mm512_set1_epi32(-F::kOffset * total);
      }
#pragma GCC unroll 8
      for (int r = 0; r < kTiles; ++r) {
        sum[t][r] = kBits == 8 ? start : _mm512_setzero_si512();
        low_sum[t][r] = start;
      }
    }
#pragma GCC unroll 4
    for (int g = sub * kPairs; g < (sub + 1) * kPairs; ++g) {
      __m512i w0[kTiles], w1[kTiles];
#pragma GCC unroll 8
      for (int r = 0; r < kTiles; ++r) {
        Quants::LoadPair(place.tile + r * task.tile_bytes + b * Quants::kQuantBytes, g, w0[r], w1[r]);
      }
#pragma GCC unroll 8
      for (int t = 0; t < kTokens; ++t) {
        const int8_t* q = input + t * input_stride + 8 * g;
        const __m512i a0 = Broadcast4(q), a1 = Broadcast4(q + 4);
#pragma GCC unroll 8
        for (int r = 0; r < kTiles; ++r) {
          sum[t][r] = _mm512_dpbusd_epi32(sum[t][r], w0[r], a0);
          sum[t][r] = _mm512_dpbusd_epi32(sum[t][r], w1[r], a1);
        }
        if constexpr (kBits == 12) {
          const __m512i low0 = Broadcast4(q + 32), low1 = Broadcast4(q + 36);
#pragma GCC unroll 8
          for (int r = 0; r < kTiles; ++r) {
            low_sum[t][r] = _mm512_dpbusd_epi32(low_sum[t][r], w0[r], low0);
            low_sum[t][r] = _mm512_dpbusd_epi32(low_sum[t][r], w1[r], low1);
          }
        }
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < kTiles; ++r) {
      __m512 d, m = _mm512_setzero_ps();
      Scales::Get(task, place.tile + r * task.tile_bytes, b, sub, d, m);
#pragma GCC unroll 8
      for (int t = 0; t < kTokens; ++t) {
        const int64_t index = at + t * blocks;
        __m512i total = sum[t][r];
        if constexpr (kBits == 12) total = _mm512_add_epi32(_mm512_slli_epi32(total, 4), low_sum[t][r]);
        const __m512 scale = Set1(quant.scale[index]);
        f[t][r] = Fma(Mul(d, scale), _mm512_cvtepi32_ps(total), f[t][r]);
        if constexpr (Scales::kHasMin) {
          const float x = Scales::kSubs == 1 ? quant.sum[index] : quant.half_sum[2 * index + sub];
          f[t][r] = Fma(m, Set1(x), f[t][r]);
        }
      }
    }
  }
}

template <int kTokens, int kTiles>
inline void WriteOut(const GemmTask& task, const BlockPlace& place, int plane, const __m512 (&f)[kTokens][kTiles]) {
#pragma GCC unroll 8
  for (int t = 0; t < kTokens; ++t) {
    float* out = place.out + plane * task.plane_stride + t * task.row_stride;
#pragma GCC unroll 8
    for (int r = 0; r < kTiles; ++r) {
      __m512 value = f[t][r];
      if (place.bias != nullptr) value = Add(value, Load(place.bias + 16 * r));
      _mm512_mask_storeu_ps(out + 16 * r, r + 1 == kTiles ? place.last_mask : 0xffff, value);
    }
  }
}

// Runs `add(block, f)` over all shards and adds them up as the steps say.
template <int kTokens, int kTiles, class AddFunction>
inline __attribute__((always_inline)) void SumShards(const GemmTask& task, const BlockPlace& place, AddFunction add) {
  alignas(64) float stack[kMaxTreeDepth][kTokens][kTiles][16];
  int depth = 0;
  int64_t b = 0;
  for (int i = 0; i < task.step_count; ++i) {
    const ShardStep step = task.steps[i];
    __m512 f[kTokens][kTiles];
#pragma GCC unroll 8
    for (int t = 0; t < kTokens; ++t) {
#pragma GCC unroll 8
      for (int r = 0; r < kTiles; ++r) f[t][r] = _mm512_setzero_ps();
    }
    for (; b < step.end_block; ++b) add(b, f);
    for (int a = 0; a < step.adds; ++a) {
      --depth;
#pragma GCC unroll 8
      for (int t = 0; t < kTokens; ++t) {
#pragma GCC unroll 8
        for (int r = 0; r < kTiles; ++r) f[t][r] = Add(Load(stack[depth][t][r]), f[t][r]);
      }
    }
    if (step.plane >= 0) {
      WriteOut<kTokens, kTiles>(task, place, step.plane, f);
      continue;
    }
#pragma GCC unroll 8
    for (int t = 0; t < kTokens; ++t) {
#pragma GCC unroll 8
      for (int r = 0; r < kTiles; ++r) Store(stack[depth][t][r], f[t][r]);
    }
    ++depth;
  }
}

template <class F, int kBits>
struct QuantKernel {
  // The largest register block that does not spill: measured by bench/kernels.
  static constexpr int kMostTokens = kBits == 8 ? 6 : 4;
  template <int kTokens, int kTiles>
  static void Run(const GemmTask& task, const BlockPlace& place) {
    SumShards<kTokens, kTiles>(task, place, [&](int64_t b, __m512 (&f)[kTokens][kTiles]) __attribute__((always_inline)) {
      AddBlock<F, kTokens, kTiles, kBits>(task, place, b, f);
    });
  }
};

enum FloatKind { kFloat32, kFloat16, kBFloat16 };
template <int kKind>
struct FloatKernel {
  static constexpr int kMostTokens = 6;
  static constexpr int kBytes = kKind == kFloat32 ? 4 : 2;
  static inline __m512 LoadWeights(const uint8_t* p) {
    if constexpr (kKind == kFloat32) return Load(reinterpret_cast<const float*>(p));
    if constexpr (kKind == kFloat16) return LoadHalf(p);
    if constexpr (kKind == kBFloat16) return LoadBFloat(p);
  }
  template <int kTokens, int kTiles>
  static void Run(const GemmTask& task, const BlockPlace& place) {
    const int64_t columns = task.blocks * 32;
    const float* input = task.input + place.token * columns;
    SumShards<kTokens, kTiles>(task, place, [&](int64_t b, __m512 (&f)[kTokens][kTiles]) __attribute__((always_inline)) {
      for (int64_t k = 32 * b; k < 32 * b + 32; ++k) {
        __m512 w[kTiles];
#pragma GCC unroll 8
        for (int r = 0; r < kTiles; ++r) {
          const uint8_t* weights = place.tile + r * task.tile_bytes + k * 16 * kBytes;
          PrefetchAhead<1>(weights);
          w[r] = LoadWeights(weights);
        }
#pragma GCC unroll 8
        for (int t = 0; t < kTokens; ++t) {
          const __m512 x = Set1(input[t * columns + k]);
#pragma GCC unroll 8
          for (int r = 0; r < kTiles; ++r) f[t][r] = Fma(w[r], x, f[t][r]);
        }
      }
    });
  }
};

// kTiles tiles, all tokens of the task.
template <class Kernel, int kTiles, int kMost>
void AllTokens(const GemmTask& task, int first_tile) {
  BlockPlace place;
  place.tile = task.tiles + first_tile * task.tile_bytes;
  if (task.bias != nullptr) place.bias = task.bias + first_tile * 16;
  if (first_tile + kTiles == task.tile_count) place.last_mask = static_cast<__mmask16>((1u << task.last_rows) - 1);
  for (int64_t t = 0; t < task.tokens;) {
    place.token = task.first_token + t;
    place.first_pass = t == 0;
    place.out = task.out + first_tile * 16 + t * task.row_stride;
    // Equal parts: 7 tokens go as 4 + 3, not as 6 + 1.
    const int64_t left = task.tokens - t;
    const int64_t parts = (left + kMost - 1) / kMost;
    const int64_t tokens = (left + parts - 1) / parts;
    switch (tokens) {
      case 1:
        Kernel::template Run<1, kTiles>(task, place);
        break;
      case 2:
        Kernel::template Run<2, kTiles>(task, place);
        break;
      case 3:
        if constexpr (kMost >= 3) Kernel::template Run<3, kTiles>(task, place);
        break;
      case 4:
        if constexpr (kMost >= 4) Kernel::template Run<4, kTiles>(task, place);
        break;
      case 5:
        if constexpr (kMost >= 5) Kernel::template Run<5, kTiles>(task, place);
        break;
      default:
        if constexpr (kMost >= 6) Kernel::template Run<6, kTiles>(task, place);
    }
    t += tokens;
  }
}

constexpr int kFewTokens = 2;

template <class Kernel>
void Gemm(const GemmTask& task) {
  int tile = 0;
  while (tile < task.tile_count) {
    const int left = task.tile_count - tile;
    const int most = task.tokens <= kFewTokens ? 4 : 2;
    const int parts = (left + most - 1) / most;
    const int tiles = (left + parts - 1) / parts;
    if (tiles == 4) {
      AllTokens<Kernel, 4, kFewTokens>(task, tile);
    } else if (tiles == 3) {
      AllTokens<Kernel, 3, kFewTokens>(task, tile);
    } else if (tiles == 2) {
      AllTokens<Kernel, 2, Kernel::kMostTokens>(task, tile);
    } else {
      AllTokens<Kernel, 1, Kernel::kMostTokens>(task, tile);
    }
    tile += tiles;
  }
}

int TilesAtOnce(int64_t tokens) { return tokens <= kFewTokens ? 1 : 2; }

template <class F>
void SetGemm(KernelTable& table) {
  table.gemm[F::kFormat][0] = Gemm<QuantKernel<F, 8>>;
  table.gemm[F::kFormat][1] = Gemm<QuantKernel<F, 12>>;
}

KernelTable MakeTable() {
  KernelTable table;
  table.gemm[0][0] = Gemm<FloatKernel<kFloat32>>;
  table.gemm[1][0] = Gemm<FloatKernel<kFloat16>>;
  table.gemm[2][0] = Gemm<FloatKernel<kBFloat16>>;
  SetGemm<FormatQ4_0>(table);
  SetGemm<FormatQ4_1>(table);
  SetGemm<FormatQ5_0>(table);
  SetGemm<FormatQ5_1>(table);
  SetGemm<FormatQ8_0>(table);
  SetGemm<FormatQ2_K>(table);
  SetGemm<FormatQ3_K>(table);
  SetGemm<FormatQ4_K>(table);
  SetGemm<FormatQ5_K>(table);
  SetGemm<FormatQ6_K>(table);
  table.tiles_at_once = TilesAtOnce;
  SetRowKernels(table);
  return table;
}

}  // namespace

const KernelTable& Avx512Kernels() {
  static const KernelTable table = MakeTable();
  return table;
}

}  // namespace pagoda::kernels::cpu
