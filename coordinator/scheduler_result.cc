// Reading the result of a step: tokens, ends, prompt log-probabilities, and blocks that now hold what they should.
#include <algorithm>
#include <utility>

#include "coordinator/scheduler.h"

namespace pagoda::coordinator {

absl::Status Scheduler::OnResult(const StepResult& result, int64_t now_ns) {
  if (!epoch_open_ || result.epoch != settings_.epoch) return absl::OkStatus();  // of another life
  now_ns_ = now_ns;
  if (CameEarly(result)) {
    early_.emplace(result.step.value(), result);
    return absl::OkStatus();
  }
  PAGODA_RETURN_IF_ERROR(ReadResult(result, now_ns));
  while (!early_.empty() && early_.begin()->first == last_read_step_ + 1) {
    const StepResult next = std::move(early_.begin()->second);
    early_.erase(early_.begin());
    PAGODA_RETURN_IF_ERROR(ReadResult(next, now_ns));
  }
  return absl::OkStatus();
}

// A rebuild is reported by another rank than other steps are, so their results can overtake each other.
bool Scheduler::CameEarly(const StepResult& result) const {
  if (rebuilds_in_flight_ == 0 || in_flight_.empty()) return false;
  return result.step.value() > in_flight_.front().step && result.step.value() <= in_flight_.back().step;
}

absl::Status Scheduler::ReadResult(const StepResult& result, int64_t now_ns) {
  PAGODA_RETURN_IF_ERROR(CheckResult(result));
  PlanRecord record = std::move(in_flight_.front());
  in_flight_.pop_front();
  if (!record.is_rebuild) LearnCost(record, result, now_ns);
  last_read_step_ = record.step;
  rebuilds_in_flight_ -= record.is_rebuild;
  pending_names_.insert(pending_names_.end(), record.rebuilt.begin(), record.rebuilt.end());
  TakePromptLogprobs(result, record);
  for (const RowsRecord& rows : record.rows) {
    if (rows.sequence->state == SequenceState::kFinished) {
      totals_.surplus_rows += rows.rows;
    } else if (rows.sample < 0) {
      OfferBlocks(*rows.sequence, rows.end_position);
    }
  }
  for (size_t i = 0; i < record.samples.size(); ++i) TakeSample(record.samples[i], result.samples[i], now_ns);
  for (const RowsRecord& rows : record.rows) {
    if (rows.sample >= 0) TakeDrafts(rows, result.samples[static_cast<size_t>(rows.sample)]);
  }
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
    const SampleRecord& planned = record.samples[i];
    if (sample.slot != planned.slot) {
      return absl::FailedPreconditionError(absl::StrCat("step ", record.step, " sampled for slot ", sample.slot.value(),
                                                        " where slot ", planned.slot.value(), " was planned"));
    }
    const size_t further = sample.further.size();
    for (size_t t = 0; t <= further; ++t) {
      const TokenId token = t == 0 ? sample.token : sample.further[t - 1].token;
      if (token < 0 || token >= settings_.vocabulary) {
        return absl::FailedPreconditionError(absl::StrCat("step ", record.step, " sampled token ", token,
                                                          ", outside the vocabulary of ", settings_.vocabulary));
      }
      if (t < further && (t >= planned.drafts.size() || token != planned.drafts[t])) {
        return absl::FailedPreconditionError(absl::StrCat("step ", record.step, " went on after token ", token,
                                                          " of slot ", planned.slot.value(), ", which was not the draft"));
      }
    }
  }
  return absl::OkStatus();
}

void Scheduler::LearnCost(const PlanRecord& record, const StepResult& result, int64_t now_ns) {
  const int64_t compute_ns = result.compute_us * 1000;
  cost_.Observe(record.decode_rows, record.prompt_rows, compute_ns);
  if (record.found_idle && record.prompt_rows == 0) {
    cost_.ObserveRoundTrip(now_ns - record.dispatched_ns - compute_ns * settings_.stages);
  }
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

void Scheduler::TakeSample(const SampleRecord& record, const SampledToken& sample, int64_t now_ns) {
  const SequencePointer& sequence = record.sequence;
  if (sequence->state == SequenceState::kFinished) return;
  --sequence->unread_samples;
  ChoiceOutput output = OutputOf(*sequence);
  const bool logprobs = sequence->request->sampling->logprobs >= 0;
  FinishReason reason = FinishReason::kNone;
  // What a step gave beyond the sequence's end is thrown away.
  for (size_t t = 0; t <= sample.further.size() && reason == FinishReason::kNone; ++t) {
    const TokenId token = t == 0 ? sample.token : sample.further[t - 1].token;
    sequence->tokens.push_back(token);
    output.tokens.push_back(token);
    if (logprobs) output.logprobs.push_back(t == 0 ? sample.logprobs : sample.further[t - 1].logprobs);
    if (!sequence->request->canary) ++totals_.generated_tokens;
    reason = ReasonToStop(*sequence);
  }
  if (!sequence->reported_first) {
    sequence->reported_first = true;
    sequence->first_token_ns = now_ns;
    output.cached_tokens = sequence->cached_tokens;
    output.queue_ns = sequence->first_scheduled_ns - sequence->request->arrived_ns;
    output.prefill_ns = now_ns - sequence->first_scheduled_ns;
    if (sequence->wants_prompt_logprobs) output.prompt_logprobs = std::move(sequence->prompt_logprobs);
    sequence->wants_prompt_logprobs = false;
  }
  if (reason != FinishReason::kNone) {
    output.decode_ns = now_ns - sequence->first_token_ns;
    Finish(sequence, reason, "", &output);
  }
  outputs_.push_back(std::move(output));
  AfterTrialToken(*sequence);
}

// The rows of drafts that did not come true are as good as not computed: their positions are run again.
void Scheduler::TakeDrafts(const RowsRecord& rows, const SampledToken& sample) {
  Sequence& sequence = *rows.sequence;
  totals_.accepted_draft_tokens += static_cast<int64_t>(sample.further.size());
  if (sequence.state == SequenceState::kFinished) return;
  sequence.scheduled = sequence.length() - 1;
  sequence.untold = static_cast<int>(sample.further.size()) + 1;
  OfferBlocks(sequence, sequence.scheduled);
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
    const BlockName name{sequence.blocks[index].id(), sequence.hashes[index]};
    if (cache_->Insert(name.hash, name.block)) pending_names_.push_back(name);
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
