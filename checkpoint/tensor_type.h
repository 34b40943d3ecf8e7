// How the numbers of a tensor are stored in a model file, and how many bytes that takes.
// Source: ggml docs/gguf.md and the block layouts of ggml-common.h; safetensors README.
#pragma once

#include <cstdint>
#include <string_view>

#include "common/status.h"

namespace pagoda::checkpoint {

enum class TensorType : uint8_t {
  kF32, kF16, kBF16, kQ4_0, kQ4_1, kQ5_0, kQ5_1, kQ8_0, kQ2_K, kQ3_K, kQ4_K, kQ5_K, kQ6_K,
};

struct BlockLayout {
  int weights;  // of one block
  int bytes;
};
BlockLayout LayoutOf(TensorType type);
std::string_view NameOf(TensorType type);
// Bytes of `rows` x `columns`; kInvalidArgument when columns is not a whole number of blocks or the product overflows.
absl::StatusOr<uint64_t> TensorBytes(TensorType type, int64_t rows, int64_t columns);

}  // namespace pagoda::checkpoint
