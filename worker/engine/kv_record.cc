#include "worker/engine/kv_record.h"

#include <algorithm>

namespace pagoda::worker {

KvRecord::KvRecord(const Shape& shape)
    : shape_(shape),
      most_outputs_(static_cast<size_t>(shape.output_bytes /
                                        (int64_t{shape.block_tokens} * shape.hidden * static_cast<int64_t>(sizeof(float))))),
      names_(static_cast<size_t>(shape.blocks)),
      outputs_(static_cast<size_t>(shape.blocks)) {}

void KvRecord::BeginPlan(const StepPlan& plan, bool runs) {
  for (const BlockName& name : plan.names) {
    if (InPool(name.block)) names_[static_cast<size_t>(name.block)] = name.hash;
  }
  if (plan.rebuild.has_value() && runs) {
    for (const RebuildChain& chain : plan.rebuild->chains) {
      for (size_t i = static_cast<size_t>(std::max(chain.first_block, 0)); i < chain.blocks.size(); ++i) {
        if (InPool(chain.blocks[i])) Forget(chain.blocks[i]);
      }
    }
  }
  for (const PlanCopy& copy : plan.copies) {
    if (!InPool(copy.from) || !InPool(copy.to)) continue;
    Forget(copy.to);
    const Outputs* from = outputs_[static_cast<size_t>(copy.from)].get();
    if (from == nullptr) continue;
    const std::vector<float> rows = from->rows;
    Keep(copy.to, 0, from->filled, rows.data());
  }
  for (const PlanRows& rows : plan.rows) {
    // A fork is told of its source's blocks here too; those lie before its first row and keep what they hold.
    const int count = static_cast<int>(rows.new_blocks.size());
    const int blocks = (rows.first_position + rows.count + shape_.block_tokens - 1) / shape_.block_tokens;
    for (int i = 0; i < count; ++i) {
      const int32_t block = rows.new_blocks[static_cast<size_t>(i)];
      const bool anew = (blocks - count + i) * shape_.block_tokens >= rows.first_position;
      if (anew && InPool(block)) Forget(block);
    }
  }
}

void KvRecord::Forget(std::span<const int32_t> blocks) {
  for (const int32_t block : blocks) {
    if (InPool(block)) Forget(block);
  }
}

void KvRecord::KeepOutputs(std::span<const kernels::SequenceRows> sequences, const float* rows) {
  if (most_outputs_ == 0) return;
  for (const kernels::SequenceRows& sequence : sequences) {
    for (int r = 0; r < sequence.rows;) {
      const int position = sequence.first_position + r;
      const int offset = position % shape_.block_tokens;
      const int count = std::min(shape_.block_tokens - offset, sequence.rows - r);
      const int32_t block = sequence.blocks[static_cast<size_t>(position / shape_.block_tokens)];
      Keep(block, offset, count, rows + static_cast<int64_t>(sequence.first_row + r) * shape_.hidden);
      r += count;
    }
  }
}

void KvRecord::Keep(int32_t block, int offset, int count, const float* rows) {
  if (count == 0) return;
  const Outputs* known = outputs_[static_cast<size_t>(block)].get();
  // The beginning was given up, or was never seen: what follows is of no use.
  if (offset > (known == nullptr ? 0 : known->filled)) return;
  Outputs* outputs = OutputsFor(block);
  if (outputs == nullptr) return;
  std::copy_n(rows, static_cast<size_t>(count) * static_cast<size_t>(shape_.hidden),
              outputs->rows.begin() + static_cast<int64_t>(offset) * shape_.hidden);
  outputs->filled = std::max(outputs->filled, offset + count);
}

KvRecord::Outputs* KvRecord::OutputsFor(int32_t block) {
  std::unique_ptr<Outputs>& slot = outputs_[static_cast<size_t>(block)];
  if (slot != nullptr) {
    written_.splice(written_.end(), written_, slot->order);
    return slot.get();
  }
  if (most_outputs_ == 0) return nullptr;
  std::unique_ptr<Outputs> fresh;
  if (written_.size() >= most_outputs_) {
    fresh = std::move(outputs_[static_cast<size_t>(written_.front())]);
    written_.pop_front();
  } else {
    fresh = std::make_unique<Outputs>();
    fresh->rows.resize(static_cast<size_t>(shape_.block_tokens) * static_cast<size_t>(shape_.hidden));
  }
  fresh->filled = 0;
  fresh->order = written_.insert(written_.end(), block);
  slot = std::move(fresh);
  return slot.get();
}

void KvRecord::DropOutputs(int32_t block) {
  std::unique_ptr<Outputs>& slot = outputs_[static_cast<size_t>(block)];
  if (slot == nullptr) return;
  written_.erase(slot->order);
  slot.reset();
}

void KvRecord::Forget(int32_t block) {
  names_[static_cast<size_t>(block)].reset();
  DropOutputs(block);
}

const float* KvRecord::OutputsOf(int32_t block) const {
  if (!InPool(block)) return nullptr;
  const Outputs* outputs = outputs_[static_cast<size_t>(block)].get();
  return outputs == nullptr || outputs->filled < shape_.block_tokens ? nullptr : outputs->rows.data();
}

std::vector<KvRecord::Held> KvRecord::held() const {
  std::vector<Held> all;
  for (int32_t block = 0; block < shape_.blocks; ++block) {
    const std::optional<BlockHash>& name = names_[static_cast<size_t>(block)];
    if (name.has_value()) all.push_back({.block = block, .hash = *name, .output = OutputsOf(block) != nullptr});
  }
  return all;
}

}  // namespace pagoda::worker
