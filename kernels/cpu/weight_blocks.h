// Quantised weights as they lie in model files (the GGUF block layouts), one block of 32 columns at a time. Pure functions.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/backend.h"

namespace pagoda::kernels::cpu {

struct FormatTraits {
  int block_columns = 1;  // of the file's block
  int block_bytes = 4;
  bool is_float = false;
  int sub_blocks = 1;     // per 32 columns
  int offset = 0;         // the weight is w - offset, as an integer
  int min_factor = 0;     // the minimum is min_factor * d
  bool stored_min = false;
  bool super = false;     // K-quants
  // The packed form (kernel_table.h), bytes per 16 rows: per 32 columns, and per 256 columns.
  int quant_bytes = 0;
  int scale_bytes = 0;
  int super_bytes = 0;
};
const FormatTraits& TraitsOf(WeightFormat format);

// 32 columns of one row. Which of the fields below mean something depends on the format.
struct WeightBlock {
  uint8_t w[32] = {};        // before the offset is taken away
  uint16_t d = 0;            // f16 bits; K-quants: of the super-block
  uint16_t m = 0;            // f16 bits; K-quants: dmin
  uint8_t scale[2] = {};     // K-quants; a signed byte in Q3_K and Q6_K
  uint8_t minimum[2] = {};
};
// Block `block` (of 32 columns) of a row that starts at `row`. Quantised formats only.
WeightBlock ReadWeightBlock(WeightFormat format, const std::byte* row, int64_t block);

int64_t RowBytes(WeightFormat format, int64_t columns);
// Requires columns to be a whole number of file blocks. w * d, or fma(w, d, m), as numerics.h says.
void DequantizeRow(WeightFormat format, const std::byte* row, int64_t columns, float* out);

float HalfToFloat(uint16_t half);
uint16_t FloatToHalf(float value);  // round to nearest even
float BFloatToFloat(uint16_t value);
uint16_t FloatToBFloat(float value);  // round to nearest even

}  // namespace pagoda::kernels::cpu
