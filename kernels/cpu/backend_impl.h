// The CPU backend's class: cpu_backend.cc has the operations one by one, fused_operations.cc those that are several in one.
// Private to kernels/cpu.
#pragma once

#include <algorithm>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/cpu/buffers.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/packed_matrix.h"
#include "kernels/cpu/rope_table.h"
#include "kernels/cpu/thread_team.h"
#include "kernels/cpu/weight_blocks.h"

namespace pagoda::kernels::cpu {

// Below this many rows an operation on rows stays on the caller's thread: waking others costs more.
inline constexpr int64_t kInlineRows = 4;
inline constexpr int64_t kRowsPerTask = 4;

inline absl::Status Unfit(absl::string_view operation, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat(operation, ": ", what));
}

class CpuBackend final : public Backend {
 public:
  CpuBackend(const CpuBackendOptions& options, Isa isa, const KernelTable& kernels)
      : isa_(isa), kernels_(kernels), team_({options.threads, options.pin, options.spin_us}) {
    scratch_.resize(team_.threads());
  }

  std::string_view numerics_profile() const override { return kCpuNumericsProfile; }
  std::string_view implementation() const override {
    switch (isa_) {
      case Isa::kAmx:
        return "amx-int8";
      case Isa::kAvx512:
        return "avx512-vnni";
      default:
        return NameOf(isa_);
    }
  }

  absl::StatusOr<std::unique_ptr<Buffer>> NewBuffer(size_t bytes) override;
  absl::StatusOr<std::unique_ptr<Activation>> NewActivation(int64_t max_rows, int64_t columns,
                                                            ActivationForms forms) override;
  absl::StatusOr<std::unique_ptr<KvCache>> NewKvCache(const KvShape& shape) override;
  absl::StatusOr<std::unique_ptr<PackedMatrix>> Pack(std::span<const MatrixRows> parts,
                                                     const PackOptions& options) override;
  absl::Status Embed(const MatrixRows& table, std::span<const int32_t> tokens, F32View out) override;
  absl::Status AddNorm(const AddNormParams& params) override;
  absl::Status Quantize(F32View in, Activation& out) override;
  absl::Status MatMul(const MatMulParams& params) override;
  absl::Status RopeAndStore(F32View qkv, const StepRows& step, const RopeParams& rope,
                            const AttentionParams& attention, KvCache& cache) override;
  absl::Status Attend(F32View qkv, const StepRows& step, const AttentionParams& attention, const KvCache& cache,
                      F32View out) override;
  absl::Status GatedActivation(F32View gate_up, GateKind kind, Activation& out) override;
  absl::Status MatMulRopeAndStore(const QkvParams& params, KvCache& cache) override;
  absl::Status AttendAndQuantize(F32View qkv, const StepRows& step, const AttentionParams& attention, const KvCache& cache,
                                 F32View out, Activation& forms) override;
  absl::Status MatMulGated(const GatedMatMulParams& params, Activation& out) override;
  absl::Status MatMulLargest(const MatMulParams& params, std::span<Largest> largest) override;
  absl::Status CopyBlocks(std::span<const BlockCopy> copies, KvCache& cache) override;
  int host_threads() const override { return team_.threads(); }
  void RunOnHost(int64_t tasks, const std::function<void(int, int64_t)>& body) override { team_.Run(tasks, body); }
  absl::Status Synchronize() override { return absl::OkStatus(); }

 private:
  struct MatMulSlice {
    const PackedSegment* segment = nullptr;
    int64_t first_tile = 0;
    int64_t tiles = 0;
    int64_t first_token = 0;
    int64_t tokens = 0;
  };

  template <typename Body>
  void ForRows(int64_t rows, Body body) {
    if (rows < kInlineRows) {
      for (int64_t r = 0; r < rows; ++r) body(0, r);
      return;
    }
    const int64_t tasks = (rows + kRowsPerTask - 1) / kRowsPerTask;
    team_.Run(tasks, [&](int thread, int64_t task) {
      const int64_t end = std::min(rows, (task + 1) * kRowsPerTask);
      for (int64_t r = task * kRowsPerTask; r < end; ++r) body(thread, r);
    });
  }

  float* Scratch(int thread, int64_t floats);
  void QuantizeForms(const float* in, int64_t row, const CpuActivation& out);
  // Of a whole row, from its block `first` on: `in` are that part's values.
  void QuantizePart(const float* in, int64_t row, int64_t first, int64_t count, const CpuActivation& out);
  // Block `block` of some rows, which are in_stride floats apart.
  void QuantizeColumn(const float* in, int64_t in_stride, int64_t first_row, int64_t rows, int64_t block,
                      const CpuActivation& out);
  static absl::Status CheckMatMul(const MatMulParams& params);
  void CutMatMul(const CpuPackedMatrix& matrix, int64_t rows);
  // The product of a slice; `out`: of its first row and token.
  void RunSlice(const CpuPackedMatrix& matrix, const CpuActivation& input, const MatMulSlice& slice, float* out,
                int64_t row_stride, int64_t plane_stride);
  struct RowPlace {
    const SequenceRows* sequence = nullptr;
    int64_t position = 0;
  };
  // Fills places_ and rope_rows_ for the step's rows.
  absl::Status PlaceRows(const StepRows& step, const RopeParams& rope, const AttentionParams& attention);
  void RopeHeads(float* row, int64_t r, int heads, int dim, const RopeParams& rope);
  void StoreHead(const float* key, const float* value, int64_t r, int kv_head, int layer, CpuKvCache& cache);
  absl::Status AttendParts(F32View qkv, const StepRows& step, const AttentionParams& attention, const CpuKvCache& cache,
                           F32View out, CpuActivation* forms);
  absl::Status CheckStep(absl::string_view operation, F32View qkv, const StepRows& step,
                         const AttentionParams& attention, const CpuKvCache& cache) const;

  const Isa isa_;
  const KernelTable& kernels_;
  ThreadTeam team_;
  HugeArena arena_;
  RopeTables rope_;
  struct ThreadScratch {
    Memory memory;
    int64_t floats = 0;
  };
  std::vector<ThreadScratch> scratch_;       // [thread]
  std::vector<MatMulSlice> slices_;          // of the product in progress
  std::vector<const float*> rope_rows_;      // of the step in progress
  std::vector<RowPlace> places_;             // the same
  struct Top {
    float value = 0;
    int32_t index = -1;
  };
  std::vector<Top> tops_;  // [slice][row] of MatMulLargest
};


}  // namespace pagoda::kernels::cpu
