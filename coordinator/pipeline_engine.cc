#include "coordinator/pipeline_engine.h"

#include <algorithm>
#include <map>

#include "common/clock.h"
#include "common/limits.h"
#include "common/log.h"

namespace pagoda::coordinator {
namespace {

constexpr size_t kInboxCapacity = size_t{8} * limits::kMaxQueuedRequests;
// A step may take this many times what the slowest of late took before it counts as lost, and never less than the floor.
constexpr double kStepPatience = 10;
constexpr double kForgetSlowest = 0.995;  // per step
constexpr int64_t kLeastPatienceNs = 3 * kNsPerSecond;
// A canary takes at most this part of an idle pipeline's time.
constexpr double kCanaryRarity = 200;
constexpr int64_t kTellDrainedEveryNs = kNsPerSecond / 4;
// What is on its way when a drain begins is taken: a router hears of it by the next snapshot.
constexpr int64_t kOnTheirWayNs = 300 * kNsPerMs;


template <typename... Ts>
struct Overloaded : Ts... {
  using Ts::operator()...;
};
template <typename... Ts>
Overloaded(Ts...) -> Overloaded<Ts...>;

}  // namespace

PipelineEngine::PipelineEngine(EngineOptions options, std::shared_ptr<RouterDirectory> routers,
                               std::unique_ptr<EngineMetrics> metrics)
    : options_(std::move(options)),
      routers_(std::move(routers)),
      metrics_(std::move(metrics)),
      inbox_(kInboxCapacity),
      max_queued_requests_(options_.max_queued_requests),
      requests_(options_.pipeline, options_.tracer),
      thread_([this] { Run(); }) {}

PipelineEngine::~PipelineEngine() {
  Stop("UNAVAILABLE: the coordinator stops");
  thread_.join();
}

void PipelineEngine::Run() {
  while (!stopping_) {
    turned_ns_.store(NowNs(), std::memory_order_relaxed);
    Receive();
    Dispatch();
    Publish();
  }
  inbox_.Close();
  for (Event& event : inbox_.PopAll(absl::ZeroDuration())) {
    if (std::holds_alternative<Request>(event)) Handle(event, NowNs());
  }
  Publish();
}

void PipelineEngine::Refuse(const Request& request, const std::string& why) {
  metrics_->CountRefusal();
  // Nobody generates for it here: what drains does not wait for it.
  if (options_.resumable != nullptr && request.WasAccepted()) {
    options_.resumable->Detach(request.id, request.attempt, NowNs());
  } else if (options_.resumable != nullptr) {
    options_.resumable->Drop(request.id, request.attempt);
  }
  const auto router = routers_->Find(request.router);
  if (router == nullptr) return;
  router->SendRefused({.router = request.router,
                       .request = request.id,
                       .attempt = request.attempt,
                       .code = RefusalCode::kUnavailable,
                       .message = why,
                       .retry_after_ms = 0});
}

void PipelineEngine::Receive() {
  std::vector<Event> events = inbox_.PopAll(absl::Nanoseconds(WaitNs(NowNs())));
  const int64_t now_ns = NowNs();
  for (Event& event : events) Handle(event, now_ns);
  scheduler_.Tick(now_ns);
  CheckStepDeadline(now_ns);
  SendCanary(now_ns);
}

// One token through all stages, for nobody. When it gets lost the step's deadline finds out who holds it up, before a request does.
void PipelineEngine::SendCanary(int64_t now_ns) {
  if (!scheduler_.idle() || transport_ == nullptr || failed_ || draining_) {
    worked_ns_ = now_ns;
    return;
  }
  const int64_t every_ns = std::max(options_.canary_every_ns, static_cast<int64_t>(kCanaryRarity * slowest_step_ns_));
  if (options_.canary_every_ns == 0 || now_ns - worked_ns_ < every_ns) return;
  worked_ns_ = now_ns;
  Request canary;
  canary.id = {.high = 0, .low = ++canaries_};
  canary.attempt = 1;
  canary.prompt = {0};
  canary.choices.resize(1);
  canary.sampling.max_tokens = 1;
  canary.bypass_prefix_cache = true;
  canary.canary = true;
  scheduler_.Submit(std::move(canary), now_ns);
}

void PipelineEngine::Dispatch() {
  if (transport_ == nullptr || failed_) return;
  while (std::optional<StepPlan> plan = scheduler_.NextPlan(NowNs())) {
    dispatched_.emplace_back(plan->step.value(), NowNs());
    if (!transport_->Dispatch(*plan)) {
      FailEpoch(absl::StrCat("step ", plan->step.value(), " did not reach every rank"));
      return;
    }
  }
}

void PipelineEngine::Publish() {
  PublishDeaths();
  for (const Refusal& refusal : scheduler_.TakeRefusals()) {
    metrics_->CountRefusal();
    if (options_.resumable != nullptr) options_.resumable->Drop(refusal.request, refusal.attempt);
    if (const auto router = routers_->Find(refusal.router)) router->SendRefused(refusal);
    requests_.Refused(refusal);
  }
  std::vector<ChoiceOutput> outputs = scheduler_.TakeOutputs();
  std::map<RouterId, std::vector<ChoiceOutput*>> by_router;
  for (ChoiceOutput& output : outputs) {
    if (output.router == RouterId()) continue;  // a canary's
    metrics_->Observe(output);
    by_router[output.router].push_back(&output);
  }
  // The log first: a client never has a token that the log does not.
  if (options_.resumable != nullptr) options_.resumable->Append(outputs, NowNs());
  const StepTokens head{.pipeline = options_.pipeline, .epoch = epoch_, .step = last_step_};
  for (const auto& [id, batch] : by_router) {
    if (const auto router = routers_->Find(id)) router->SendTokens(head, batch);
  }
  for (const ChoiceOutput& output : outputs) requests_.Observe(output);  // after the tokens are on their way
  const SchedulerStats stats = scheduler_.stats();
  metrics_->Set(stats, scheduler_.leaked_blocks());
  const bool idle = scheduler_.idle();
  queued_.store(stats.waiting + static_cast<int>(inbox_.size()), std::memory_order_relaxed);
  {
    MutexLock lock(&status_mutex_);
    status_ = {.stats = stats, .epoch = epoch_, .open = scheduler_.epoch_open(), .idle = idle};
  }
  if (idle && requests_.open() > 0) requests_.Idle();
  const int64_t now_ns = NowNs();
  if (idle && inbox_.size() == 0 && TakesNothingNew(now_ns) && now_ns - told_drained_ns_ >= kTellDrainedEveryNs) {
    told_drained_ns_ = now_ns;
    options_.drained();
  }
}

bool PipelineEngine::TakesNothingNew(int64_t now_ns) const { return draining_ && now_ns - drain_began_ns_ >= kOnTheirWayNs; }

void PipelineEngine::PublishDeaths() {
  std::map<RouterId, std::vector<DeathNotice>> by_router;
  for (const DeathNotice& notice : scheduler_.TakeDeathNotices()) by_router[notice.router].push_back(notice);
  for (const auto& [id, notices] : by_router) {
    if (const auto router = routers_->Find(id)) router->SendDeaths(notices);
  }
}

void PipelineEngine::Handle(Event& event, int64_t now_ns) {
  std::visit(Overloaded{[&](Request& request) {
                          if (stopping_ || (TakesNothingNew(now_ns) && !request.WasAccepted())) return Refuse(request, "the pipeline is draining");
                          requests_.Received(request);
                          scheduler_.Submit(std::move(request), now_ns);
                        },
                        [&](CancelEvent& cancel) { scheduler_.Cancel(cancel.request, cancel.attempt); },
                        [&](StopChoiceEvent& stop) { scheduler_.StopChoice(stop.request, stop.choice, stop.count); },
                        [&](DropRouterEvent& drop) {
                          scheduler_.DropRouter(drop.router);
                          requests_.DropRouter(drop.router);
                        },
                        [&](AbortEvent& abort) { scheduler_.Abort(abort.request, abort.message); },
                        [&](OpenEpochEvent& open) {
                          scheduler_.EndEpoch();
                          scheduler_.BeginEpoch(open.settings);
                          transport_ = std::move(open.transport);
                          epoch_ = open.settings.epoch;
                          last_step_ = StepNumber();
                          failed_ = false;
                          slowest_step_ns_ = 0;
                          dispatched_.clear();
                          metrics_->CountEpoch();
                        },
                        [&](CloseEpochEvent& close) {
                          if (close.epoch != epoch_) return;
                          scheduler_.EndEpoch(close.why);
                          transport_.reset();
                          dispatched_.clear();
                        },
                        [&](StepResult& result) { HandleResult(result, now_ns); },
                        [&](OfferKvEvent& ask) {
                          ask.done(IsOpen(ask.epoch) ? scheduler_.OfferKv(ask.move) : KvOffer());
                        },
                        [&](ReserveKvEvent& ask) {
                          KvReservation none{.from = {}, .to = {}, .empty_because = KvMoveEnd::kFailed};
                          ask.done(IsOpen(ask.epoch) ? scheduler_.ReserveKv(ask.move, ask.offer, ask.cost) : std::move(none));
                        },
                        [&](FinishKvEvent& finish) { scheduler_.FinishKv(finish.move, finish.arrived); },
                        [&](LimitQueueEvent& limit) { scheduler_.LimitQueue(limit.max_queued_requests); },
                        [&](DrainEvent&) {
                          if (!draining_) drain_began_ns_ = now_ns;
                          draining_ = true;
                        },
                        [&](StopEvent& stop) {
                          scheduler_.FailAll(stop.message);
                          scheduler_.EndEpoch();
                          transport_.reset();
                          stopping_ = true;
                        }},
             event);
}

void PipelineEngine::HandleResult(const StepResult& result, int64_t now_ns) {
  if (result.epoch != epoch_ || transport_ == nullptr || failed_) return;
  const absl::Status status = scheduler_.OnResult(result, now_ns);
  if (!status.ok()) {
    FailEpoch(std::string(AsStd(status.message())));
    return;
  }
  last_step_ = result.step;
  while (!dispatched_.empty() && dispatched_.front().first <= scheduler_.last_read_step().value()) {
    const double took_ns = static_cast<double>(now_ns - dispatched_.front().second);
    metrics_->ObserveStep(took_ns / 1e9);
    slowest_step_ns_ = std::max(took_ns, kForgetSlowest * slowest_step_ns_);
    dispatched_.pop_front();
  }
}

void PipelineEngine::CheckStepDeadline(int64_t now_ns) {
  if (dispatched_.empty() || failed_) return;
  const auto [step, since_ns] = dispatched_.front();
  int64_t patience_ns = options_.step_deadline_ns;
  if (slowest_step_ns_ > 0) {
    const int64_t measured_ns = std::max(kLeastPatienceNs, static_cast<int64_t>(kStepPatience * slowest_step_ns_));
    patience_ns = std::min(patience_ns, measured_ns);
  }
  if (now_ns - since_ns < patience_ns) return;
  stalled_step_ = step;
  FailEpoch(absl::StrCat("step ", step, " gave no result for ", (now_ns - since_ns) / kNsPerMs, " ms"));
}

void PipelineEngine::FailEpoch(const std::string& why) {
  failed_ = true;
  options_.epoch_failed(epoch_, StepNumber(std::exchange(stalled_step_, 0)), why);
}

int64_t PipelineEngine::WaitNs(int64_t now_ns) const {
  // What is drained says so as soon as it may.
  int64_t wait_ns = draining_ && scheduler_.idle() ? kOnTheirWayNs / 6 : kNsPerSecond;
  if (const auto deadline = scheduler_.NextDeadline()) wait_ns = std::min(wait_ns, *deadline - now_ns);
  return std::max<int64_t>(wait_ns, 0);
}

bool PipelineEngine::Push(Event event) {
  if (inbox_.TryPush(std::move(event))) return true;
  if (!inbox_.closed()) LogError("engine_inbox_full", {{"pipeline", options_.pipeline.value()}});
  return false;
}

bool PipelineEngine::TrySubmit(Request request) {
  if (options_.tracer != nullptr && request.trace.sampled()) request.trace.span = options_.tracer->NewSpanId();
  // Whose turn it is to be refused in a full queue is the scheduler's to say; this is the bound of memory.
  if (!request.WasAccepted() && queued_.load(std::memory_order_relaxed) >= kFullQueues * max_queued_requests()) return false;
  queued_.fetch_add(1, std::memory_order_relaxed);
  return inbox_.TryPush(std::move(request));
}

void PipelineEngine::Cancel(RequestId request, uint32_t attempt) { Push(CancelEvent{request, attempt}); }
void PipelineEngine::StopChoice(RequestId request, int choice, int count) { Push(StopChoiceEvent{request, choice, count}); }
void PipelineEngine::DropRouter(RouterId router) { Push(DropRouterEvent{router}); }
void PipelineEngine::OpenEpoch(EpochSettings settings, std::unique_ptr<PlanTransport> transport) {
  Push(OpenEpochEvent{std::move(settings), std::move(transport)});
}
void PipelineEngine::CloseEpoch(Epoch epoch, EpochEnd why) { Push(CloseEpochEvent{epoch, why}); }
void PipelineEngine::OfferKv(uint64_t move, Epoch epoch, std::function<void(KvOffer)> done) {
  Push(OfferKvEvent{move, epoch, std::move(done)});
}
void PipelineEngine::ReserveKv(uint64_t move, Epoch epoch, KvOffer offer, KvMoveCost cost,
                               std::function<void(KvReservation)> done) {
  Push(ReserveKvEvent{move, epoch, std::move(offer), cost, std::move(done)});
}
void PipelineEngine::FinishKv(uint64_t move, bool arrived) { Push(FinishKvEvent{move, arrived}); }
void PipelineEngine::Abort(RequestId request, std::string message) { Push(AbortEvent{request, std::move(message)}); }
void PipelineEngine::Deliver(StepResult result) { Push(std::move(result)); }
void PipelineEngine::LimitQueue(int max_queued_requests) {
  max_queued_requests_.store(max_queued_requests, std::memory_order_relaxed);
  Push(LimitQueueEvent{max_queued_requests});
}
void PipelineEngine::Drain() { Push(DrainEvent{}); }
void PipelineEngine::Stop(const std::string& message) { Push(StopEvent{message}); }

EngineStatus PipelineEngine::status() const {
  MutexLock lock(&status_mutex_);
  return status_;
}

}  // namespace pagoda::coordinator
