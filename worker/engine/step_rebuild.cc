// A rank's part of a rebuild: KV blocks that some stages lost are filled again, fed from what the stage before them kept.
#include <algorithm>

#include "worker/engine/step_executor.h"

namespace pagoda::worker {

void StepExecutor::Begin(std::string operation) {
  operation_ = std::move(operation);
  if (options_.monitor != nullptr) options_.monitor->BeginOperation(operation_);
}

StepExecutor::Part StepExecutor::PartOf(const StepPlan& plan) const {
  if (!plan.rebuild.has_value()) return Part::kRun;
  const int stage = options_.self.stage;
  if (stage >= plan.rebuild->first_stage && stage <= plan.rebuild->last_stage) return Part::kRun;
  return stage + 1 == plan.rebuild->first_stage && feeds_ ? Part::kFeed : Part::kNothing;
}

int StepExecutor::RowsOf(const StepPlan& plan) const {
  if (!plan.rebuild.has_value()) return plan.TotalRows();
  int rows = 0;
  for (const RebuildChain& chain : plan.rebuild->chains) rows += chain.blocks_to_fill() * options_.block_tokens;
  return rows;
}

absl::Status StepExecutor::CheckRebuild(const Rebuild& rebuild) const {
  const int stages = static_cast<int>(options_.stages.size());
  if (rebuild.first_stage < 0 || rebuild.first_stage > rebuild.last_stage || rebuild.last_stage >= stages) {
    return absl::InvalidArgumentError(absl::StrCat("a rebuild of stages ", rebuild.first_stage, " to ", rebuild.last_stage,
                                                   " of ", stages));
  }
  for (const RebuildChain& chain : rebuild.chains) {
    const bool in_pool = std::all_of(chain.blocks.begin(), chain.blocks.end(),
                                     [this](int32_t block) { return block >= 0 && block < options_.kv_blocks; });
    const int tokens = chain.blocks_to_fill() * options_.block_tokens;
    const bool tokens_fit = rebuild.first_stage > 0 || static_cast<int>(chain.tokens.size()) == tokens;
    const bool tokens_known = std::all_of(chain.tokens.begin(), chain.tokens.end(),
                                          [this](TokenId token) { return token >= 0 && token < vocabulary_; });
    if (chain.first_block < 0 || tokens < 1 || !in_pool || !tokens_fit || !tokens_known) {
      return absl::InvalidArgumentError(absl::StrCat("a rebuild of blocks ", chain.first_block, " to ", chain.blocks.size(),
                                                     " with ", chain.tokens.size(), " tokens"));
    }
  }
  return absl::OkStatus();
}

absl::Status StepExecutor::FeedKeptOutputs(const StepPlan& plan) {
  Begin(absl::StrCat("send kept hidden states to stage ", options_.self.stage + 1));
  const size_t floats = static_cast<size_t>(options_.block_tokens) * static_cast<size_t>(decoder_.shard().spec.hidden);
  feed_.clear();
  for (const RebuildChain& chain : plan.rebuild->chains) {
    for (size_t i = static_cast<size_t>(chain.first_block); i < chain.blocks.size(); ++i) {
      const float* rows = record_.OutputsOf(chain.blocks[i]);
      if (rows == nullptr) {
        return absl::FailedPreconditionError(absl::StrCat("what was sent on for block ", chain.blocks[i], " is not kept any more"));
      }
      feed_.insert(feed_.end(), rows, rows + floats);
    }
  }
  return link_.SendHidden(plan.step, feed_.data(), times_.rows, options_.deadline, options_.stop);
}

}  // namespace pagoda::worker
