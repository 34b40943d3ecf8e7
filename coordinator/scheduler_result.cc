// Reading the result of a step: tokens, ends, prompt log-probabilities, and blocks that now hold what they should.
#include <algorithm>
#include <utility>

#include "coordinator/scheduler.h"

namespace pagoda::coordinator {

absl::Status Scheduler::OnResult(const StepResult& result, int64_t now_ns) {
  if (!epoch_open_ || result.epoch != settings_.epoch) return absl::OkStatus();  // of another life
  now_ns_ = now_ns;
  PAGODA_RETURN_IF_ERROR(CheckResult(result));
  PlanRecord record = std::move(in_flight_.front());
  in_flight_.pop_front();
  TakePromptLogprobs(result, record);
  for (const RowsRecord& rows : record.rows) {
    if (rows.sequence->state == SequenceState::kFinished) {
      totals_.surplus_rows += rows.rows;
    } else {
      OfferBlocks(*rows.sequence, rows.end_position);
    }
  }
  for (size_t i = 0; i < record.samples.size(); ++i) TakeSample(record.samples[i], result.samples[i], now_ns);
  for (const BlockHandle& source : record.held) {
    const auto copies = copy_sources_.find(source.id());
    if (--copies->second == 0) copy_sources_.erase(copies);
  }
  record.held.clear();
  for (const SequencePointer& sequence : record.users) {
    if (--sequence->in_flight == 0) Drained(sequence);
  }
  return absl::OkStatus();
}

absl::Status Scheduler::CheckResult(const StepResult& result) const {
  if (in_flight_.empty()) {
    return absl::FailedPreconditionError(
        absl::StrCat("a result of step ", result.step.value(), " came, but no step is in flight"));
  }
  const PlanRecord& record = in_flight_.front();
  if (result.step.value() != record.step) {
    return absl::FailedPreconditionError(
        absl::StrCat("the result of step ", result.step.value(), " came where that of step ", record.step, " was due"));
  }
  if (result.samples.size() != record.samples.size()) {
    return absl::FailedPreconditionError(absl::StrCat("step ", record.step, " sampled ", result.samples.size(),
                                                      " tokens where ", record.samples.size(), " were planned"));
  }
  for (size_t i = 0; i < record.samples.size(); ++i) {
    const SampledToken& sample = result.samples[i];
    if (sample.slot != record.sample_slots[i]) {
      return absl::FailedPreconditionError(absl::StrCat("step ", record.step, " sampled for slot ", sample.slot.value(),
                                                        " where slot ", record.sample_slots[i].value(), " was planned"));
    }
    if (sample.token < 0 || sample.token >= settings_.vocabulary) {
      return absl::FailedPreconditionError(absl::StrCat("step ", record.step, " sampled token ", sample.token,
                                                        ", outside the vocabulary of ", settings_.vocabulary));
    }
  }
  return absl::OkStatus();
}

void Scheduler::TakePromptLogprobs(const StepResult& result, const PlanRecord& record) {
  for (const PromptLogprobs& part : result.prompt_logprobs) {
    for (const RowsRecord& rows : record.rows) {
      Sequence& sequence = *rows.sequence;
      if (!rows.prompt_logprobs || sequence.slot != part.slot || sequence.state == SequenceState::kFinished) continue;
      for (size_t i = 0; i < part.positions.size(); ++i) {
        const int64_t position = int64_t{part.first_position} + static_cast<int64_t>(i);
        if (position < 1 || position >= static_cast<int64_t>(sequence.prompt_logprobs.size())) continue;
        sequence.prompt_logprobs[static_cast<size_t>(position)] = part.positions[i];
      }
    }
  }
}

void Scheduler::TakeSample(const SequencePointer& sequence, const SampledToken& sample, int64_t now_ns) {
  if (sequence->state == SequenceState::kFinished) return;
  --sequence->unread_samples;
  ChoiceOutput output = OutputOf(*sequence);
  sequence->tokens.push_back(sample.token);
  output.tokens.push_back(sample.token);
  if (sequence->request->sampling->logprobs >= 0) output.logprobs.push_back(sample.logprobs);
  ++totals_.generated_tokens;
  if (!sequence->reported_first) {
    sequence->reported_first = true;
    sequence->first_token_ns = now_ns;
    output.cached_tokens = sequence->cached_tokens;
    output.queue_ns = sequence->first_scheduled_ns - sequence->request->arrived_ns;
    output.prefill_ns = now_ns - sequence->first_scheduled_ns;
    if (sequence->wants_prompt_logprobs) output.prompt_logprobs = std::move(sequence->prompt_logprobs);
    sequence->wants_prompt_logprobs = false;
  }
  const FinishReason reason = ReasonToStop(*sequence);
  if (reason != FinishReason::kNone) {
    output.decode_ns = now_ns - sequence->first_token_ns;
    Finish(sequence, reason, "", &output);
  }
  outputs_.push_back(std::move(output));
  AfterTrialToken(*sequence);
}

// Blocks whose rows are all computed enter the prefix cache.
void Scheduler::OfferBlocks(Sequence& sequence, int read_end) {
  if (!settings_.prefix_caching) return;
  const int block_tokens = settings_.block_tokens;
  const int full = read_end / block_tokens;
  for (; sequence.offered_blocks < full; ++sequence.offered_blocks) {
    const size_t index = static_cast<size_t>(sequence.offered_blocks);
    if (index >= sequence.hashes.size()) {
      const BlockHash previous =
          sequence.hashes.empty() ? ChainStart(sequence.request->cache_salt) : sequence.hashes.back();
      const std::span<const TokenId> block =
          std::span(sequence.tokens).subspan(index * static_cast<size_t>(block_tokens), static_cast<size_t>(block_tokens));
      sequence.hashes.push_back(ChainNext(previous, block));
    }
    cache_->Insert(sequence.hashes[index], sequence.blocks[index].id());
  }
}

// Nothing of it is in flight any more.
void Scheduler::Drained(const SequencePointer& sequence) {
  if (sequence->state == SequenceState::kFinished) {
    // It may have ended while this very result was read: then it was counted as in flight.
    --finished_in_flight_;
    LeaveWorkers(*sequence);
  } else if (sequence->state == SequenceState::kDraining) {
    --draining_;
    running_.erase(sequence);
    LeaveWorkers(*sequence);
    sequence->state = SequenceState::kWaiting;
    waiting_.insert(sequence);
  }
}

}  // namespace pagoda::coordinator
