// What the memory operations mean where the host can read the backend's memory; and the operations that are several in one, out of
// the plain ones.
#include "kernels/backend.h"

#include <cstring>
#include <limits>

#include "absl/strings/str_cat.h"

namespace pagoda::kernels {

absl::Status Backend::Upload(const void* from, void* to, size_t bytes) {
  if (bytes > 0) std::memcpy(to, from, bytes);
  return absl::OkStatus();
}

absl::Status Backend::Download(const void* from, void* to, size_t bytes) {
  if (bytes > 0) std::memcpy(to, from, bytes);
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<Buffer>> Backend::Hold(const MatrixRows&) { return std::unique_ptr<Buffer>(); }

absl::Status Backend::CopyRows(const CopyRowsParams& params) {
  if (params.from_stride < params.columns || params.to_stride < params.columns) {
    return absl::InvalidArgumentError(absl::StrCat("copy rows: ", params.columns, " columns, rows ", params.from_stride,
                                                   " and ", params.to_stride, " apart"));
  }
  for (int64_t r = 0; r < params.rows && params.columns > 0; ++r) {
    std::memcpy(params.to + r * params.to_stride, params.from + r * params.from_stride,
                static_cast<size_t>(params.columns) * sizeof(float));
  }
  return absl::OkStatus();
}

absl::Status Backend::GatherRows(F32View from, std::span<const int> rows, F32View out) {
  const int64_t count = static_cast<int64_t>(rows.size());
  if (from.columns != out.columns || out.rows < count) {
    return absl::InvalidArgumentError(absl::StrCat("gather rows: ", count, " rows of ", from.columns, " columns into [",
                                                   out.rows, ", ", out.columns, "]"));
  }
  for (int64_t i = 0; i < count; ++i) {
    const int row = rows[static_cast<size_t>(i)];
    if (row < 0 || row >= from.rows) return absl::InvalidArgumentError(absl::StrCat("gather rows: row ", row, " of ", from.rows));
    std::memcpy(out.data + i * out.stride, from.data + row * from.stride, static_cast<size_t>(from.columns) * sizeof(float));
  }
  return absl::OkStatus();
}

absl::Status Backend::MatMulRopeAndStore(const QkvParams& params, KvCache& cache) {
  absl::Status status = MatMul({.matrix = params.matrix,
                                .input = params.input,
                                .rows = params.step.rows,
                                .out = params.qkv.data,
                                .row_stride = params.qkv.stride,
                                .plane_stride = 0});
  if (!status.ok()) return status;
  return RopeAndStore(params.qkv, params.step, params.rope, params.attention, cache);
}

absl::Status Backend::AttendAndQuantize(F32View qkv, const StepRows& step, const AttentionParams& attention,
                                        const KvCache& cache, F32View out, Activation& forms) {
  absl::Status status = Attend(qkv, step, attention, cache, out);
  if (!status.ok()) return status;
  out.rows = step.rows;
  return Quantize(out, forms);
}

absl::Status Backend::MatMulGated(const GatedMatMulParams& params, Activation& out) {
  absl::Status status = MatMul({.matrix = params.matrix,
                                .input = params.input,
                                .rows = params.scratch.rows,
                                .out = params.scratch.data,
                                .row_stride = params.scratch.stride,
                                .plane_stride = 0});
  if (!status.ok()) return status;
  return GatedActivation(params.scratch, params.kind, out);
}

absl::Status Backend::MatMulLargest(const MatMulParams& params, std::span<Largest> largest) {
  if (static_cast<int64_t>(largest.size()) < params.rows || params.out == nullptr) {
    return absl::InvalidArgumentError("largest of a product: no room for the rows");
  }
  absl::Status status = MatMul(params);
  if (status.ok()) status = Synchronize();
  if (!status.ok()) return status;
  for (int64_t r = 0; r < params.rows; ++r) {
    const float* row = params.out + r * params.row_stride;
    Largest best{.index = -1, .value = -std::numeric_limits<float>::infinity()};
    for (int64_t i = 0; i < params.matrix->rows(); ++i) {
      if (row[i] > best.value) best = {static_cast<int32_t>(i), row[i]};
    }
    largest[r] = best;
  }
  return absl::OkStatus();
}

}  // namespace pagoda::kernels
