#include "kernels/backend.h"

#include <limits>

namespace pagoda::kernels {

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
