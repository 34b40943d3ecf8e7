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
#include "worker/engine/kv_record.h"
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
  StepExecutor(const ExecutorOptions& options, Decoder& decoder, KvRecord& record, Transport& transport);

  // Which operation an error came from: for the fault's report.
  const std::string& operation() const { return operation_; }
  // Whose rows a plan has, for logs: request ids, the first few of them.
  std::string RequestsOf(const StepPlan& plan) const;

  // Posts the receive of a plan that will run later, in order, each once. At most two are ahead.
  absl::Status Expect(const StepPlan& plan);

  absl::Status Apply(const StepPlan& plan);
  absl::Status TakeInput(const StepPlan& plan);
  absl::Status Run(const StepPlan& plan);
  absl::Status SendOn(const StepPlan& plan);
  // On the rank that reports the plan the result is complete; on others it is empty. Also ends the plan's `ends`.
  absl::StatusOr<StepResult> Finish(const StepPlan& plan);

  bool Reports(const StepPlan& plan) const {
    const int stage = plan.rebuild.has_value() ? plan.rebuild->last_stage : static_cast<int>(options_.stages.size()) - 1;
    return options_.self.stage == stage && options_.self.rank == 0;
  }
  const StepTimes& times() const { return times_; }
  bool IsPosted(StepNumber step) const { return posted_.value() >= step.value(); }

 private:
  // Logits of some of the step's rows.
  struct LogitLines {
    std::span<const int> rows;  // ascending
    kernels::F32View logits;
    std::span<const float> Of(int row) const;  // empty: not among them
  };
  // What this stage does of a plan: all do all, but for a rebuild.
  enum class Part : uint8_t { kNothing, kFeed, kRun };
  Part PartOf(const StepPlan& plan) const;
  int RowsOf(const StepPlan& plan) const;
  void Begin(std::string operation);
  absl::Status CheckRebuild(const Rebuild& rebuild) const;
  void PlaceRows(const StepPlan& plan);
  absl::Status FeedKeptOutputs(const StepPlan& plan);

  struct PendingSample {
    int slot = 0;
    uint64_t generation = 0;
    int position = 0;
  };
  // The rows that a sample may come to take: one, and one more for each draft.
  struct SampleChain {
    int next_row = 0;
    int first_row = 0;
    int end_row = 0;
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
  bool TakesLargestOnly(const StepPlan& plan) const;
  absl::Status UseLargest(const StepPlan& plan, std::span<const int> rows, std::span<const TokenId> tokens,
                          StepResult& result);
  static absl::Status CheckOutputIndex(int slot_number, const SlotTable::Slot& slot, int output_index);
  absl::Status UseLogits(const StepPlan& plan, const LogitLines& lines, StepResult& result);
  void UsePromptLogits(const PlanRows& rows, int first_row, const LogitLines& lines, PromptLogprobs& out);
  // Goes on with the chain of one sample as far as the lines reach and the drafts come true. Runs on any thread of the backend:
  // samples are of different slots.
  absl::Status Sample(Sampler& sampler, const PlanSample& sample, const PlanRows& rows, const LogitLines& lines, SampleChain& chain,
                      SampledToken& out);
  // Chooses on the device where that can be done for all samples of `rows`: their tokens are in result then. False: it cannot.
  absl::StatusOr<bool> SampleOnDevice(const StepPlan& plan, std::span<const int> rows, StepResult& result);
  int PromptTargets(const PlanRows& rows) const;

  const ExecutorOptions options_;
  Decoder& decoder_;
  KvRecord& record_;
  const bool first_;
  const bool last_;
  const bool feeds_;  // some rank of the next stage
  const int vocabulary_;
  StageLink link_;
  Collective collective_;
  GroupExchange group_;
  SlotTable slots_;
  std::vector<Sampler> samplers_;  // one per thread of the backend

  std::string operation_;
  StepNumber posted_;
  std::deque<PendingTokens> pending_;
  std::vector<float> feed_;                           // [rows, hidden] of a rebuild
  std::vector<TokenId> tokens_;                       // of the step's rows; stage 0
  const float* hidden_ = nullptr;                     // other stages
  std::vector<kernels::SequenceRows> sequences_;
  std::vector<int> first_row_;                        // of each of the plan's rows
  std::vector<SampleChain> chains_;                   // of each of the plan's samples
  StepTimes times_;
};

}  // namespace pagoda::worker
