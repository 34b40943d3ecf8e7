// Stored weights to float32, exactly as ggml defines each type (ggml-quants.c dequantize_row_*):
// scalar, one row at a time. The base of the tests' oracle, and the worker's embedding lookup.
// Thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "checkpoint/tensor_type.h"

namespace pagoda::checkpoint {

float HalfToFloat(uint16_t bits);
float Bfloat16ToFloat(uint16_t bits);

// `stored`: rows as in the file; `out`: [rows, columns]. Requires stored.size() ==
// TensorBytes(type, 1, out.size()) (our own callers have both from a TensorInfo: anything else ends
// the process). No alignment is needed.
void Dequantize(TensorType type, std::span<const std::byte> stored, std::span<float> out);

}  // namespace pagoda::checkpoint
