#include "checkpoint/tensor_type.h"

#include <array>

namespace pagoda::checkpoint {
namespace {

struct TypeRow {
  std::string_view name;
  BlockLayout layout;
};

// In the order of TensorType. Block sizes: ggml-common.h.
constexpr std::array<TypeRow, 13> kTypes = {{
    {"F32", {1, 4}},
    {"F16", {1, 2}},
    {"BF16", {1, 2}},
    {"Q4_0", {32, 18}},
    {"Q4_1", {32, 20}},
    {"Q5_0", {32, 22}},
    {"Q5_1", {32, 24}},
    {"Q8_0", {32, 34}},
    {"Q2_K", {256, 84}},
    {"Q3_K", {256, 110}},
    {"Q4_K", {256, 144}},
    {"Q5_K", {256, 176}},
    {"Q6_K", {256, 210}},
}};
static_assert(kTypes.size() == static_cast<size_t>(TensorType::kQ6_K) + 1);

}  // namespace

BlockLayout LayoutOf(TensorType type) { return kTypes[static_cast<size_t>(type)].layout; }

std::string_view NameOf(TensorType type) { return kTypes[static_cast<size_t>(type)].name; }

absl::StatusOr<uint64_t> TensorBytes(TensorType type, int64_t rows, int64_t columns) {
  const BlockLayout layout = LayoutOf(type);
  if (rows < 0 || columns < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("a tensor of ", rows, " x ", columns, " has a negative size"));
  }
  if (columns % layout.weights != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("a row of ", columns, " values is not a whole number of ",
                     AsAbsl(NameOf(type)), " blocks of ", layout.weights));
  }
  uint64_t row_bytes = 0;
  uint64_t total = 0;
  if (__builtin_mul_overflow(static_cast<uint64_t>(columns / layout.weights),
                             static_cast<uint64_t>(layout.bytes), &row_bytes) ||
      __builtin_mul_overflow(row_bytes, static_cast<uint64_t>(rows), &total) ||
      total > static_cast<uint64_t>(INT64_MAX)) {
    return absl::InvalidArgumentError(
        absl::StrCat("a tensor of ", rows, " x ", columns, " does not fit in memory"));
  }
  return total;
}

}  // namespace pagoda::checkpoint
