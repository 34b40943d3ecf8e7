#include "coordinator/scheduler.h"

#include <algorithm>
#include <utility>

#include "common/limits.h"

namespace pagoda::coordinator {

Scheduler::Scheduler() = default;

Scheduler::~Scheduler() {
  if (epoch_open_) EndEpoch();
}

void Scheduler::BeginEpoch(const EpochSettings& settings) {
  PAGODA_CHECK(!epoch_open_);
  PAGODA_CHECK(settings.stages >= 1 && settings.max_step_rows >= 1 && settings.block_tokens >= 1);
  PAGODA_CHECK(settings.max_sequences >= 1 && settings.max_slots >= 2 * settings.max_sequences);
  PAGODA_CHECK(settings.max_sample_rows >= 1);
  PAGODA_CHECK(int64_t{settings.blocks} * settings.block_tokens >= settings.max_model_len);
  settings_ = settings;
  pool_ = std::make_unique<BlockPool>(settings.blocks);
  cache_ = std::make_unique<PrefixCache>(*pool_);
  free_slots_.clear();
  pending_ends_.clear();
  for (int slot = settings.max_slots - 1; slot >= 0; --slot) free_slots_.push_back(SlotId(slot));
  next_step_ = 1;
  epoch_open_ = true;
  ever_open_ = true;
  // A shorter context than before: what no longer fits cannot go on.
  std::vector<SequencePointer> too_long;
  for (const SequencePointer& sequence : waiting_) {
    if (sequence->length() >= settings.max_model_len) too_long.push_back(sequence);
  }
  for (const SequencePointer& sequence : too_long) {
    Finish(sequence, FinishReason::kError,
           absl::StrCat("the pipeline came back with a context of ", settings.max_model_len, " tokens, and this one has ",
                        sequence->length()),
           nullptr);
  }
}

void Scheduler::EndEpoch() {
  if (!epoch_open_) return;
  epoch_open_ = false;
  for (const PlanRecord& record : in_flight_) {
    for (const SequencePointer& sequence : record.users) {
      sequence->in_flight = 0;
      if (sequence->state == SequenceState::kFinished) LeaveWorkers(*sequence);
    }
  }
  in_flight_.clear();
  copy_sources_.clear();
  finished_in_flight_ = 0;
  draining_ = 0;
  const auto running = std::exchange(running_, {});
  for (const SequencePointer& sequence : running) {
    LeaveWorkers(*sequence);
    sequence->state = SequenceState::kWaiting;
    waiting_.insert(sequence);
  }
  cache_.reset();
  pool_.reset();
}

void Scheduler::Submit(Request request, int64_t now_ns) {
  const auto existing = live_.find(request.id);
  if (existing != live_.end()) {
    const bool newer = request.attempt > existing->second.state->attempt;
    if (!newer) return;
    Abandon(request.id, FinishReason::kNone, "");
  }
  RefusalCode code = RefusalCode::kInvalidArgument;
  if (const absl::Status status = Validate(request, code); !status.ok()) {
    refusals_.push_back({.router = request.router,
                         .request = request.id,
                         .attempt = request.attempt,
                         .code = code,
                         .message = std::string(AsStd(status.message())),
                         .retry_after_ms = code == RefusalCode::kResourceExhausted ? 1000 : 0});
    return;
  }
  Accept(std::move(request), now_ns);
}

absl::Status Scheduler::Validate(const Request& request, RefusalCode& code) const {
  if (!ever_open_) {
    code = RefusalCode::kUnavailable;
    return absl::UnavailableError("the pipeline is not assembled yet");
  }
  bool replay = false;
  const auto bad_token = [this](TokenId token) { return token < 0 || token >= settings_.vocabulary; };
  if (request.prompt.empty()) return absl::InvalidArgumentError("the prompt is empty");
  if (std::any_of(request.prompt.begin(), request.prompt.end(), bad_token)) {
    return absl::InvalidArgumentError(
        absl::StrCat("the prompt has a token id outside 0..", settings_.vocabulary - 1));
  }
  if (static_cast<int64_t>(request.prompt.size()) >= settings_.max_model_len) {
    return absl::InvalidArgumentError(absl::StrCat("the prompt has ", request.prompt.size(),
                                                   " tokens; max_model_len is ", settings_.max_model_len,
                                                   ", with at least one token of output"));
  }
  if (request.choices.empty() || request.choices.size() > limits::kMaxChoices) {
    return absl::InvalidArgumentError(
        absl::StrCat("the request has ", request.choices.size(), " choices; 1 to ", limits::kMaxChoices, " are allowed"));
  }
  for (const ChoiceProgress& choice : request.choices) {
    replay = replay || !choice.tokens.empty();
    if (std::any_of(choice.tokens.begin(), choice.tokens.end(), bad_token)) {
      return absl::InvalidArgumentError("a replayed token id is outside the vocabulary");
    }
    if (static_cast<int64_t>(request.prompt.size() + choice.tokens.size()) > settings_.max_model_len) {
      return absl::InvalidArgumentError(
          absl::StrCat("the replayed tokens do not fit in max_model_len ", settings_.max_model_len));
    }
  }
  if (request.sampling.max_tokens < 1) return absl::InvalidArgumentError("max_tokens is below 1");
  // A replay was accepted once: it is not turned away.
  if (!replay && static_cast<int>(waiting_.size() + request.choices.size()) > settings_.max_queued_requests) {
    code = RefusalCode::kResourceExhausted;
    return absl::ResourceExhaustedError(absl::StrCat(
        "the queue is full (", waiting_.size(), " waiting, max_queued_requests ", settings_.max_queued_requests, ")"));
  }
  return absl::OkStatus();
}

void Scheduler::Accept(Request request, int64_t now_ns) {
  auto state = std::make_shared<RequestState>();
  state->id = request.id;
  state->router = request.router;
  state->attempt = request.attempt;
  state->prompt_length = static_cast<int>(request.prompt.size());
  state->priority = request.priority;
  state->arrival = next_arrival_++;
  state->arrived_ns = now_ns;
  state->deadline_ns = request.deadline_ns;
  state->cache_salt = std::move(request.cache_salt);
  state->bypass_prefix_cache = request.bypass_prefix_cache;
  state->trace = request.trace;
  state->sampling = std::make_shared<const Sampling>(std::move(request.sampling));
  if (state->deadline_ns > 0) deadlines_.insert(state->deadline_ns);
  LiveRequest live{.state = state, .sequences = {}};
  for (size_t i = 0; i < request.choices.size(); ++i) {
    if (request.choices[i].finished) continue;
    auto sequence = std::make_shared<Sequence>();
    sequence->request = state;
    sequence->choice = static_cast<int>(i);
    sequence->tokens = request.prompt;
    sequence->tokens.insert(sequence->tokens.end(), request.choices[i].tokens.begin(), request.choices[i].tokens.end());
    sequence->wants_prompt_logprobs = i == 0 && sequence->fresh() && state->sampling->prompt_logprobs >= 0;
    state->started = state->started || !sequence->fresh();
    live.sequences.push_back(sequence);
  }
  state->unfinished = static_cast<int>(live.sequences.size());
  if (state->unfinished == 0) {  // nothing is left to do, and the router knows all of it
    if (state->deadline_ns > 0) deadlines_.erase(deadlines_.find(state->deadline_ns));
    return;
  }
  const std::vector<SequencePointer> sequences = live.sequences;
  live_.emplace(state->id, std::move(live));
  for (const SequencePointer& sequence : sequences) {
    waiting_.insert(sequence);
    const FinishReason reason = ReasonToStop(*sequence);
    if (reason != FinishReason::kNone) Finish(sequence, reason, "", nullptr);
  }
}

int Scheduler::OutputLimit(const Sequence& sequence) const {
  int64_t limit = sequence.request->sampling->max_tokens;
  if (sequence.stop_count >= 0) limit = std::min<int64_t>(limit, sequence.stop_count);
  limit = std::min<int64_t>(limit, settings_.max_model_len - sequence.request->prompt_length);
  return static_cast<int>(limit);
}

FinishReason Scheduler::ReasonToStop(const Sequence& sequence) const {
  const Sampling& sampling = *sequence.request->sampling;
  const int count = sequence.output_count();
  if (count > 0 && count > sampling.min_tokens) {
    const auto& stops = sampling.stop_token_ids;
    if (std::find(stops.begin(), stops.end(), sequence.tokens.back()) != stops.end()) return FinishReason::kStop;
  }
  if (sequence.stop_count >= 0 && count >= sequence.stop_count) return FinishReason::kStop;
  return count >= OutputLimit(sequence) ? FinishReason::kLength : FinishReason::kNone;
}

ChoiceOutput Scheduler::OutputOf(const Sequence& sequence) const {
  ChoiceOutput output;
  output.router = sequence.request->router;
  output.request = sequence.request->id;
  output.attempt = sequence.request->attempt;
  output.choice = sequence.choice;
  output.first_index = sequence.output_count();
  return output;
}

// Tells the end, in `joined` when the last tokens are on their way in it.
void Scheduler::Finish(SequencePointer sequence, FinishReason reason, std::string error, ChoiceOutput* joined) {
  PAGODA_CHECK(sequence->state != SequenceState::kFinished);
  ChoiceOutput separate;
  if (joined == nullptr) separate = OutputOf(*sequence);
  ChoiceOutput& output = joined == nullptr ? separate : *joined;
  output.finish = reason;
  output.error = std::move(error);
  output.output_tokens = sequence->output_count();
  if (reason == FinishReason::kStop && sequence->output_count() > 0) {
    const auto& stops = sequence->request->sampling->stop_token_ids;
    if (std::find(stops.begin(), stops.end(), sequence->tokens.back()) != stops.end()) {
      output.stop_token = sequence->tokens.back();
    }
  }
  if (joined == nullptr && reason != FinishReason::kNone) outputs_.push_back(std::move(separate));

  if (sequence->state == SequenceState::kWaiting) {
    waiting_.erase(sequence);
  } else {
    running_.erase(sequence);
    if (sequence->state == SequenceState::kDraining) --draining_;
  }
  sequence->state = SequenceState::kFinished;
  if (sequence->in_flight > 0) {
    ++finished_in_flight_;
  } else {
    LeaveWorkers(*sequence);
  }
  --sequence->request->unfinished;
  ForgetIfEnded(*sequence->request);
}

void Scheduler::ForgetIfEnded(const RequestState& request) {
  if (request.unfinished > 0) return;
  if (request.deadline_ns > 0) {
    const auto deadline = deadlines_.find(request.deadline_ns);
    if (deadline != deadlines_.end()) deadlines_.erase(deadline);
  }
  live_.erase(request.id);
}

// Tail first, so that the prefix cache gives up a chain from its leaf.
void Scheduler::LeaveWorkers(Sequence& sequence) {
  PAGODA_CHECK(sequence.in_flight == 0);
  while (!sequence.blocks.empty()) sequence.blocks.pop_back();
  if (sequence.slot.value() >= 0 && epoch_open_) pending_ends_.push_back(sequence.slot);
  sequence.slot = SlotId(-1);
  sequence.scheduled = 0;
  sequence.unread_samples = 0;
  sequence.last_sample_step = 0;
  sequence.worker_blocks = 0;
  sequence.hashes.clear();
  sequence.offered_blocks = 0;
  sequence.prompt_logprobs.clear();
}

void Scheduler::Abandon(RequestId id, FinishReason reason, const std::string& error) {
  const auto found = live_.find(id);
  if (found == live_.end()) return;
  const std::vector<SequencePointer> sequences = found->second.sequences;  // Finish may erase `found`
  for (const SequencePointer& sequence : sequences) {
    if (sequence->state != SequenceState::kFinished) Finish(sequence, reason, error, nullptr);
  }
}

void Scheduler::Cancel(RequestId id) { Abandon(id, FinishReason::kCancelled, ""); }

void Scheduler::StopChoice(RequestId id, int choice, int count) {
  const auto found = live_.find(id);
  if (found == live_.end() || count < 0) return;
  for (const SequencePointer& sequence : found->second.sequences) {
    if (sequence->choice != choice || sequence->state == SequenceState::kFinished) continue;
    sequence->stop_count = count;
    if (sequence->output_count() >= count) Finish(sequence, FinishReason::kStop, "", nullptr);
    return;
  }
}

void Scheduler::DropRouter(RouterId router) {
  std::vector<RequestId> ids;
  for (const auto& [id, live] : live_) {
    if (live.state->router == router) ids.push_back(id);
  }
  for (const RequestId& id : ids) Abandon(id, FinishReason::kNone, "");
}

void Scheduler::FailAll(const std::string& message) {
  std::vector<RequestId> ids;
  for (const auto& [id, live] : live_) ids.push_back(id);
  for (const RequestId& id : ids) Abandon(id, FinishReason::kError, message);
}

void Scheduler::Refuse(const RequestState& request, RefusalCode code, std::string message) {
  refusals_.push_back({.router = request.router,
                       .request = request.id,
                       .attempt = request.attempt,
                       .code = code,
                       .message = std::move(message)});
}

void Scheduler::Tick(int64_t now_ns) {
  if (deadlines_.empty() || *deadlines_.begin() > now_ns) return;
  std::vector<std::shared_ptr<RequestState>> expired;
  for (const auto& [id, live] : live_) {
    if (live.state->deadline_ns > 0 && live.state->deadline_ns <= now_ns) expired.push_back(live.state);
  }
  for (const auto& request : expired) {
    const std::string message = "DEADLINE_EXCEEDED: the request's deadline passed";
    if (request->started) {
      Abandon(request->id, FinishReason::kError, message);
    } else {
      Refuse(*request, RefusalCode::kDeadlineExceeded, message + " while it waited");
      Abandon(request->id, FinishReason::kNone, "");
    }
  }
}

std::vector<ChoiceOutput> Scheduler::TakeOutputs() { return std::exchange(outputs_, {}); }
std::vector<Refusal> Scheduler::TakeRefusals() { return std::exchange(refusals_, {}); }

std::optional<int64_t> Scheduler::NextDeadline() const {
  if (deadlines_.empty()) return std::nullopt;
  return *deadlines_.begin();
}

SchedulerStats Scheduler::stats() const {
  SchedulerStats stats = totals_;
  stats.running = static_cast<int>(running_.size());
  stats.waiting = static_cast<int>(waiting_.size());
  stats.plans_in_flight = static_cast<int>(in_flight_.size());
  if (pool_ != nullptr) {
    stats.blocks_total = pool_->total();
    stats.blocks_used = pool_->in_use();
    stats.blocks_cached = pool_->parked();
  }
  return stats;
}

int Scheduler::leaked_blocks() const {
  return pool_ != nullptr && idle() && running_.empty() ? pool_->in_use() : 0;
}

}  // namespace pagoda::coordinator
