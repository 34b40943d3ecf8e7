// The AMX kernels over an emulation of the tile instructions, for machines without AMX.
#include <immintrin.h>
#include <stdlib.h>

#include <cstdint>

#include "kernels/cpu/kernel_table.h"

namespace pagoda::kernels {
namespace cpu {
namespace {

#include "kernels/cpu/avx512_vectors.h"

// Lower than on hardware, so that small shapes reach the tiles.
constexpr int64_t kAmxTokens = 3;

struct TilePair;
thread_local int tile_depth = 0;
int64_t tile_products = 0;

class Tiles {
 public:
  static void Configure(int depth) { tile_depth = depth; }
  static void Release() { tile_depth = 0; }
  static void Multiply(const TilePair& pair);
};

#include "kernels/cpu/amx_kernels.h"

// tdpbsud, as Intel's manual states it: signed bytes of A by unsigned bytes of B, in groups of four.
void Tiles::Multiply(const TilePair& pair) {
  __atomic_fetch_add(&tile_products, 1, __ATOMIC_RELAXED);
  for (int part = 0; part < 4; ++part) {
    const int8_t* a = pair.a[part / 2];
    const uint8_t* b = pair.b[part % 2];
    for (int m = 0; m < 16; ++m) {
      for (int n = 0; n < 16; ++n) {
        int32_t sum = 0;
        for (int k = 0; k < tile_depth; ++k) sum += a[m * pair.a_stride + k] * b[k / 4 * 64 + 4 * n + k % 4];
        pair.c[part * 256 + m * 16 + n] = sum;
      }
    }
  }
}

}  // namespace
}  // namespace cpu

namespace testing {
int64_t EmulatedTileProducts() { return __atomic_load_n(&cpu::tile_products, __ATOMIC_RELAXED); }

const cpu::KernelTable& EmulatedAmxKernels() {
  static const cpu::KernelTable table = cpu::MakeAmxTable();
  return table;
}
}  // namespace testing

}  // namespace pagoda::kernels
