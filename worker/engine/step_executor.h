// Runs one rank's part of an epoch, plan after plan: applies the deltas, takes the input (tokens, or hidden states from the
// stage before), runs the layers, sends on, and on rank 0 of the last stage samples. The engine's loop calls the five in order.
//
// Sampled tokens come back to stage 0 one message per step that samples. They are taken when a row first needs one of them (or
// when too many wait), a decision that follows from the plans alone, so that all ranks of stage 0 take it alike.
// Owned by the engine's thread.
#pragma once

#include <deque>
#include <memory>
#include <vector>

#include "worker/comm/stage_link.h"
#include "worker/engine/slot_table.h"
#include "worker/engine/step_monitor.h"
#include "worker/model/decoder.h"

namespace pagoda::worker {

struct ExecutorOptions {
  PeerId self;
  std::vector<StageShape> stages;
  int max_slots = 0;
  int max_sample_rows = 0;
  int kv_blocks = 0;
  int block_tokens = 16;
  int max_rows = 0;
  absl::Duration deadline;                  // of each wait on a peer
  const std::atomic<bool>* stop = nullptr;  // true: waits return kCancelled
  StepMonitor* monitor = nullptr;
};

class StepExecutor {
 public:
  // `transport` is connected to the peers of the epoch.
  StepExecutor(const ExecutorOptions& options, Decoder& decoder, Transport& transport);

  // Which operation an error came from: for the fault's report.
  const std::string& operation() const { return operation_; }

  // Posts the receive of a plan that will run later, in order, each once. At most two are ahead.
  absl::Status Expect(const StepPlan& plan);

  absl::Status Apply(const StepPlan& plan);
  absl::Status TakeInput(const StepPlan& plan);
  absl::Status Run(const StepPlan& plan);
  absl::Status SendOn(const StepPlan& plan);
  // On rank 0 of the last stage the result is complete; on others it is empty. Also ends the plan's `ends`.
  absl::StatusOr<StepResult> Finish(const StepPlan& plan);

  bool reports() const { return last_ && options_.self.rank == 0; }
  const StepTimes& times() const { return times_; }
  bool IsPosted(StepNumber step) const { return posted_.value() >= step.value(); }

 private:
  struct PendingSample {
    int slot = 0;
    uint64_t generation = 0;
    int position = 0;
  };
  struct PendingTokens {
    StepNumber step;
    std::vector<PendingSample> samples;
  };

  absl::Status TakeTokensFor(const StepPlan& plan);
  absl::Status TakePendingTokens(size_t steps);
  absl::Status ResolveForks(const StepPlan& plan);
  absl::StatusOr<size_t> StepsNeeded(const StepPlan& plan) const;
  absl::Status SampleRows(const StepPlan& plan, StepResult& result);
  // The rows of the step that need logits, ascending.
  std::vector<int> LogitRows(const StepPlan& plan) const;
  // Chooses on the device where that can be done for all samples of `rows`: their tokens are in result then. False: it cannot.
  absl::StatusOr<bool> SampleOnDevice(const StepPlan& plan, std::span<const int> rows, StepResult& result);
  absl::StatusOr<SamplingContext> ContextOf(const PlanSample& sample) const;
  int LastRowOf(const StepPlan& plan, const PlanSample& sample) const {
    const size_t index = static_cast<size_t>(sample.rows_index);
    return first_row_[index] + plan.rows[index].count - 1;
  }
  absl::Status UseLogits(const StepPlan& plan, std::span<const int> rows, const kernels::F32View& logits,
                         StepResult& result);
  int PromptTargets(const PlanRows& rows) const;

  const ExecutorOptions options_;
  Decoder& decoder_;
  const bool first_;
  const bool last_;
  const int vocabulary_;
  StageLink link_;
  Collective collective_;
  GroupExchange group_;
  SlotTable slots_;
  Sampler sampler_;

  std::string operation_;
  StepNumber posted_;
  std::deque<PendingTokens> pending_;
  std::vector<TokenId> tokens_;                       // of the step's rows; stage 0
  const float* hidden_ = nullptr;                     // other stages
  std::vector<kernels::SequenceRows> sequences_;
  std::vector<int> first_row_;                        // of each of the plan's rows
  StepTimes times_;
};

}  // namespace pagoda::worker
