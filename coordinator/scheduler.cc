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
  pending_starts_.clear();
  pending_names_.clear();
  early_.clear();
  rebuilds_in_flight_ = 0;
  last_read_step_ = 0;
  for (int slot = settings.max_slots - 1; slot >= 0; --slot) free_slots_.push_back(SlotId(slot));
  next_step_ = 1;
  epoch_open_ = true;
  ever_open_ = true;
  RestoreBlocks();
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

void Scheduler::EndEpoch(EpochEnd why) {
  if (!epoch_open_) return;
  epoch_open_ = false;
  if (why == EpochEnd::kLost) CountDeaths();
  trial_.reset();
  for (const PlanRecord& record : in_flight_) {
    for (const SequencePointer& sequence : record.users) {
      sequence->in_flight = 0;
      if (sequence->state == SequenceState::kFinished) LeaveWorkers(*sequence);
    }
  }
  in_flight_.clear();
  rebuilds_.clear();
  moving_in_.clear();
  moving_out_.clear();
  partial_.clear();
  copy_sources_.clear();
  finished_in_flight_ = 0;
  draining_ = 0;
  const auto running = std::exchange(running_, {});
  for (const SequencePointer& sequence : running) {
    LeaveWorkers(*sequence);
    sequence->state = SequenceState::kWaiting;
    sequence->resumed = true;
    waiting_.insert(sequence);
  }
  cache_.reset();
  pool_.reset();
  std::vector<std::shared_ptr<RequestState>> convicted;
  for (const auto& [id, live] : live_) {
    live.state->foretold_end_ns = 0;  // the pause is no lesson
    if (live.state->deaths_alone >= 2) convicted.push_back(live.state);
  }
  for (const auto& request : convicted) {
    Abandon(request->id, FinishReason::kError,
            absl::StrCat("ABORTED: request ", request->client_request_id,
                         " is quarantined: its pipeline was lost twice while nothing else ran there"));
  }
}

void Scheduler::Submit(Request request, int64_t now_ns) {
  now_ns_ = now_ns;
  const auto existing = live_.find(request.id);
  if (existing != live_.end()) {
    const RequestState& known = *existing->second.state;
    if (request.attempt <= known.attempt) return;
    // The router may not have heard of the last death when it sent this.
    request.deaths = std::max(request.deaths, known.deaths);
    request.deaths_alone = std::max(request.deaths_alone, known.deaths_alone);
    Abandon(request.id, FinishReason::kNone, "");
  }
  RefusalCode code = RefusalCode::kInvalidArgument;
  absl::Status status = Validate(request, code);
  int retry_after_ms = code == RefusalCode::kResourceExhausted ? 1000 : 0;
  if (status.ok() && quarantine_.Holds(Quarantine::Fingerprint(request.prompt), now_ns)) {
    code = RefusalCode::kAborted;
    status = absl::AbortedError(absl::StrCat("request ", request.client_request_id,
                                             " is refused: its prompt is quarantined, since its pipeline was lost twice "
                                             "while nothing else ran there"));
  }
  if (status.ok()) {
    status = CheckLoad(request, now_ns, retry_after_ms);
    if (!status.ok()) code = RefusalCode::kResourceExhausted;
  }
  if (!status.ok()) {
    refusals_.push_back({.router = request.router,
                         .request = request.id,
                         .attempt = request.attempt,
                         .code = code,
                         .message = std::string(AsStd(status.message())),
                         .retry_after_ms = retry_after_ms});
    return;
  }
  Accept(std::move(request), now_ns);
}

// A tenant that has little in a queue that others filled is not turned away for their sake: as much again as the queue holds is set
// aside for such, a sixteenth of it at most for each.
bool Scheduler::HasRoomOfItsOwn(const Request& request) const {
  const size_t most = static_cast<size_t>(settings_.max_queued_requests);
  if (request.tenant.empty() || waiting_.size() + request.choices.size() > kFullQueues * most) return false;
  const auto own = std::count_if(waiting_.begin(), waiting_.end(),
                                 [&](const SequencePointer& sequence) { return sequence->request->tenant == request.tenant; });
  return static_cast<size_t>(own) + request.choices.size() <= std::max<size_t>(1, most / 16);
}

absl::Status Scheduler::Validate(const Request& request, RefusalCode& code) const {
  if (!ever_open_) {
    code = RefusalCode::kUnavailable;
    return absl::UnavailableError("the pipeline is not assembled yet");
  }
  const bool replay = request.WasAccepted();
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
    if (std::any_of(choice.tokens.begin(), choice.tokens.end(), bad_token)) {
      return absl::InvalidArgumentError("a replayed token id is outside the vocabulary");
    }
    if (static_cast<int64_t>(request.prompt.size() + choice.tokens.size()) > settings_.max_model_len) {
      return absl::InvalidArgumentError(
          absl::StrCat("the replayed tokens do not fit in max_model_len ", settings_.max_model_len));
    }
  }
  if (request.sampling.max_tokens < 1) return absl::InvalidArgumentError("max_tokens is below 1");
  if (!replay && static_cast<int>(request.choices.size()) > settings_.max_queued_requests) {
    return absl::InvalidArgumentError(absl::StrCat("n is ", request.choices.size(), ", and no more than max_queued_requests ",
                                                   settings_.max_queued_requests, " choices may ever wait"));
  }
  if (!replay && static_cast<int>(waiting_.size() + request.choices.size()) > settings_.max_queued_requests &&
      !HasRoomOfItsOwn(request)) {
    code = RefusalCode::kResourceExhausted;
    return absl::ResourceExhaustedError(absl::StrCat(
        "the queue is full (", waiting_.size(), " waiting, max_queued_requests ", settings_.max_queued_requests, ")"));
  }
  return absl::OkStatus();
}

int64_t Scheduler::PredictedWaitNs(const std::string& tenant, int priority) const {
  const int places = settings_.max_sequences - static_cast<int>(running_.size()) - finished_in_flight_;
  if (static_cast<int>(waiting_.size()) < places) return 0;
  const std::pair<int, double> mine(priority, shares_.Peek(tenant));
  int64_t ahead = 1;
  for (const SequencePointer& sequence : waiting_) {
    if (std::pair(sequence->request->priority, sequence->request->start_tag) > mine) break;
    ++ahead;
  }
  return times_.WaitNs(std::max<int64_t>(0, ahead - std::max(0, places)), settings_.max_sequences);
}

// What no token ends (ignore_eos) goes on to its last one.
int64_t Scheduler::ServiceNs(const Sampling& sampling) const {
  return times_.ServiceNs(sampling.stop_token_ids.empty() ? sampling.max_tokens : sampling.min_tokens, sampling.max_tokens);
}

// Early refusal: better than to wait and be late. What was accepted once is never turned away.
absl::Status Scheduler::CheckLoad(const Request& request, int64_t now_ns, int& retry_after_ms) const {
  if (request.WasAccepted() || (waiting_.empty() && running_.empty())) return absl::OkStatus();
  const int64_t wait_ns = PredictedWaitNs(request.tenant, request.priority);
  const int64_t wait_ms = wait_ns / 1'000'000;
  if (wait_ns > settings_.max_queue_wait_ns) {
    retry_after_ms = static_cast<int>(std::clamp<int64_t>(wait_ms - settings_.max_queue_wait_ns / 2'000'000, 1000, 60'000));
    return absl::ResourceExhaustedError(absl::StrCat("the queue is too long: ", waiting_.size(), " wait, and this one would for ",
                                                     wait_ms, " ms (at most ", settings_.max_queue_wait_ns / 1'000'000, ")"));
  }
  const int64_t done_ns =
      now_ns + wait_ns + ServiceNs(request.sampling) + times_.EndMarginNs();
  if (request.deadline_ns > 0 && done_ns > request.deadline_ns) {
    retry_after_ms = static_cast<int>(std::clamp<int64_t>((done_ns - request.deadline_ns) / 1'000'000, 100, 60'000));
    return absl::ResourceExhaustedError(
        absl::StrCat("the deadline cannot be met: ", (done_ns - now_ns) / 1'000'000, " ms are needed (", wait_ms,
                     " of them in the queue), ", (request.deadline_ns - now_ns) / 1'000'000, " ms are left"));
  }
  return absl::OkStatus();
}

bool Scheduler::WouldMissDeadline(const RequestState& request, int64_t now_ns) const {
  return request.deadline_ns > 0 && !request.started && !running_.empty() &&
         now_ns + ServiceNs(*request.sampling) + times_.ServiceMarginNs() > request.deadline_ns;
}

void Scheduler::LearnFrom(const RequestState& request, const Sequence& sequence) {
  if (request.foretold_end_ns == 0 || sequence.first_scheduled_ns == 0) return;
  times_.CameAfter(now_ns_ - request.foretold_end_ns);
  times_.TookMore(now_ns_ - sequence.first_scheduled_ns - ServiceNs(*request.sampling));
}

void Scheduler::Accept(Request request, int64_t now_ns) {
  auto state = std::make_shared<RequestState>();
  state->id = request.id;
  state->router = request.router;
  state->attempt = request.attempt;
  state->prompt_length = static_cast<int>(request.prompt.size());
  state->priority = request.priority;
  state->client_request_id = std::move(request.client_request_id);
  state->tenant = std::move(request.tenant);
  state->tenant_weight = request.tenant_weight;
  state->deaths = request.deaths;
  state->deaths_alone = request.deaths_alone;
  state->resumable = request.resumable;
  state->prompt_fingerprint = Quarantine::Fingerprint(request.prompt);
  state->arrival = next_arrival_++;
  state->arrived_ns = now_ns;
  state->deadline_ns = request.deadline_ns;
  state->cache_salt = std::move(request.cache_salt);
  state->bypass_prefix_cache = request.bypass_prefix_cache;
  state->trace = request.trace;
  state->canary = request.canary;
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
    sequence->resumed = !sequence->fresh();
    state->started = state->started || sequence->resumed;
    live.sequences.push_back(sequence);
  }
  state->unfinished = static_cast<int>(live.sequences.size());
  if (request.accepted || state->started) {
    state->start_tag = shares_.now();  // it had its turn before
  } else {
    const int64_t service_ns = ServiceNs(*state->sampling);
    if (service_ns > 0) state->foretold_end_ns = now_ns + PredictedWaitNs(state->tenant, state->priority) + service_ns;
    state->charged = static_cast<double>(state->prompt_length) +
                     static_cast<double>(state->unfinished) * state->sampling->max_tokens;
    state->start_tag = shares_.Charge(state->tenant, state->charged, state->tenant_weight);
  }
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
  output.resumable = sequence.request->resumable;
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
  RequestState& request = *sequence->request;
  if (request.charged > 0) {
    const double unused = std::max(0, request.sampling->max_tokens - sequence->output_count());
    shares_.Refund(request.tenant, std::min(unused, request.charged), request.tenant_weight);
    request.charged -= std::min(unused, request.charged);
  }
  if ((reason == FinishReason::kStop || reason == FinishReason::kLength) && sequence->reported_first && !request.canary) {
    LearnFrom(request, *sequence);
    times_.Ended(sequence->first_token_ns - sequence->first_scheduled_ns, now_ns_ - sequence->first_token_ns,
                 sequence->output_count());
  }
  if (reason == FinishReason::kStop && sequence->output_count() > 0) {
    const auto& stops = sequence->request->sampling->stop_token_ids;
    if (std::find(stops.begin(), stops.end(), sequence->tokens.back()) != stops.end()) {
      output.stop_token = sequence->tokens.back();
    }
  }
  if (joined == nullptr && reason != FinishReason::kNone) outputs_.push_back(std::move(separate));

  if (sequence->state == SequenceState::kWaiting) {
    waiting_.erase(sequence);
    if (waiting_.empty()) times_.QueueEmpty();
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
  if (trial_.get() == &request) trial_.reset();
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
  sequence.untold = 0;
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

void Scheduler::Cancel(RequestId id, uint32_t attempt) {
  const auto found = live_.find(id);
  if (found == live_.end() || (attempt > 0 && found->second.state->attempt > attempt)) return;
  Abandon(id, FinishReason::kCancelled, "");
}

void Scheduler::Abort(RequestId id, const std::string& message) { Abandon(id, FinishReason::kError, message); }

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
  now_ns_ = now_ns;
  if (deadlines_.empty() || *deadlines_.begin() > now_ns) return;
  std::vector<std::shared_ptr<RequestState>> expired;
  for (const auto& [id, live] : live_) {
    if (live.state->deadline_ns > 0 && live.state->deadline_ns <= now_ns) expired.push_back(live.state);
  }
  for (const auto& request : expired) {
    const std::string message = "the request's deadline passed";
    if (request->started) {
      LearnFrom(*request, *live_.at(request->id).sequences.front());
      Abandon(request->id, FinishReason::kError, "DEADLINE_EXCEEDED: " + message);
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
  for (const SequencePointer& sequence : running_) stats.kv_tokens += sequence->virtual_length();
  const int places = settings_.max_sequences - stats.running - finished_in_flight_;
  stats.predicted_wait_ns = times_.WaitNs(stats.waiting + 1 - std::max(0, places), settings_.max_sequences);
  if (pool_ != nullptr) {
    stats.blocks_total = pool_->total();
    stats.blocks_used = pool_->in_use();
    stats.blocks_cached = pool_->parked();
  }
  return stats;
}

int Scheduler::leaked_blocks() const {
  return pool_ != nullptr && idle() && running_.empty() && blocks_moving() == 0 ? pool_->in_use() : 0;
}

}  // namespace pagoda::coordinator
