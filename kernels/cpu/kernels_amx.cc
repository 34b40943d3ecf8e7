// AMX int8 tiles with AVX-512 for everything else. The tile instructions are inline assembly: gcc 12 drops the stores to a
// tile configuration before its _tile_loadconfig (GCC PR 114098).
#include <immintrin.h>
#include <stdlib.h>

#include <cstdint>

#include "kernels/cpu/kernel_table.h"

namespace pagoda::kernels::cpu {
namespace {

#include "kernels/cpu/avx512_vectors.h"

// Below so many tokens the vector kernels are quicker.
constexpr int64_t kAmxTokens = 16;

struct TilePair;

class Tiles {
 public:
  // Tiles 0..3 are C, 4 and 5 are A, 6 and 7 are B.
  static void Configure(int depth) {
    alignas(64) uint8_t config[64] = {1};
    for (int tile = 0; tile < 8; ++tile) {
      const bool is_a = tile == 4 || tile == 5, is_b = tile >= 6;
      const uint16_t row_bytes = static_cast<uint16_t>(is_a ? depth : 64);
      __builtin_memcpy(config + 16 + 2 * tile, &row_bytes, 2);
      config[48 + tile] = static_cast<uint8_t>(is_b ? depth / 4 : 16);
    }
    asm volatile("ldtilecfg %0" ::"m"(*reinterpret_cast<const uint8_t(*)[64]>(config)) : "memory");
  }
  static void Release() { asm volatile("tilerelease" ::: "memory"); }
  static inline void Multiply(const TilePair& pair);
};

#include "kernels/cpu/amx_kernels.h"

inline void Tiles::Multiply(const TilePair& pair) {
  const int64_t row = 64;
  asm volatile(
      "tilezero %%tmm0\n\t"
      "tileloadd (%[a0],%[as],1), %%tmm4\n\t"
      "tileloadd (%[b0],%[row],1), %%tmm6\n\t"
      "tilezero %%tmm1\n\t"
      "tdpbsud %%tmm6, %%tmm4, %%tmm0\n\t"
      "tileloadd (%[b1],%[row],1), %%tmm7\n\t"
      "tilezero %%tmm2\n\t"
      "tdpbsud %%tmm7, %%tmm4, %%tmm1\n\t"
      "tileloadd (%[a1],%[as],1), %%tmm5\n\t"
      "tilezero %%tmm3\n\t"
      "tdpbsud %%tmm6, %%tmm5, %%tmm2\n\t"
      "tdpbsud %%tmm7, %%tmm5, %%tmm3\n\t"
      "tilestored %%tmm0, (%[c],%[row],1)\n\t"
      "tilestored %%tmm1, 1024(%[c],%[row],1)\n\t"
      "tilestored %%tmm2, 2048(%[c],%[row],1)\n\t"
      "tilestored %%tmm3, 3072(%[c],%[row],1)" ::[a0] "r"(pair.a[0]),
      [a1] "r"(pair.a[1]), [as] "r"(pair.a_stride), [b0] "r"(pair.b[0]), [b1] "r"(pair.b[1]), [row] "r"(row),
      [c] "r"(pair.c)
      : "memory");
}

}  // namespace

const KernelTable& AmxKernels() {
  static const KernelTable table = MakeAmxTable();
  return table;
}

}  // namespace pagoda::kernels::cpu
