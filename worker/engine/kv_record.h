// What a rank's KV blocks hold, and what it sent on for them: names of full blocks (chain hashes, as plans tell them) and, under
// a budget, the outputs of this stage for each block's rows, from which the next stage could fill the block again. Lives as long
// as the KV cache it describes, over epochs. A block that is given out anew loses both.
// Owned by the engine's thread.
#pragma once

#include <cstdint>
#include <list>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "common/block_hash.h"
#include "common/status.h"
#include "kernels/backend.h"
#include "worker/engine/step_plan.h"

namespace pagoda::worker {

class KvRecord {
 public:
  struct Shape {
    int blocks = 0;
    int block_tokens = 16;
    int hidden = 0;            // floats of one row
    int64_t output_bytes = 0;  // the most that kept outputs take; 0: none are kept
  };
  explicit KvRecord(const Shape& shape);

  // Names that the plan tells, then blocks that it gives out anew; of a rebuild, the blocks that it fills, when this rank runs it:
  // what they were called before is not what they hold from now on, and their new name comes with a later plan. Numbers
  // outside the pool are ignored: the plan's own check finds them.
  void BeginPlan(const StepPlan& plan, bool runs);
  // These blocks will hold something else; not by a plan.
  void Forget(std::span<const int32_t> blocks);
  // Rows of one step, [rows, hidden], as they go to the next stage. The oldest blocks' outputs make room.
  void KeepOutputs(std::span<const kernels::SequenceRows> sequences, const float* rows);
  // [block_tokens, hidden]; null when they are not all there.
  const float* OutputsOf(int32_t block) const;

  struct Held {
    int32_t block = 0;
    BlockHash hash;
    bool output = false;
  };
  std::vector<Held> held() const;  // by block

 private:
  struct Outputs {
    std::vector<float> rows;
    int filled = 0;                      // from the block's first row on
    std::list<int32_t>::iterator order;
  };
  bool InPool(int32_t block) const { return block >= 0 && block < shape_.blocks; }
  void Forget(int32_t block);
  void DropOutputs(int32_t block);
  Outputs* OutputsFor(int32_t block);
  void Keep(int32_t block, int offset, int count, const float* rows);

  const Shape shape_;
  const size_t most_outputs_;  // blocks
  std::vector<std::optional<BlockHash>> names_;
  std::vector<std::unique_ptr<Outputs>> outputs_;  // by block
  std::list<int32_t> written_;                     // blocks with outputs, longest ago first
};

}  // namespace pagoda::worker
