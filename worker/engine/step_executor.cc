#include "worker/engine/step_executor.h"

#include <algorithm>
#include <set>

namespace pagoda::worker {
namespace {

constexpr size_t kMaxPendingTokenSteps = 64;
constexpr int kDecodeRows = 4;  // fewer wait for memory: their times say nothing about batches
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

// Tokens of drafting sequences reach stage 0 with the next plan instead.
bool GoesBack(const StepPlan& plan, const PlanSample& sample) {
  return plan.rows[static_cast<size_t>(sample.rows_index)].drafts.empty();
}

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

StepExecutor::StepExecutor(const ExecutorOptions& options, Decoder& decoder, KvRecord& record, Transport& transport)
    : options_(options),
      decoder_(decoder),
      record_(record),
      first_(decoder.shard().first()),
      last_(decoder.shard().last()),
      feeds_(!last_ && options.self.rank < options.stages[static_cast<size_t>(options.self.stage) + 1].tensor_parallel),
      vocabulary_(decoder.shard().spec.vocabulary),
      link_(transport, options.self, options.stages, decoder.shard().spec.hidden, options.max_rows),
      collective_(transport, options.self, options.stages[static_cast<size_t>(options.self.stage)].tensor_parallel),
      group_(&collective_, &transport, options.deadline, options.stop),
      slots_({.slots = options.max_slots, .blocks = options.kv_blocks, .block_tokens = options.block_tokens,
              .vocabulary = decoder.shard().spec.vocabulary}),
      samplers_(static_cast<size_t>(decoder.backend().host_threads()), Sampler(decoder.shard().spec.vocabulary)) {}

absl::Status StepExecutor::Expect(const StepPlan& plan) {
  posted_ = plan.step;
  const int rows = RowsOf(plan);
  if (first_ || rows == 0 || rows > options_.max_rows || PartOf(plan) != Part::kRun) return absl::OkStatus();
  return link_.PostReceiveHidden(plan.step, rows);
}

absl::Status StepExecutor::Apply(const StepPlan& plan) {
  Begin("apply the plan");
  times_ = {.rows = RowsOf(plan)};
  times_.decodes = !plan.rebuild.has_value() && times_.rows >= kDecodeRows;
  for (const PlanRows& rows : plan.rows) times_.decodes = times_.decodes && rows.count - static_cast<int>(rows.drafts.size()) == 1;
  if (times_.rows > options_.max_rows || static_cast<int>(plan.samples.size()) > options_.max_sample_rows) {
    return absl::InvalidArgumentError(absl::StrCat("a plan of ", times_.rows, " rows and ", plan.samples.size(),
                                                   " samples; at most ", options_.max_rows, " and ",
                                                   options_.max_sample_rows));
  }
  group_.BeginStep(plan.step);
  if (first_) PAGODA_RETURN_IF_ERROR(ResolveForks(plan));
  record_.BeginPlan(plan, PartOf(plan) == Part::kRun);
  if (plan.rebuild.has_value()) PAGODA_RETURN_IF_ERROR(CheckRebuild(*plan.rebuild));
  PAGODA_RETURN_IF_ERROR(slots_.Apply(plan));
  PlaceRows(plan);
  if (plan.copies.empty()) return absl::OkStatus();
  Begin("copy blocks");
  std::vector<kernels::Backend::BlockCopy> copies;
  for (const PlanCopy& copy : plan.copies) copies.push_back({copy.from, copy.to});
  return decoder_.CopyBlocks(copies);
}

// Which rows of the step belong to which blocks.
void StepExecutor::PlaceRows(const StepPlan& plan) {
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
  if (!plan.rebuild.has_value()) return;
  for (const RebuildChain& chain : plan.rebuild->chains) {
    const int count = chain.blocks_to_fill() * options_.block_tokens;
    sequences_.push_back({.first_row = row,
                          .rows = count,
                          .first_position = chain.first_block * options_.block_tokens,
                          .blocks = chain.blocks});
    row += count;
  }
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
  if (PartOf(plan) != Part::kRun || times_.rows == 0) return absl::OkStatus();
  if (first_ && plan.rebuild.has_value()) {
    tokens_.clear();
    for (const RebuildChain& chain : plan.rebuild->chains) {
      tokens_.insert(tokens_.end(), chain.tokens.begin(), chain.tokens.end());
    }
    return absl::OkStatus();
  }
  if (first_) return TakeTokensFor(plan);
  const int from = options_.self.rank % options_.stages[static_cast<size_t>(options_.self.stage - 1)].tensor_parallel;
  Begin(absl::StrCat("receive hidden states from stage ", options_.self.stage - 1, " rank ", from));
  WaitNote note(options_.monitor, absl::StrCat(operation_, ", step ", plan.step.value()));
  PAGODA_ASSIGN_OR_RETURN(hidden_, link_.ReceiveHidden(plan.step, options_.deadline, options_.stop));
  return absl::OkStatus();
}

absl::StatusOr<size_t> StepExecutor::StepsNeeded(const StepPlan& plan) const {
  size_t steps = pending_.size() > kMaxPendingTokenSteps ? pending_.size() - kMaxPendingTokenSteps : 0;
  for (const PlanRows& rows : plan.rows) {
    const SlotTable::Slot& slot = slots_.at(rows.slot);
    const int last = rows.known_end() - 1;
    bool found = last < static_cast<int>(slot.tokens.size()) || !rows.accepted.empty();
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
  Begin("find the rows' tokens");
  PAGODA_ASSIGN_OR_RETURN(const size_t steps, StepsNeeded(plan));
  PAGODA_RETURN_IF_ERROR(TakePendingTokens(steps));
  tokens_.clear();
  for (const PlanRows& rows : plan.rows) {
    const SlotTable::Slot& slot = slots_.at(rows.slot);
    int position = rows.known_end() - static_cast<int>(rows.accepted.size());
    for (const TokenId token : rows.accepted) {
      PAGODA_RETURN_IF_ERROR(slots_.Append(rows.slot, slot.generation, position++, token));
    }
    const auto known = slot.tokens.begin();
    tokens_.insert(tokens_.end(), known + rows.first_position, known + rows.known_end());
    tokens_.insert(tokens_.end(), rows.drafts.begin(), rows.drafts.end());
  }
  PendingTokens pending{.step = plan.step};
  for (const PlanSample& sample : plan.samples) {
    if (!GoesBack(plan, sample)) continue;
    const SlotTable::Slot& slot = slots_.at(sample.slot);
    pending.samples.push_back({sample.slot, slot.generation, slot.prompt_length + sample.output_index});
  }
  if (!pending.samples.empty()) pending_.push_back(std::move(pending));
  return absl::OkStatus();
}

absl::Status StepExecutor::TakePendingTokens(size_t steps) {
  if (steps == 0) return absl::OkStatus();
  std::vector<TokenId> tokens;
  size_t count = 0;
  for (size_t i = 0; i < steps; ++i) count += pending_[i].samples.size();
  for (size_t i = 0; i < steps && options_.self.rank == 0; ++i) {
    const PendingTokens& pending = pending_[i];
    Begin(absl::StrCat("receive sampled tokens of step ", pending.step.value()));
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
  Begin("broadcast sampled tokens in the group");
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

absl::Status StepExecutor::Run(const StepPlan& plan) {
  if (PartOf(plan) != Part::kRun) return absl::OkStatus();
  Begin("run the layers");
  const int64_t waited = group_.wait_ns();
  {
    Stopwatch watch(times_.compute_ns);
    PAGODA_RETURN_IF_ERROR(decoder_.Run(
        {.step = {.sequences = sequences_, .rows = times_.rows}, .tokens = tokens_, .hidden = hidden_}, group_));
  }
  times_.group_wait_ns = group_.wait_ns() - waited;
  times_.compute_ns -= times_.group_wait_ns;
  if (feeds_ && times_.rows > 0) record_.KeepOutputs(sequences_, decoder_.hidden());
  return absl::OkStatus();
}

absl::Status StepExecutor::SendOn(const StepPlan& plan) {
  if (last_ || times_.rows == 0) return absl::OkStatus();
  if (PartOf(plan) == Part::kFeed) return FeedKeptOutputs(plan);
  if (plan.rebuild.has_value() && (PartOf(plan) == Part::kNothing || options_.self.stage == plan.rebuild->last_stage)) {
    return absl::OkStatus();
  }
  Begin(absl::StrCat("send hidden states to stage ", options_.self.stage + 1));
  Stopwatch watch(times_.send_ns);
  return link_.SendHidden(plan.step, decoder_.hidden(), times_.rows, options_.deadline, options_.stop);
}

absl::StatusOr<StepResult> StepExecutor::Finish(const StepPlan& plan) {
  StepResult result{.epoch = plan.epoch, .step = plan.step};
  if (last_ && !plan.rebuild.has_value()) {
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
  for (const SampleChain& chain : chains_) {
    for (int row = chain.first_row; row < chain.end_row; ++row) rows.push_back(row);
  }
  std::sort(rows.begin(), rows.end());
  rows.erase(std::unique(rows.begin(), rows.end()), rows.end());
  return rows;
}

absl::Status StepExecutor::SampleRows(const StepPlan& plan, StepResult& result) {
  Begin("compute logits");
  const bool reporting = Reports(plan);
  if (reporting) {
    result.samples.resize(plan.samples.size());
    for (const PlanRows& rows : plan.rows) {
      if (PromptTargets(rows) > 0) {
        result.prompt_logprobs.push_back({.slot = rows.slot, .first_position = rows.first_position + 1});
      }
    }
  }
  chains_.clear();
  for (const PlanSample& sample : plan.samples) {
    const size_t index = static_cast<size_t>(sample.rows_index);
    const int end = first_row_[index] + plan.rows[index].count;
    const int first = end - 1 - static_cast<int>(plan.rows[index].drafts.size());
    chains_.push_back({.next_row = first, .first_row = first, .end_row = end});
  }
  const std::vector<int> rows = LogitRows(plan);
  const bool largest_only = reporting && group_.alone() && result.prompt_logprobs.empty() && TakesLargestOnly(plan);
  for (size_t at = 0; at < rows.size(); at += kHeadRows) {
    const std::span<const int> chunk = std::span(rows).subspan(at, std::min<size_t>(kHeadRows, rows.size() - at));
    if (largest_only) {
      Stopwatch watch(times_.head_ns);
      PAGODA_ASSIGN_OR_RETURN(const std::vector<TokenId> tokens, decoder_.LargestLogits(chunk));
      PAGODA_RETURN_IF_ERROR(UseLargest(plan, chunk, tokens, result));
      continue;
    }
    if (reporting) {
      Stopwatch watch(times_.sample_ns);
      PAGODA_ASSIGN_OR_RETURN(const bool sampled, SampleOnDevice(plan, chunk, result));
      if (sampled) continue;
    }
    LogitLines lines{.rows = chunk, .logits = {}};
    {
      Stopwatch watch(times_.head_ns);
      PAGODA_ASSIGN_OR_RETURN(lines.logits, decoder_.Logits(lines.rows, group_));
    }
    Stopwatch watch(times_.sample_ns);
    if (reporting) PAGODA_RETURN_IF_ERROR(UseLogits(plan, lines, result));
  }
  if (!reporting) return absl::OkStatus();
  Begin("send sampled tokens to stage 0");
  std::vector<StageLink::SlotToken> tokens;
  for (size_t i = 0; i < plan.samples.size(); ++i) {
    if (GoesBack(plan, plan.samples[i])) tokens.push_back({result.samples[i].slot, result.samples[i].token});
  }
  return tokens.empty() ? absl::OkStatus() : link_.SendTokens(plan.step, tokens);
}

absl::StatusOr<bool> StepExecutor::SampleOnDevice(const StepPlan& plan, std::span<const int> rows, StepResult& result) {
  if (!decoder_.samples_here(group_) || !result.prompt_logprobs.empty()) return false;
  std::vector<size_t> samples;
  std::vector<std::vector<kernels::Backend::SampleEdit>> edits;
  std::vector<kernels::Backend::SampleRow> choices;
  for (size_t i = 0; i < plan.samples.size(); ++i) {
    const PlanSample& sample = plan.samples[i];
    if (!plan.rows[static_cast<size_t>(sample.rows_index)].drafts.empty()) return false;
    const auto found = std::lower_bound(rows.begin(), rows.end(), chains_[i].first_row);
    if (found == rows.end() || *found != chains_[i].first_row) continue;
    const SlotTable::Slot& slot = slots_.at(sample.slot);
    PAGODA_RETURN_IF_ERROR(CheckOutputIndex(sample.slot, slot, sample.output_index));
    const SamplingContext context{.params = slot.params.get(),
                                  .tokens = slot.tokens,
                                  .prompt_length = slot.prompt_length,
                                  .counts = slot.counts.has_value() ? &*slot.counts : nullptr,
                                  .choice = slot.choice,
                                  .output_index = sample.output_index};
    const std::optional<Sampler::DeviceChoice> choice = samplers_[0].ForDevice(context);
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
                       .least = choice->least,
                       .uniform = choice->uniform});
  }
  for (size_t j = 0; j < choices.size(); ++j) choices[j].edits = edits[j];
  std::vector<TokenId> tokens(choices.size());
  PAGODA_RETURN_IF_ERROR(decoder_.Sample(rows, choices, tokens, group_));
  if (std::find(tokens.begin(), tokens.end(), -1) != tokens.end()) return false;
  for (size_t j = 0; j < samples.size(); ++j) {
    const PlanSample& sample = plan.samples[samples[j]];
    const SlotTable::Slot& slot = slots_.at(sample.slot);
    result.samples[samples[j]] = {.slot = sample.slot, .token = tokens[j], .logprobs = {}, .further = {}};
    PAGODA_RETURN_IF_ERROR(slots_.Append(sample.slot, slot.generation, static_cast<int>(slot.tokens.size()), tokens[j]));
  }
  return true;
}

// Nobody looks at the logits and nothing is drafted: every sample is the largest one of its row.
bool StepExecutor::TakesLargestOnly(const StepPlan& plan) const {
  return std::all_of(plan.samples.begin(), plan.samples.end(), [&](const PlanSample& sample) {
    return plan.rows[static_cast<size_t>(sample.rows_index)].drafts.empty() &&
           Sampler::TakesLargest({.params = slots_.at(sample.slot).params.get(), .output_index = sample.output_index});
  });
}

absl::Status StepExecutor::UseLargest(const StepPlan& plan, std::span<const int> rows, std::span<const TokenId> tokens,
                                      StepResult& result) {
  for (size_t i = 0; i < plan.samples.size(); ++i) {
    const PlanSample& sample = plan.samples[i];
    const size_t index = static_cast<size_t>(sample.rows_index);
    const int row = first_row_[index] + plan.rows[index].count - 1;
    const auto found = std::lower_bound(rows.begin(), rows.end(), row);
    if (found == rows.end() || *found != row) continue;
    const SlotTable::Slot& slot = slots_.at(sample.slot);
    PAGODA_RETURN_IF_ERROR(CheckOutputIndex(sample.slot, slot, sample.output_index));
    const TokenId token = tokens[static_cast<size_t>(found - rows.begin())];
    result.samples[i] = {.slot = sample.slot, .token = token, .logprobs = {}, .further = {}};
    PAGODA_RETURN_IF_ERROR(slots_.Append(sample.slot, slot.generation, static_cast<int>(slot.tokens.size()), token));
  }
  return absl::OkStatus();
}

absl::Status StepExecutor::CheckOutputIndex(int slot_number, const SlotTable::Slot& slot, int output_index) {
  if (static_cast<int>(slot.tokens.size()) == slot.prompt_length + output_index) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("slot ", slot_number, ": output ", output_index, " after ", slot.tokens.size(),
                                                 " tokens of which ", slot.prompt_length, " are the prompt"));
}

std::span<const float> StepExecutor::LogitLines::Of(int row) const {
  const auto found = std::lower_bound(rows.begin(), rows.end(), row);
  if (found == rows.end() || *found != row) return {};
  return {logits.data + (found - rows.begin()) * logits.stride, static_cast<size_t>(logits.columns)};
}

absl::Status StepExecutor::UseLogits(const StepPlan& plan, const LogitLines& lines, StepResult& result) {
  size_t prompt_entry = 0;
  for (size_t i = 0; i < plan.rows.size(); ++i) {
    if (PromptTargets(plan.rows[i]) == 0) continue;
    UsePromptLogits(plan.rows[i], first_row_[i], lines, result.prompt_logprobs[prompt_entry++]);
  }
  std::vector<absl::Status> statuses(plan.samples.size());
  decoder_.backend().RunOnHost(static_cast<int64_t>(plan.samples.size()), [&](int thread, int64_t task) {
    const size_t i = static_cast<size_t>(task);
    const PlanRows& rows = plan.rows[static_cast<size_t>(plan.samples[i].rows_index)];
    statuses[i] = Sample(samplers_[static_cast<size_t>(thread)], plan.samples[i], rows, lines, chains_[i], result.samples[i]);
  });
  for (const absl::Status& status : statuses) PAGODA_RETURN_IF_ERROR(status);
  return absl::OkStatus();
}

void StepExecutor::UsePromptLogits(const PlanRows& rows, int first_row, const LogitLines& lines, PromptLogprobs& out) {
  const SlotTable::Slot& slot = slots_.at(rows.slot);
  for (int r = 0; r < PromptTargets(rows); ++r) {
    const std::span<const float> line = lines.Of(first_row + r);
    if (line.empty()) continue;
    const TokenId next = slot.tokens[static_cast<size_t>(rows.first_position + r + 1)];
    out.positions.push_back(samplers_[0].LogprobsOf(line, next, std::max(slot.params->prompt_logprobs, 0)));
  }
}

absl::Status StepExecutor::Sample(Sampler& sampler, const PlanSample& sample, const PlanRows& rows,
                                  const LogitLines& lines, SampleChain& chain, SampledToken& out) {
  const SlotTable::Slot& slot = slots_.at(sample.slot);
  while (chain.next_row < chain.end_row) {
    const std::span<const float> line = lines.Of(chain.next_row);
    if (line.empty()) return absl::OkStatus();
    const int done = chain.next_row - chain.first_row;
    const int output_index = sample.output_index + done;
    PAGODA_RETURN_IF_ERROR(CheckOutputIndex(sample.slot, slot, output_index));
    Sampled sampled = sampler.Sample(line, {.params = slot.params.get(),
                                             .tokens = slot.tokens,
                                             .prompt_length = slot.prompt_length,
                                             .counts = slot.counts.has_value() ? &*slot.counts : nullptr,
                                             .choice = slot.choice,
                                             .output_index = output_index});
    PAGODA_RETURN_IF_ERROR(
        slots_.Append(sample.slot, slot.generation, static_cast<int>(slot.tokens.size()), sampled.token));
    const bool goes_on = done < static_cast<int>(rows.drafts.size()) && sampled.token == rows.drafts[static_cast<size_t>(done)];
    chain.next_row = goes_on ? chain.next_row + 1 : chain.end_row;
    if (done == 0) {
      out = {.slot = sample.slot, .token = sampled.token, .logprobs = std::move(sampled.logprobs)};
    } else {
      out.further.push_back({.token = sampled.token, .logprobs = std::move(sampled.logprobs)});
    }
  }
  return absl::OkStatus();
}

std::string StepExecutor::RequestsOf(const StepPlan& plan) const {
  constexpr size_t kShown = 8;
  std::set<RequestId> requests;
  for (const PlanRows& rows : plan.rows) {
    if (slots_.InRange(rows.slot) && slots_.at(rows.slot).used) requests.insert(slots_.at(rows.slot).request);
  }
  std::string text;
  size_t shown = 0;
  for (const RequestId& request : requests) {
    if (shown++ == kShown) break;
    absl::StrAppend(&text, text.empty() ? "" : " ", request.ToString());
  }
  if (requests.size() > kShown) absl::StrAppend(&text, " and ", requests.size() - kShown, " more");
  return text;
}

}  // namespace pagoda::worker
