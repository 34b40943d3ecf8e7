#include "worker/engine/slot_table.h"

namespace pagoda::worker {

absl::Status SlotTable::Apply(const StepPlan& plan) {
  PAGODA_RETURN_IF_ERROR(ApplyStarts(plan));
  return ApplyRows(plan);
}

absl::Status SlotTable::ApplyStarts(const StepPlan& plan) {
  for (const StartSlot& start : plan.starts) PAGODA_RETURN_IF_ERROR(Start(start));
  return absl::OkStatus();
}

absl::Status SlotTable::Start(const StartSlot& start) {
  if (!InRange(start.slot)) return absl::InvalidArgumentError(absl::StrCat("start of slot ", start.slot));
  Slot& slot = slots_[static_cast<size_t>(start.slot)];
  const uint64_t generation = slot.generation + 1;
  if (start.fork_of >= 0) {
    if (!InRange(start.fork_of) || start.fork_of == start.slot || !at(start.fork_of).used) {
      return absl::InvalidArgumentError(absl::StrCat("slot ", start.slot, " forks slot ", start.fork_of, ", which is not in use"));
    }
    slot = at(start.fork_of);
    slot.choice = start.choice;
    slot.generation = generation;
    return absl::OkStatus();
  }
  PAGODA_RETURN_IF_ERROR(CheckBlocks(start.blocks));
  if (start.params == nullptr || start.prompt_length < 0 ||
      start.prompt_length > static_cast<int>(start.history.size())) {
    return absl::InvalidArgumentError(absl::StrCat("slot ", start.slot, ": prompt length ", start.prompt_length, " of ",
                                                   start.history.size(), " tokens"));
  }
  for (const TokenId token : start.history) {
    if (token < 0 || token >= shape_.vocabulary) {
      return absl::InvalidArgumentError(absl::StrCat("slot ", start.slot, ": token ", token, " is outside the vocabulary"));
    }
  }
  slot = Slot{.used = true,
              .generation = generation,
              .request = start.request,
              .choice = start.choice,
              .prompt_length = start.prompt_length,
              .tokens = start.history,
              .blocks = start.blocks,
              .params = start.params};
  if (slot.params->UsesCounts()) slot.counts.emplace(slot.tokens, slot.prompt_length);
  return absl::OkStatus();
}

absl::Status SlotTable::CheckBlocks(std::span<const int32_t> blocks) const {
  for (const int32_t block : blocks) {
    if (block < 0 || block >= shape_.blocks) {
      return absl::InvalidArgumentError(absl::StrCat("block ", block, " of a pool of ", shape_.blocks));
    }
  }
  return absl::OkStatus();
}

absl::Status SlotTable::ApplyRows(const StepPlan& plan) {
  for (const PlanCopy& copy : plan.copies) {
    const int32_t both[] = {copy.from, copy.to};
    PAGODA_RETURN_IF_ERROR(CheckBlocks(both));
  }
  for (const PlanRows& rows : plan.rows) {
    if (!InRange(rows.slot) || !at(rows.slot).used) {
      return absl::InvalidArgumentError(absl::StrCat("rows of slot ", rows.slot, ", which is not in use"));
    }
    Slot& slot = slots_[static_cast<size_t>(rows.slot)];
    PAGODA_RETURN_IF_ERROR(CheckBlocks(rows.new_blocks));
    slot.blocks.insert(slot.blocks.end(), rows.new_blocks.begin(), rows.new_blocks.end());
    for (const ReplaceBlock& replace : rows.replace_blocks) {
      PAGODA_RETURN_IF_ERROR(CheckBlocks({&replace.block, 1}));
      if (replace.index < 0 || replace.index >= static_cast<int>(slot.blocks.size())) {
        return absl::InvalidArgumentError(absl::StrCat("slot ", rows.slot, " has no block ", replace.index));
      }
      slot.blocks[static_cast<size_t>(replace.index)] = replace.block;
    }
    const int64_t end = static_cast<int64_t>(rows.first_position) + rows.count;
    if (rows.first_position < 0 || rows.count < 1 ||
        end > static_cast<int64_t>(slot.blocks.size()) * shape_.block_tokens) {
      return absl::InvalidArgumentError(absl::StrCat("slot ", rows.slot, ": positions ", rows.first_position, " to ", end,
                                                     " with ", slot.blocks.size(), " blocks"));
    }
    if (static_cast<int>(rows.drafts.size()) >= rows.count || static_cast<int>(rows.accepted.size()) > rows.known_end()) {
      return absl::InvalidArgumentError(absl::StrCat("slot ", rows.slot, ": ", rows.drafts.size(), " drafts and ",
                                                     rows.accepted.size(), " accepted tokens with ", rows.count, " rows"));
    }
  }
  for (const PlanSample& sample : plan.samples) {
    if (sample.rows_index < 0 || sample.rows_index >= static_cast<int>(plan.rows.size()) || !InRange(sample.slot) ||
        !at(sample.slot).used || sample.output_index < 0) {
      return absl::InvalidArgumentError(absl::StrCat("sample of rows ", sample.rows_index, " for slot ", sample.slot));
    }
    const PlanRows& rows = plan.rows[static_cast<size_t>(sample.rows_index)];
    if (!rows.drafts.empty() && rows.slot != sample.slot) {
      return absl::InvalidArgumentError(absl::StrCat("slot ", sample.slot, " samples the drafts of slot ", rows.slot));
    }
  }
  return absl::OkStatus();
}

void SlotTable::End(const StepPlan& plan) {
  for (const int number : plan.ends) {
    if (!InRange(number)) continue;
    Slot& slot = slots_[static_cast<size_t>(number)];
    slot = Slot{.generation = slot.generation + 1};
  }
}

absl::Status SlotTable::Append(int number, uint64_t generation, int position, TokenId token) {
  if (!InRange(number)) return absl::InvalidArgumentError(absl::StrCat("token for slot ", number));
  Slot& slot = slots_[static_cast<size_t>(number)];
  if (!slot.used || slot.generation != generation) return absl::OkStatus();
  const int length = static_cast<int>(slot.tokens.size());
  if (position < length) return absl::OkStatus();
  if (position > length || token < 0 || token >= shape_.vocabulary) {
    return absl::InvalidArgumentError(absl::StrCat("slot ", number, ": token ", token, " at position ", position, " after ",
                                                   length, " tokens"));
  }
  slot.tokens.push_back(token);
  if (slot.counts.has_value()) slot.counts->Add(token, position < slot.prompt_length);
  return absl::OkStatus();
}

}  // namespace pagoda::worker
