// Matrix products on AMX tiles. Included by an instruction set's file inside its anonymous namespace, after
// avx512_vectors.h and a class Tiles:
//   static void Configure(int depth)  A rows of `depth` bytes, B of depth / 4 rows; until Release
//   static void Multiply(const TilePair& pair)
//   static void Release()
// so that the tests can run the same code over an emulation. The bits are those of every other instruction set: the tiles
// give exact integers, and the float part is done in the same order.
//
// A tile product takes 16 tokens x 16 weight rows over one block of 32 columns. A packed block unpacked to bytes is a B tile
// as it lies: row v is columns 4v..4v+3 of the 16 weight rows. With 12-bit input and 4-bit weights one product of depth 64
// does both parts: A is [high | low], B is [16 w | w]. Other weights take two products.

struct TilePair {
  const int8_t* a[2];    // of two groups of 16 tokens
  int64_t a_stride;      // bytes from token to token
  const uint8_t* b[2];   // of two tiles of 16 weight rows
  int32_t* c;            // [4][16][16]: (a0, b0), (a0, b1), (a1, b0), (a1, b1)
};

constexpr int kAmxBlocks = 3;  // blocks whose integers are made before they are scaled: they stay in the first-level cache

// Memory of one thread, grown when a matrix needs more.
struct Panels {
  uint8_t* bytes = nullptr;
  int64_t size = 0;
  ~Panels() { __builtin_free(bytes); }
  uint8_t* Get(int64_t wanted) {
    if (wanted <= size) return bytes;
    __builtin_free(bytes);
    bytes = static_cast<uint8_t*>(aligned_alloc(64, (wanted + 63) / 64 * 64));
    size = bytes == nullptr ? 0 : wanted;
    return bytes;
  }
};
thread_local Panels thread_panels;

struct AmxWork {
  alignas(64) int32_t sums[kAmxBlocks][2][2][4][16][16];  // [block][sub-block][high, low]
  alignas(64) float f[4][16][16];
  alignas(64) float stack[kMaxTreeDepth][4][16][16];
};

template <class F, int kBits>
struct AmxGemm {
  using Quants = typename F::Quants;
  using Scales = typename F::Scales;
  static constexpr int kSubs = Scales::kSubs;
  static constexpr bool kBothParts = kBits == 12 && Quants::kQuantBytes == 256 && kSubs == 1;  // in one product
  static constexpr int kProducts = kBits == 12 && !kBothParts ? 2 : 1;
  static constexpr int kDepth = kBothParts ? 64 : 32 / kSubs;
  static constexpr int kPanelBytes = kBothParts ? 1024 : 512;  // of one block of one tile
  static constexpr int kInputBytes = kBits == 8 ? 32 : 64;
  static constexpr int kFactors = 32 * kSubs;  // floats: d and m of a block of one tile

  // Weights of up to two tiles, unpacked: a one-tile task gives the same tile twice.
  struct Panel {
    const uint8_t* quants[2];
    const float* factors[2];
  };

  static void Unpack(const GemmTask& task, const uint8_t* tile, uint8_t* quants, float* factors) {
    for (int64_t b = 0; b < task.blocks; ++b) {
      uint8_t* out = quants + b * kPanelBytes;
      for (int g = 0; g < 4; ++g) {
        __m512i w0, w1;
        Quants::LoadPair(tile + b * Quants::kQuantBytes, g, w0, w1);
        if constexpr (kBothParts) {
          _mm512_storeu_si512(out + 128 * g, _mm512_slli_epi16(w0, 4));
          _mm512_storeu_si512(out + 128 * g + 64, _mm512_slli_epi16(w1, 4));
        }
        uint8_t* plain = out + (kBothParts ? 512 : 0) + 128 * g;
        _mm512_storeu_si512(plain, w0);
        _mm512_storeu_si512(plain + 64, w1);
      }
      for (int s = 0; s < kSubs; ++s) {
        __m512 d, m = _mm512_setzero_ps();
        Scales::Get(task, tile, b, s, d, m);
        Store(factors + b * kFactors + 32 * s, d);
        Store(factors + b * kFactors + 32 * s + 16, m);
      }
    }
  }

  // The integers of block b for 32 tokens from `token` on and two tiles.
  static void Products(const GemmTask& task, const Panel& panel, int64_t token, int64_t b, int32_t (*sums)[2][4][16][16]) {
    TilePair pair;
    pair.a_stride = task.blocks * kInputBytes;
    const int8_t* a = task.quant->q + token * pair.a_stride + b * kInputBytes;
    for (int s = 0; s < kSubs; ++s) {
      for (int p = 0; p < kProducts; ++p) {
        for (int i = 0; i < 2; ++i) {
          pair.a[i] = a + i * 16 * pair.a_stride + 32 * p + 16 * s;
          pair.b[i] = panel.quants[i] + b * kPanelBytes + 256 * s;
        }
        pair.c = &sums[s][p][0][0][0];
        Tiles::Multiply(pair);
      }
    }
  }

  // Adds the blocks [begin, end) to f of part e: tokens 16 * (e / 2) on, tile e % 2.
  static inline void Scale(const GemmTask& task, const Panel& panel, int64_t token, int64_t begin, int64_t end, int e,
                           AmxWork& work) {
    const QuantRows& quant = *task.quant;
    const int64_t first = (token + 16 * (e / 2)) * task.blocks;
    __m512 f[16];
#pragma GCC unroll 16
    for (int r = 0; r < 16; ++r) f[r] = _mm512_load_ps(work.f[e][r]);
    for (int64_t b = begin; b < end; ++b) {
      for (int s = 0; s < kSubs; ++s) {
        const float* factors = panel.factors[e % 2] + b * kFactors + 32 * s;
        const __m512 d = Load(factors), m = Load(factors + 16);
        const int32_t(*sums)[4][16][16] = work.sums[b - begin][s];
#pragma GCC unroll 16
        for (int r = 0; r < 16; ++r) {
          const int64_t at = first + r * task.blocks + b;
          __m512i total = _mm512_load_si512(sums[0][e][r]);
          if constexpr (kProducts == 2) {
            total = _mm512_add_epi32(_mm512_slli_epi32(total, 4), _mm512_load_si512(sums[1][e][r]));
          }
          if constexpr (F::kOffset != 0) {
            const int32_t q = kSubs == 1 ? quant.total[at] : quant.half_total[2 * at + s];
            total = _mm512_sub_epi32(total, _mm512_set1_epi32(F::kOffset * q));
          }
          f[r] = Fma(Mul(d, Set1(quant.scale[at])), _mm512_cvtepi32_ps(total), f[r]);
          if constexpr (Scales::kHasMin) f[r] = Fma(m, Set1(kSubs == 1 ? quant.sum[at] : quant.half_sum[2 * at + s]), f[r]);
        }
      }
    }
#pragma GCC unroll 16
    for (int r = 0; r < 16; ++r) _mm512_store_ps(work.f[e][r], f[r]);
  }

  static void Write(const GemmTask& task, int first_tile, int64_t token, int plane, const AmxWork& work) {
    for (int e = 0; e < 4; ++e) {
      const int tile = first_tile + e % 2;
      if (tile >= task.tile_count) continue;
      const __mmask16 mask =
          tile + 1 == task.tile_count ? static_cast<__mmask16>((1u << task.last_rows) - 1) : static_cast<__mmask16>(0xffff);
      for (int r = 0; r < 16; ++r) {
        const int64_t t = token + 16 * (e / 2) + r;
        if (t >= task.tokens) break;
        __m512 value = _mm512_load_ps(work.f[e][r]);
        if (task.bias != nullptr) value = Add(value, Load(task.bias + 16 * tile));
        _mm512_mask_storeu_ps(task.out + plane * task.plane_stride + t * task.row_stride + 16 * tile, mask, value);
      }
    }
  }

  // Tokens [token, token + 32) of the task and two tiles: all shards, added as the steps say.
  static void SumShards(const GemmTask& task, const Panel& panel, int first_tile, int64_t token, AmxWork& work) {
    int depth = 0;
    int64_t b = 0;
    for (int i = 0; i < task.step_count; ++i) {
      const ShardStep step = task.steps[i];
      __builtin_memset(work.f, 0, sizeof work.f);
      while (b < step.end_block) {
        const int64_t end = b + kAmxBlocks < step.end_block ? b + kAmxBlocks : step.end_block;
        for (int64_t k = b; k < end; ++k) Products(task, panel, task.first_token + token, k, work.sums[k - b]);
        for (int e = 0; e < 4; ++e) {
          if (token + 16 * (e / 2) < task.tokens) Scale(task, panel, task.first_token + token, b, end, e, work);
        }
        b = end;
      }
      for (int a = 0; a < step.adds; ++a) {
        --depth;
        for (int n = 0; n < 4 * 16; ++n) {
          _mm512_store_ps(work.f[n / 16][n % 16],
                          Add(_mm512_load_ps(work.stack[depth][n / 16][n % 16]), _mm512_load_ps(work.f[n / 16][n % 16])));
        }
      }
      if (step.plane >= 0) {
        Write(task, first_tile, token, step.plane, work);
      } else {
        __builtin_memcpy(work.stack[depth++], work.f, sizeof work.f);
      }
    }
  }

  static void Run(const GemmTask& task) {
    const int64_t quant_bytes = task.blocks * kPanelBytes, factor_bytes = task.blocks * kFactors * 4;
    uint8_t* memory = thread_panels.Get(2 * (quant_bytes + factor_bytes) + static_cast<int64_t>(sizeof(AmxWork)));
    if (memory == nullptr || task.tokens < kAmxTokens) return FewTokens(task);
    auto& work = *reinterpret_cast<AmxWork*>(memory);
    Tiles::Configure(kDepth);
    for (int tile = 0; tile < task.tile_count; tile += 2) {
      Panel panel;
      for (int i = 0; i < 2; ++i) {
        uint8_t* quants = memory + sizeof(AmxWork) + i * (quant_bytes + factor_bytes);
        auto* factors = reinterpret_cast<float*>(quants + quant_bytes);
        const int mine = tile + i < task.tile_count ? tile + i : tile;
        Unpack(task, task.tiles + mine * task.tile_bytes, quants, factors);
        panel.quants[i] = quants;
        panel.factors[i] = factors;
      }
      for (int64_t token = 0; token < task.tokens; token += 32) SumShards(task, panel, tile, token, work);
    }
    Tiles::Release();
  }

  // A tile product costs the same for one token as for 16: few are left to the vector kernels.
  static void FewTokens(const GemmTask& task) { Avx512Kernels().gemm[F::kFormat][kBits == 12](task); }
};

int AmxTilesAtOnce(int64_t tokens) { return tokens < kAmxTokens ? Avx512Kernels().tiles_at_once(tokens) : 2; }

template <class F>
void SetAmxGemm(KernelTable& table) {
  table.gemm[F::kFormat][0] = AmxGemm<F, 8>::Run;
  table.gemm[F::kFormat][1] = AmxGemm<F, 12>::Run;
}

KernelTable MakeAmxTable() {
  KernelTable table = Avx512Kernels();
  SetAmxGemm<FormatQ4_0>(table);
  SetAmxGemm<FormatQ4_1>(table);
  SetAmxGemm<FormatQ5_0>(table);
  SetAmxGemm<FormatQ5_1>(table);
  SetAmxGemm<FormatQ8_0>(table);
  SetAmxGemm<FormatQ2_K>(table);
  SetAmxGemm<FormatQ3_K>(table);
  SetAmxGemm<FormatQ4_K>(table);
  SetAmxGemm<FormatQ5_K>(table);
  SetAmxGemm<FormatQ6_K>(table);
  table.tiles_at_once = AmxTilesAtOnce;
  return table;
}
