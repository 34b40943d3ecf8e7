// What a rank remembers of the running sequences between plans: tokens, block table, sampling parameters, per slot. Plans
// carry deltas; this applies them. Pure: no clock, no thread. Owned by the engine's thread.
//
// Errors are kInvalidArgument and mean that plan and memory disagree: the epoch must end.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "common/status.h"
#include "worker/engine/step_plan.h"

namespace pagoda::worker {

class SlotTable {
 public:
  struct Shape {
    int slots = 0;
    int blocks = 0;  // of the pool
    int block_tokens = 16;
    int vocabulary = 0;
  };
  struct Slot {
    bool used = false;
    uint64_t generation = 0;  // of its sequences: tells a token of an ended one apart
    RequestId request;        // for logs only
    int choice = 0;
    int prompt_length = 0;
    std::vector<TokenId> tokens;
    std::vector<int32_t> blocks;
    std::shared_ptr<const SamplerParams> params;
    std::optional<TokenCounts> counts;  // when params->UsesCounts()
  };

  explicit SlotTable(const Shape& shape) : shape_(shape), slots_(static_cast<size_t>(shape.slots)) {}

  // Starts, then the rows' new and replaced blocks. Afterwards every row's position has its block.
  absl::Status Apply(const StepPlan& plan);
  absl::Status ApplyStarts(const StepPlan& plan);
  absl::Status ApplyRows(const StepPlan& plan);
  // The plan's `ends`.
  void End(const StepPlan& plan);

  // The token at `position` of the sequence that had `generation`; one that has ended or knows it already ignores it.
  // kInvalidArgument when it leaves a gap or is outside the vocabulary.
  absl::Status Append(int slot, uint64_t generation, int position, TokenId token);

  // Requires a slot number in range.
  const Slot& at(int slot) const { return slots_[static_cast<size_t>(slot)]; }
  bool InRange(int slot) const { return slot >= 0 && slot < shape_.slots; }

 private:
  absl::Status Start(const StartSlot& start);
  absl::Status CheckBlocks(std::span<const int32_t> blocks) const;

  const Shape shape_;
  std::vector<Slot> slots_;
};

}  // namespace pagoda::worker
