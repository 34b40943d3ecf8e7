#include "worker/engine/step_executor.h"

#include <algorithm>

namespace pagoda::worker {
namespace {

constexpr size_t kMaxPendingTokenSteps = 64;
constexpr int kHeadRows = 32;  // of one call of Decoder::Logits

// Adds the time of a scope to a sum.
class Stopwatch {
 public:
  explicit Stopwatch(int64_t& sum_ns) : sum_ns_(sum_ns), begin_(NowNs()) {}
  ~Stopwatch() { sum_ns_ += NowNs() - begin_; }

 private:
  int64_t& sum_ns_;
  const MonotonicNs begin_;
};

class WaitNote {
 public:
  WaitNote(StepMonitor* monitor, const std::string& what) : monitor_(monitor) {
    if (monitor_ != nullptr) monitor_->BeginWait(what);
  }
  ~WaitNote() {
    if (monitor_ != nullptr) monitor_->EndWait();
  }

 private:
  StepMonitor* monitor_;
};

}  // namespace

StepExecutor::StepExecutor(const ExecutorOptions& options, Decoder& decoder, Transport& transport)
    : options_(options),
      decoder_(decoder),
      first_(decoder.shard().first()),
      last_(decoder.shard().last()),
      vocabulary_(decoder.shard().spec.vocabulary),
      link_(transport, options.self, options.stages, decoder.shard().spec.hidden, options.max_rows),
      collective_(transport, options.self, options.stages[static_cast<size_t>(options.self.stage)].tensor_parallel),
      group_(&collective_, &transport, options.deadline, options.stop),
      slots_({.slots = options.max_slots, .blocks = options.kv_blocks, .block_tokens = options.block_tokens,
              .vocabulary = decoder.shard().spec.vocabulary}),
      sampler_(decoder.shard().spec.vocabulary) {}

absl::Status StepExecutor::Expect(const StepPlan& plan) {
  posted_ = plan.step;
  const int rows = plan.TotalRows();
  if (first_ || rows == 0) return absl::OkStatus();
  return link_.PostReceiveHidden(plan.step, rows);
}

absl::Status StepExecutor::Apply(const StepPlan& plan) {
  operation_ = "apply the plan";
  times_ = {.rows = plan.TotalRows()};
  if (times_.rows > options_.max_rows || static_cast<int>(plan.samples.size()) > options_.max_sample_rows) {
    return absl::InvalidArgumentError(absl::StrCat("a plan of ", times_.rows, " rows and ", plan.samples.size(),
                                                   " samples; at most ", options_.max_rows, " and ",
                                                   options_.max_sample_rows));
  }
  group_.BeginStep(plan.step);
  if (first_) PAGODA_RETURN_IF_ERROR(ResolveForks(plan));
  PAGODA_RETURN_IF_ERROR(slots_.Apply(plan));
  sequences_.clear();
  first_row_.clear();
  int row = 0;
  for (const PlanRows& rows : plan.rows) {
    sequences_.push_back({.first_row = row,
                          .rows = rows.count,
                          .first_position = rows.first_position,
                          .blocks = slots_.at(rows.slot).blocks});
    first_row_.push_back(row);
    row += rows.count;
  }
  if (plan.copies.empty()) return absl::OkStatus();
  operation_ = "copy blocks";
  std::vector<kernels::Backend::BlockCopy> copies;
  for (const PlanCopy& copy : plan.copies) copies.push_back({copy.from, copy.to});
  return decoder_.CopyBlocks(copies);
}

// A fork shares what its source knows, so tokens that are still under way to the source are taken first.
absl::Status StepExecutor::ResolveForks(const StepPlan& plan) {
  size_t steps = 0;
  for (const StartSlot& start : plan.starts) {
    for (size_t i = 0; start.fork_of >= 0 && i < pending_.size(); ++i) {
      for (const PendingSample& sample : pending_[i].samples) {
        if (sample.slot == start.fork_of && slots_.at(sample.slot).generation == sample.generation) steps = i + 1;
      }
    }
  }
  return TakePendingTokens(steps);
}

absl::Status StepExecutor::TakeInput(const StepPlan& plan) {
  Stopwatch watch(times_.wait_in_ns);
  if (first_) return TakeTokensFor(plan);
  if (times_.rows == 0) return absl::OkStatus();
  const int from = options_.self.rank % options_.stages[static_cast<size_t>(options_.self.stage - 1)].tensor_parallel;
  operation_ = absl::StrCat("receive hidden states from stage ", options_.self.stage - 1, " rank ", from);
  WaitNote note(options_.monitor, absl::StrCat(operation_, ", step ", plan.step.value()));
  PAGODA_ASSIGN_OR_RETURN(hidden_, link_.ReceiveHidden(plan.step, options_.deadline, options_.stop));
  return absl::OkStatus();
}

absl::StatusOr<size_t> StepExecutor::StepsNeeded(const StepPlan& plan) const {
  size_t steps = pending_.size() > kMaxPendingTokenSteps ? pending_.size() - kMaxPendingTokenSteps : 0;
  for (const PlanRows& rows : plan.rows) {
    const SlotTable::Slot& slot = slots_.at(rows.slot);
    const int last = rows.first_position + rows.count - 1;
    bool found = last < static_cast<int>(slot.tokens.size());
    // Taken even when this rank knows them (it sampled them itself): the ranks of the group must decide alike.
    for (size_t i = 0; i < pending_.size(); ++i) {
      for (const PendingSample& sample : pending_[i].samples) {
        if (sample.slot != rows.slot || sample.generation != slot.generation || sample.position > last) continue;
        steps = std::max(steps, i + 1);
        found = found || sample.position == last;
      }
    }
    if (!found) {
      return absl::InvalidArgumentError(absl::StrCat("slot ", rows.slot, ": the token at position ", last,
                                                     " is neither known nor sampled by an earlier step"));
    }
  }
  return steps;
}

absl::Status StepExecutor::TakeTokensFor(const StepPlan& plan) {
  operation_ = "find the rows' tokens";
  PAGODA_ASSIGN_OR_RETURN(const size_t steps, StepsNeeded(plan));
  PAGODA_RETURN_IF_ERROR(TakePendingTokens(steps));
  tokens_.clear();
  for (const PlanRows& rows : plan.rows) {
    const std::vector<TokenId>& known = slots_.at(rows.slot).tokens;
    tokens_.insert(tokens_.end(), known.begin() + rows.first_position,
                   known.begin() + rows.first_position + rows.count);
  }
  if (!plan.samples.empty()) {
    PendingTokens pending{.step = plan.step};
    for (const PlanSample& sample : plan.samples) {
      const SlotTable::Slot& slot = slots_.at(sample.slot);
      pending.samples.push_back({sample.slot, slot.generation, slot.prompt_length + sample.output_index});
    }
    pending_.push_back(std::move(pending));
  }
  return absl::OkStatus();
}

absl::Status StepExecutor::TakePendingTokens(size_t steps) {
  if (steps == 0) return absl::OkStatus();
  std::vector<TokenId> tokens;
  size_t count = 0;
  for (size_t i = 0; i < steps; ++i) count += pending_[i].samples.size();
  for (size_t i = 0; i < steps && options_.self.rank == 0; ++i) {
    const PendingTokens& pending = pending_[i];
    operation_ = absl::StrCat("receive sampled tokens of step ", pending.step.value());
    WaitNote note(options_.monitor, operation_);
    PAGODA_ASSIGN_OR_RETURN(const std::vector<StageLink::SlotToken> received,
                            link_.ReceiveTokens(pending.step, static_cast<int>(pending.samples.size()),
                                                options_.deadline, options_.stop));
    for (size_t j = 0; j < received.size(); ++j) {
      if (received[j].slot != pending.samples[j].slot) {
        return absl::InternalError(absl::StrCat("sampled token ", j, " of step ", pending.step.value(), " is for slot ",
                                                received[j].slot, ", expected ", pending.samples[j].slot));
      }
      tokens.push_back(received[j].token);
    }
  }
  tokens.resize(count);
  operation_ = "broadcast sampled tokens in the group";
  if (!group_.alone()) {
    WaitNote note(options_.monitor, operation_);
    PAGODA_RETURN_IF_ERROR(group_.Broadcast(0, std::as_writable_bytes(std::span(tokens))));
  }
  size_t next = 0;
  for (size_t i = 0; i < steps; ++i) {
    for (const PendingSample& sample : pending_.front().samples) {
      PAGODA_RETURN_IF_ERROR(slots_.Append(sample.slot, sample.generation, sample.position, tokens[next++]));
    }
    pending_.pop_front();
  }
  return absl::OkStatus();
}

absl::Status StepExecutor::Run(const StepPlan&) {
  operation_ = "run the layers";
  const int64_t waited = group_.wait_ns();
  {
    Stopwatch watch(times_.compute_ns);
    PAGODA_RETURN_IF_ERROR(decoder_.Run(
        {.step = {.sequences = sequences_, .rows = times_.rows}, .tokens = tokens_, .hidden = hidden_}, group_));
  }
  times_.group_wait_ns = group_.wait_ns() - waited;
  times_.compute_ns -= times_.group_wait_ns;
  return absl::OkStatus();
}

absl::Status StepExecutor::SendOn(const StepPlan& plan) {
  if (last_ || times_.rows == 0) return absl::OkStatus();
  operation_ = absl::StrCat("send hidden states to stage ", options_.self.stage + 1);
  Stopwatch watch(times_.send_ns);
  return link_.SendHidden(plan.step, decoder_.hidden(), times_.rows, options_.deadline, options_.stop);
}

absl::StatusOr<StepResult> StepExecutor::Finish(const StepPlan& plan) {
  StepResult result{.epoch = plan.epoch, .step = plan.step};
  if (last_) {
    const int64_t waited = group_.wait_ns();
    int64_t total = 0;
    {
      Stopwatch watch(total);
      PAGODA_RETURN_IF_ERROR(SampleRows(plan, result));
    }
    times_.group_wait_ns += group_.wait_ns() - waited;
    times_.compute_ns += total - (group_.wait_ns() - waited);
  }
  slots_.End(plan);
  result.compute_us = times_.compute_ns / 1000;
  return result;
}

// How many of the rows have a next token within the prompt.
int StepExecutor::PromptTargets(const PlanRows& rows) const {
  if (!rows.prompt_logprobs) return 0;
  const SlotTable::Slot& slot = slots_.at(rows.slot);
  return std::clamp(slot.prompt_length - 1 - rows.first_position, 0, rows.count);
}

std::vector<int> StepExecutor::LogitRows(const StepPlan& plan) const {
  std::vector<int> rows;
  for (size_t i = 0; i < plan.rows.size(); ++i) {
    for (int r = 0; r < PromptTargets(plan.rows[i]); ++r) rows.push_back(first_row_[i] + r);
  }
  for (const PlanSample& sample : plan.samples) {
    const size_t index = static_cast<size_t>(sample.rows_index);
    rows.push_back(first_row_[index] + plan.rows[index].count - 1);
  }
  std::sort(rows.begin(), rows.end());
  rows.erase(std::unique(rows.begin(), rows.end()), rows.end());
  return rows;
}

absl::Status StepExecutor::SampleRows(const StepPlan& plan, StepResult& result) {
  operation_ = "compute logits";
  const bool reporting = reports();
  if (reporting) {
    result.samples.resize(plan.samples.size());
    for (const PlanRows& rows : plan.rows) {
      if (PromptTargets(rows) > 0) {
        result.prompt_logprobs.push_back({.slot = rows.slot, .first_position = rows.first_position + 1});
      }
    }
  }
  const std::vector<int> rows = LogitRows(plan);
  for (size_t at = 0; at < rows.size(); at += kHeadRows) {
    const std::span<const int> chunk = std::span(rows).subspan(at, std::min<size_t>(kHeadRows, rows.size() - at));
    if (reporting) {
      PAGODA_ASSIGN_OR_RETURN(const bool sampled, SampleOnDevice(plan, chunk, result));
      if (sampled) continue;
    }
    PAGODA_ASSIGN_OR_RETURN(const kernels::F32View logits, decoder_.Logits(chunk, group_));
    if (reporting) PAGODA_RETURN_IF_ERROR(UseLogits(plan, chunk, logits, result));
  }
  if (!reporting || plan.samples.empty()) return absl::OkStatus();
  operation_ = "send sampled tokens to stage 0";
  std::vector<StageLink::SlotToken> tokens;
  for (const SampledToken& sample : result.samples) tokens.push_back({sample.slot, sample.token});
  return link_.SendTokens(plan.step, tokens);
}

absl::StatusOr<SamplingContext> StepExecutor::ContextOf(const PlanSample& sample) const {
  const SlotTable::Slot& slot = slots_.at(sample.slot);
  if (static_cast<int>(slot.tokens.size()) != slot.prompt_length + sample.output_index) {
    return absl::InvalidArgumentError(absl::StrCat("slot ", sample.slot, ": output ", sample.output_index, " after ",
                                                   slot.tokens.size(), " tokens of which ", slot.prompt_length, " are the prompt"));
  }
  return SamplingContext{.params = slot.params.get(),
                         .tokens = slot.tokens,
                         .prompt_length = slot.prompt_length,
                         .counts = slot.counts.has_value() ? &*slot.counts : nullptr,
                         .choice = slot.choice,
                         .output_index = sample.output_index};
}

absl::StatusOr<bool> StepExecutor::SampleOnDevice(const StepPlan& plan, std::span<const int> rows, StepResult& result) {
  if (!decoder_.samples_here(group_) || !result.prompt_logprobs.empty()) return false;
  std::vector<size_t> samples;
  std::vector<std::vector<kernels::Backend::SampleEdit>> edits;
  std::vector<kernels::Backend::SampleRow> choices;
  for (size_t i = 0; i < plan.samples.size(); ++i) {
    const auto found = std::lower_bound(rows.begin(), rows.end(), LastRowOf(plan, plan.samples[i]));
    if (found == rows.end() || *found != LastRowOf(plan, plan.samples[i])) continue;
    PAGODA_ASSIGN_OR_RETURN(const SamplingContext context, ContextOf(plan.samples[i]));
    const std::optional<Sampler::DeviceChoice> choice = sampler_.ForDevice(context);
    if (!choice.has_value()) return false;
    samples.push_back(i);
    edits.emplace_back();
    for (const Sampler::TokenEdit& edit : choice->edits) {
      edits.back().push_back({.token = edit.token, .forbid = edit.forbid, .seen = edit.seen, .output = edit.output, .bias = edit.bias});
    }
    choices.push_back({.row = static_cast<int>(found - rows.begin()),
                       .edits = {},
                       .repetition = static_cast<float>(context.params->repetition_penalty),
                       .frequency = static_cast<float>(context.params->frequency_penalty),
                       .presence = static_cast<float>(context.params->presence_penalty),
                       .factor = choice->factor,
                       .top_k = std::max(context.params->top_k, 0),
                       .top_p = context.params->top_p,
                       .min_p = static_cast<float>(context.params->min_p),
                       .uniform = choice->uniform});
  }
  for (size_t j = 0; j < choices.size(); ++j) choices[j].edits = edits[j];
  std::vector<TokenId> tokens(choices.size());
  PAGODA_RETURN_IF_ERROR(decoder_.Sample(rows, choices, tokens, group_));
  if (std::find(tokens.begin(), tokens.end(), -1) != tokens.end()) return false;
  for (size_t j = 0; j < samples.size(); ++j) {
    const PlanSample& sample = plan.samples[samples[j]];
    const SlotTable::Slot& slot = slots_.at(sample.slot);
    result.samples[samples[j]] = {.slot = sample.slot, .token = tokens[j], .logprobs = {}};
    PAGODA_RETURN_IF_ERROR(slots_.Append(sample.slot, slot.generation, static_cast<int>(slot.tokens.size()), tokens[j]));
  }
  return true;
}

absl::Status StepExecutor::UseLogits(const StepPlan& plan, std::span<const int> rows, const kernels::F32View& logits,
                                     StepResult& result) {
  const auto line_of = [&](int row) -> std::span<const float> {
    const auto found = std::lower_bound(rows.begin(), rows.end(), row);
    if (found == rows.end() || *found != row) return {};
    return {logits.data + (found - rows.begin()) * logits.stride, static_cast<size_t>(logits.columns)};
  };
  size_t prompt_entry = 0;
  for (size_t i = 0; i < plan.rows.size(); ++i) {
    const int targets = PromptTargets(plan.rows[i]);
    if (targets == 0) continue;
    PromptLogprobs& out = result.prompt_logprobs[prompt_entry++];
    const SlotTable::Slot& slot = slots_.at(plan.rows[i].slot);
    for (int r = 0; r < targets; ++r) {
      const std::span<const float> line = line_of(first_row_[i] + r);
      if (line.empty()) continue;
      const TokenId next = slot.tokens[static_cast<size_t>(plan.rows[i].first_position + r + 1)];
      out.positions.push_back(sampler_.LogprobsOf(line, next, std::max(slot.params->prompt_logprobs, 0)));
    }
  }
  for (size_t i = 0; i < plan.samples.size(); ++i) {
    const PlanSample& sample = plan.samples[i];
    const size_t index = static_cast<size_t>(sample.rows_index);
    const std::span<const float> line = line_of(first_row_[index] + plan.rows[index].count - 1);
    if (line.empty()) continue;
    const SlotTable::Slot& slot = slots_.at(sample.slot);
    PAGODA_ASSIGN_OR_RETURN(const SamplingContext context, ContextOf(sample));
    Sampled sampled = sampler_.Sample(line, context);
    result.samples[i] = {.slot = sample.slot, .token = sampled.token, .logprobs = std::move(sampled.logprobs)};
    PAGODA_RETURN_IF_ERROR(slots_.Append(sample.slot, slot.generation, static_cast<int>(slot.tokens.size()), sampled.token));
  }
  return absl::OkStatus();
}

}  // namespace pagoda::worker
