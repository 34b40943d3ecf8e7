#include "tests/sim/sim_coordinator.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "common/stream_errors.h"
#include "coordinator/pipeline_facts.h"
#include "coordinator/services/convert.h"
#include "tests/sim/cluster.h"

namespace pagoda::sim {
namespace {

namespace wire = internal::v1;
using namespace coordinator;  // NOLINT: the sim's coordinator is made of them

constexpr int64_t kTickEvery = 100 * kMs;
constexpr int64_t kSnapshotEvery = kSecond;
constexpr int64_t kStandbyLooksEvery = 300 * kMs;
constexpr int64_t kHandOver = 250 * kMs;  // as coordinator/server.cc

// Where the process of a worker is, as its data address says.
ProcessId ProcessOf(const std::string& data_address) { return static_cast<ProcessId>(std::stoi(data_address)); }

}  // namespace

SimCoordinator::SimCoordinator(Cluster& cluster, Life life)
    : cluster_(cluster),
      world_(cluster.world()),
      life_(life),
      name_(world_.NameOf(life.process)),
      state_(ClusterLimits{.lease_ns = 3 * kSecond, .own_blob_addresses = {}}) {
  world_.After(life_, world_.Uniform(0, 50 * kMs), [this] { Tick(); });
}

int64_t SimCoordinator::Now() const { return world_.LocalNow(life_.process); }

void SimCoordinator::Tick() {
  if (stopped_) return;
  KeepLeadership();
  resumable_.Expire(Now());
  if (leads()) {
    state_.Tick(Now());
    Act();
    for (auto& [id, engine] : engines_) {
      engine.scheduler->Tick(Now());
      CheckStepDeadline(engine);
      Pump(engine);
    }
    Act();
    if (snapshot_due_ || Now() - snapshot_at_ns_ >= kSnapshotEvery) PublishSnapshot();
  }
  world_.After(life_, kTickEvery, [this] { Tick(); });
}

void SimCoordinator::KeepLeadership() {
  if (Now() < renew_at_ns_) return;
  if (leads()) {
    renew_at_ns_ = Now() + cluster_.store().lease_ns() / 3;
    if (cluster_.store().Renew(term_) == StoreAnswer::kNotLeader) StepDown();
    return;
  }
  renew_at_ns_ = Now() + kStandbyLooksEvery;
  const SimStore::Campaigned campaign = cluster_.store().Campaign(name_);
  if (campaign.answer != StoreAnswer::kOk) return;
  leader_ = campaign.leader;
  if (campaign.term != 0) Lead(campaign.term);
}

void SimCoordinator::Lead(uint64_t term) {
  world_.Note(absl::StrCat(name_, " leads, term ", term));
  term_ = term;
  const SimStore& store = cluster_.store();
  state_ = ClusterState(state_.limits());
  std::vector<RestoredPipeline> pipelines = store.pipelines();
  for (RestoredPipeline& pipeline : pipelines) pipeline.sizes = cluster_.model().sizes;
  state_.Restore(store.last_epoch(), store.last_pipeline(), std::move(pipelines));
  state_.Apply(cluster_.spec(), cluster_.model(), Now());
  Act();
  for (const RouterEnd& router : routers_) SendHello(router);
  snapshot_due_ = true;
}

void SimCoordinator::StepDown() {
  world_.Note(absl::StrCat(name_, " leads no more"));
  term_ = 0;
  for (const RouterEnd& router : routers_) {
    router.stream->Close(life_.process);
    resumable_.DetachRouter(router.id, Now());
  }
  routers_.clear();
  for (const WorkerEnd& worker : workers_) {
    cluster_.ToWorkerProcess(worker.stream, life_.process, worker.life, [](SimWorker& to) { to.OnNotLeader(""); });
  }
  workers_.clear();
  engines_.clear();
  state_ = ClusterState(state_.limits());
}

bool SimCoordinator::Apply(DeploymentSpec spec) {
  if (!leads() || stopped_ || !cluster_.store().Takes(term_)) return false;
  cluster_.SetSpec(spec);
  state_.Apply(std::move(spec), cluster_.model(), Now());
  Act();
  return true;
}

// As Server::Stop: routers hear of it and take what runs elsewhere, or keep it until there is a successor.
void SimCoordinator::Leave() {
  refusing_ = true;
  if (leads()) PublishSnapshot();
  FinishRunning(world_.now_ns() + kHandOver);
}

void SimCoordinator::FinishRunning(int64_t until_ns) {
  const bool idle = std::ranges::all_of(engines_, [](const auto& entry) { return entry.second.scheduler->idle(); });
  if (idle || world_.now_ns() >= until_ns) return Stop();
  world_.After(life_, 20 * kMs, [this, until_ns] { FinishRunning(until_ns); });
}

void SimCoordinator::Stop() {
  stopped_ = true;
  cluster_.store().Resign(std::exchange(term_, 0));  // a standby need not wait for the lease
  for (auto& [id, engine] : engines_) {
    engine.scheduler->FailAll("UNAVAILABLE: the coordinator stops");
    Publish(engine);
    engine.scheduler->EndEpoch();
  }
  engines_.clear();
  // Of the last words some get through.
  world_.After(life_, world_.Uniform(0, 2 * kMs), [this] {
    for (const WorkerEnd& worker : workers_) worker.stream->Close(life_.process);
    for (const RouterEnd& router : routers_) router.stream->Close(life_.process);
    workers_.clear();
    routers_.clear();
    world_.After(life_, world_.Uniform(kMs, 100 * kMs), [this] { cluster_.Exit(life_); });
  });
}

SimCoordinator::WorkerEnd* SimCoordinator::FindWorker(const Stream* stream) {
  const auto found = std::ranges::find_if(workers_, [&](const WorkerEnd& w) { return w.stream.get() == stream; });
  return found == workers_.end() ? nullptr : &*found;
}
SimCoordinator::WorkerEnd* SimCoordinator::FindWorker(WorkerId id) {
  const auto found = std::ranges::find_if(workers_, [&](const WorkerEnd& w) { return w.id == id; });
  return found == workers_.end() ? nullptr : &*found;
}
template <typename F>
void SimCoordinator::ToWorker(WorkerId id, F what) {
  if (const WorkerEnd* worker = FindWorker(id)) {
    cluster_.ToWorkerProcess(worker->stream, life_.process, worker->life, std::move(what));
  }
}

void SimCoordinator::OnWorkerJoined(std::shared_ptr<Stream> stream, const WorkerInfo& info, Life worker) {
  if (!leads()) {
    cluster_.ToWorkerProcess(stream, life_.process, worker, [leader = leader_](SimWorker& to) { to.OnNotLeader(leader); });
    return;
  }
  left_.erase(info.name);
  const WorkerId id = state_.Join(info, Now());
  std::erase_if(workers_, [&](const WorkerEnd& w) { return w.id == id; });
  workers_.push_back({std::move(stream), worker, id});
  Act();
}

void SimCoordinator::OnWorkerLost(const std::shared_ptr<Stream>& stream) {
  WorkerEnd* worker = FindWorker(stream.get());
  if (worker == nullptr) return;
  const WorkerId id = worker->id;
  std::erase_if(workers_, [&](const WorkerEnd& w) { return w.id == id; });
  state_.Gone(id, "its control stream ended", Now());
  Act();
}

void SimCoordinator::OnWorkerLeaving(const std::shared_ptr<Stream>& stream) {
  if (const WorkerEnd* worker = FindWorker(stream.get())) {
    const WorkerId id = worker->id;
    left_.insert(state_.FindWorker(id)->info.name);
    std::erase_if(workers_, [&](const WorkerEnd& w) { return w.id == id; });
    state_.Gone(id, "it was told to stop", Now(), /*planned=*/true);
    Act();
  }
  stream->Close(life_.process);
}

void SimCoordinator::OnHeartbeat(const Stream* stream, const WorkerProgress& progress) {
  if (const WorkerEnd* worker = FindWorker(stream)) state_.Heartbeat(worker->id, progress, Now());
  Act();
}

void SimCoordinator::OnLoaded(const Stream* stream, Epoch epoch, LoadPhase phase, const LoadDetails& details) {
  if (const WorkerEnd* worker = FindWorker(stream)) state_.Loaded(worker->id, epoch, phase, details, Now());
  Act();
}

void SimCoordinator::OnLeft(const Stream* stream, Epoch epoch) {
  if (const WorkerEnd* worker = FindWorker(stream)) state_.Left(worker->id, epoch, Now());
  Act();
}

void SimCoordinator::OnFault(const Stream* stream, Epoch epoch, const std::string& what) {
  const WorkerEnd* worker = FindWorker(stream);
  const WorkerRecord* record = worker == nullptr ? nullptr : state_.FindWorker(worker->id);
  if (record != nullptr && record->epoch == epoch) state_.EpochFailed(record->pipeline, epoch, what, Now());
  Act();
}

void SimCoordinator::OnResult(const Stream* stream, StepResult result) {
  if (FindWorker(stream) == nullptr) return;
  for (auto& [id, engine] : engines_) {
    if (!engine.open || engine.failed || engine.epoch != result.epoch) continue;
    const absl::Status status = engine.scheduler->OnResult(result, Now());
    if (!status.ok()) {
      world_.Violate(absl::StrCat(name_, " cannot use a result: ", status.message()));
      return;
    }
    while (!engine.dispatched.empty() && engine.dispatched.front().first <= engine.scheduler->last_read_step().value()) {
      engine.dispatched.pop_front();
    }
    engine.last_step = result.step;
    Pump(engine);
  }
  Act();
}

void SimCoordinator::Act() {
  if (stopped_) return;  // the control thread has ended
  for (std::vector<Action> actions = state_.TakeActions(); !actions.empty(); actions = state_.TakeActions()) {
    for (const Action& action : actions) Do(action);
  }
}

void SimCoordinator::Do(const Action& action) {
  if (const auto* save = std::get_if<SaveEpoch>(&action)) {
    if (cluster_.store().AdvanceEpoch(term_, save->epoch) == StoreAnswer::kOk) {
      refused_epochs_.erase(save->epoch.value());
      return;
    }
    refused_epochs_.insert(save->epoch.value());
    world_.After(life_, 0, [this, epoch = save->epoch] {
      for (const auto& [id, pipeline] : state_.pipelines()) {
        if (pipeline.epoch == epoch) return state_.EpochFailed(id, epoch, "the store did not take the epoch", Now()), Act();
      }
    });
  } else if (const auto* put = std::get_if<SavePipeline>(&action)) {
    cluster_.store().PutPipeline(term_, put->pipeline);
  } else if (const auto* forget = std::get_if<ForgetPipeline>(&action)) {
    cluster_.store().ForgetPipeline(term_, forget->pipeline);
  } else if (const auto* assign = std::get_if<SendAssignment>(&action)) {
    if (refused_epochs_.contains(assign->assignment.epoch.value())) return;
    cluster_.CheckEpoch(assign->assignment.epoch, name_);
    ToWorker(assign->worker, [assignment = assign->assignment](SimWorker& to) { to.OnAssignment(assignment); });
  } else if (const auto* link = std::get_if<SendLinkUp>(&action)) {
    ToWorker(link->worker, [link_up = *link](SimWorker& to) { to.OnLinkUp(link_up); });
  } else if (const auto* release = std::get_if<SendRelease>(&action)) {
    ToWorker(release->worker, [what = *release](SimWorker& to) { to.OnRelease(what.epoch, what.keep_weights); });
  } else if (const auto* close = std::get_if<CloseWorker>(&action)) {
    const WorkerEnd* worker = FindWorker(close->worker);
    if (worker == nullptr) return;
    worker->stream->Close(life_.process);
    std::erase_if(workers_, [&](const WorkerEnd& w) { return w.id == close->worker; });
  } else if (const auto* probe = std::get_if<ProbeWorker>(&action)) {
    const ProcessId process = ProcessOf(state_.FindWorker(probe->worker)->info.data_address);
    world_.After(life_, kMs, [this, worker = probe->worker, process] {
      const bool reached = cluster_.network().Connected(life_.process, process);
      const ProbeResult result = !reached                  ? ProbeResult::kUnreachable
                                 : world_.IsUp(process) ? ProbeResult::kAnswered
                                                        : ProbeResult::kRefused;
      state_.Probed(worker, result, Now());
      Act();
    });
  } else if (const auto* fault = std::get_if<ReportFault>(&action)) {
    world_.Note(absl::StrCat(name_, " finds ", std::string(NameOf(fault->kind)), ": ", fault->text));
    cluster_.Count("faults");
    if (left_.contains(fault->worker)) world_.Violate(absl::StrCat(fault->worker, " left by order and is blamed: ", fault->text));
  } else if (const auto* create = std::get_if<CreatePipeline>(&action)) {
    engines_[create->pipeline].pipeline = create->pipeline;
    snapshot_due_ = true;
  } else if (const auto* open = std::get_if<coordinator::OpenEpoch>(&action)) {
    OpenEpoch(*open);
  } else if (const auto* end = std::get_if<CloseEpoch>(&action)) {
    EndEpoch(*end);
  } else if (const auto* limit = std::get_if<LimitQueue>(&action)) {
    engines_.at(limit->pipeline).scheduler->LimitQueue(limit->max_queued_requests);
  } else if (const auto* stop = std::get_if<StopPipeline>(&action)) {
    snapshot_due_ = true;
    Engine& engine = engines_.at(stop->pipeline);
    if (stop->how == StopHow::kDrain) {
      engine.draining = true;
      return;
    }
    engine.scheduler->FailAll(stop->how == StopHow::kDeleted ? std::string(kDeletedError) : "UNAVAILABLE: the pipeline is drained");
    Publish(engine);
    engines_.erase(stop->pipeline);
  }
}

void SimCoordinator::OpenEpoch(const coordinator::OpenEpoch& action) {
  const PipelineRecord& pipeline = state_.pipelines().at(action.pipeline);
  Engine& engine = engines_.at(action.pipeline);
  for (const WorkerId id : pipeline.workers) {
    if (FindWorker(id) == nullptr) return;  // it is on its way out, and the epoch with it
  }
  engine.scheduler->EndEpoch();
  engine.scheduler->BeginEpoch(EpochSettingsOf(state_, action));
  engine.epoch = action.epoch;
  engine.ranks = pipeline.workers;
  engine.open = true;
  engine.failed = false;
  engine.dispatched.clear();
  ++epochs_opened_;
  if (!pipeline.makeshift.empty()) cluster_.Count("makeshifts");
  world_.Note(absl::StrCat(name_, " opens epoch ", action.epoch.value(), " of pipeline ", action.pipeline.value(),
                           pipeline.makeshift.empty() ? "" : ", which ", pipeline.makeshift));
  snapshot_due_ = true;
  Pump(engine);
}

void SimCoordinator::EndEpoch(const CloseEpoch& action) {
  world_.Note(absl::StrCat(name_, " ends epoch ", action.epoch.value(), ": ", action.why));
  snapshot_due_ = true;
  const auto found = engines_.find(action.pipeline);
  if (found == engines_.end()) return;  // it was stopped before its workers were let go
  Engine& engine = found->second;
  if (action.planned) cluster_.Count("planned_ends");
  if (!action.planned) cluster_.NoteLoss();
  if (!engine.open || engine.epoch != action.epoch) return;
  PublishDeaths(engine);
  engine.scheduler->EndEpoch(action.planned ? EpochEnd::kPlanned : EpochEnd::kLost);
  if (PublishDeaths(engine) > 0 && action.planned) world_.Violate("a planned end of an epoch is counted as a death");
  engine.open = false;
  engine.dispatched.clear();
  Publish(engine);
}

// Returns how many deaths were counted.
int SimCoordinator::PublishDeaths(Engine& engine) {
  int deaths = 0;
  std::map<RouterId, std::vector<DeathNotice>> by_router;
  for (const DeathNotice& notice : engine.scheduler->TakeDeathNotices()) {
    deaths += notice.deaths + notice.deaths_alone > 0;
    by_router[notice.router].push_back(notice);
  }
  for (const auto& [id, notices] : by_router) {
    const RouterEnd* router = FindRouter(id);
    if (router == nullptr) continue;
    auto message = std::make_shared<wire::CoordinatorMessage>();
    ToWire(notices, *message->mutable_deaths());
    ToRouter(*router, message);
  }
  cluster_.Count("deaths", deaths);
  return deaths;
}

void SimCoordinator::Pump(Engine& engine) {
  Dispatch(engine);
  Publish(engine);
}

void SimCoordinator::Dispatch(Engine& engine) {
  if (!engine.open || engine.failed) return;
  while (std::optional<StepPlan> plan = engine.scheduler->NextPlan(Now())) {
    engine.dispatched.emplace_back(plan->step.value(), Now());
    auto message = std::make_shared<wire::StepPlan>();
    ToWire(*plan, *message);
    for (const WorkerId id : engine.ranks) {
      if (FindWorker(id) == nullptr) return FailEpoch(engine, absl::StrCat("step ", plan->step.value(), " did not reach every rank"), 0);
      ToWorker(id, [message](SimWorker& to) { to.OnPlan(*message); });
    }
  }
}

void SimCoordinator::FailEpoch(Engine& engine, const std::string& why, uint64_t stalled_step) {
  engine.failed = true;
  world_.After(life_, 0, [this, pipeline = engine.pipeline, epoch = engine.epoch, why, stalled_step] {
    if (stalled_step == 0) {
      state_.EpochFailed(pipeline, epoch, why, Now());
    } else {
      state_.StepStalled(pipeline, epoch, StepNumber(stalled_step), why, Now());
    }
    Act();
  });
}

void SimCoordinator::CheckStepDeadline(Engine& engine) {
  if (engine.dispatched.empty() || engine.failed || !engine.open) return;
  const auto [step, since_ns] = engine.dispatched.front();
  if (Now() - since_ns < 4 * kSecond) return;
  FailEpoch(engine, absl::StrCat("step ", step, " gave no result for ", (Now() - since_ns) / kMs, " ms"), step);
}

void SimCoordinator::Publish(Engine& engine) {
  PublishDeaths(engine);
  for (const Refusal& refusal : engine.scheduler->TakeRefusals()) {
    resumable_.Drop(refusal.request, refusal.attempt);
    Refuse(refusal.router, refusal);
  }
  std::vector<ChoiceOutput> outputs = engine.scheduler->TakeOutputs();
  for (ChoiceOutput& output : outputs) {
    if (!output.tokens.empty() && world_.TakeSpoil("token")) output.tokens.front() ^= 1;
    if (!output.tokens.empty() && world_.TakeSpoil("short")) output.tokens.pop_back();
  }
  for (const ChoiceOutput& output : outputs) {  // the log first: a client never has a token that the log does not
    if (output.resumable) resumable_.Append(output, Now());
  }
  std::map<RouterId, std::vector<ChoiceOutput*>> by_router;
  for (ChoiceOutput& output : outputs) by_router[output.router].push_back(&output);
  for (const auto& [id, batch] : by_router) {
    const RouterEnd* router = FindRouter(id);
    if (router == nullptr) continue;
    auto message = std::make_shared<wire::CoordinatorMessage>();
    ToWire(StepTokens{.pipeline = engine.pipeline, .epoch = engine.epoch, .step = engine.last_step}, batch, *message->mutable_tokens());
    ToRouter(*router, message);
  }
  if (engine.scheduler->idle() && engine.scheduler->leaked_blocks() != (world_.TakeSpoil("leak") ? 1 : 0)) {
    world_.Violate(absl::StrCat(engine.scheduler->leaked_blocks(), " blocks leaked in pipeline ", engine.pipeline.value()));
  }
  const bool drained = engine.draining && engine.scheduler->idle();
  if (drained && !resumable_.HasLately(engine.pipeline, Now() - state_.limits().streams_return_ns)) state_.Drained(engine.pipeline, Now());
}

std::string SimCoordinator::UnrestOf() const {
  std::string unrest;
  for (const auto& [id, engine] : engines_) {
    const SchedulerStats stats = engine.scheduler->stats();
    if (!engine.scheduler->idle()) {
      absl::StrAppend(&unrest, "pipeline ", id.value(), " of ", name_, " still has ", stats.running, " running and ", stats.waiting,
                      " waiting; ");
    } else if (engine.scheduler->leaked_blocks() != 0) {
      absl::StrAppend(&unrest, engine.scheduler->leaked_blocks(), " blocks leaked; ");
    }
  }
  return unrest;
}

SimCoordinator::Totals SimCoordinator::totals() const {
  Totals totals{.epochs = epochs_opened_, .kept_streams = resumable_.sizes().streams};
  for (const auto& [id, engine] : engines_) {
    const SchedulerStats stats = engine.scheduler->stats();
    totals.replayed += stats.replayed_token_layers;
    totals.refilled += stats.refilled_token_layers;
    totals.recomputed += stats.recomputed_token_layers;
    totals.preemptions += stats.preemptions;
    totals.drafts += stats.draft_tokens;
    totals.accepted_drafts += stats.accepted_draft_tokens;
  }
  return totals;
}

}  // namespace pagoda::sim
