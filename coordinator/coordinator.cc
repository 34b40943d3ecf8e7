#include "coordinator/coordinator.h"

#include <prometheus/gauge.h>
#include <prometheus/registry.h>

#include <chrono>
#include <future>

#include "common/clock.h"
#include "common/limits.h"
#include "common/log.h"
#include "coordinator/request_log.h"

namespace pagoda::coordinator {
namespace {

constexpr size_t kInboxCapacity = 1 << 16;
constexpr int64_t kSnapshotEveryNs = kNsPerSecond;
constexpr int64_t kTickEveryMs = 250;

int64_t UnixSeconds() {
  return std::chrono::duration_cast<std::chrono::seconds>(std::chrono::system_clock::now().time_since_epoch()).count();
}

}  // namespace

Coordinator::Coordinator(CoordinatorOptions options, std::unique_ptr<Store> store, std::shared_ptr<ModelCatalog> catalog,
                         std::shared_ptr<prometheus::Registry> registry)
    : options_(std::move(options)),
      catalog_(std::move(catalog)),
      registry_(std::move(registry)),
      inbox_(kInboxCapacity),
      store_(std::move(store)),
      state_(ClusterLimits{.lease_ns = options_.lease_ms * kNsPerMs, .own_blob_addresses = {}}) {}

Coordinator::~Coordinator() { Stop(); }

absl::Status Coordinator::Start() {
  PAGODA_ASSIGN_OR_RETURN(const StoredState stored, store_->Load());
  std::vector<std::pair<PipelineId, std::string>> pipelines;
  for (const StoredPipeline& pipeline : stored.pipelines) pipelines.emplace_back(pipeline.pipeline, pipeline.deployment);
  state_.Restore(stored.last_epoch, stored.last_pipeline, pipelines);
  for (const DeploymentSpec& spec : stored.deployments) {
    const auto model = catalog_->Open(spec.model);
    if (!model.ok()) {
      LogError("deployment_not_restored",
               {{"deployment", spec.name}, {"error", AsStd(model.status().message())}});
      continue;
    }
    state_.Apply(spec, {.digest = (*model)->digest(), .sizes = (*model)->sizes()}, NowNs());
  }
  CountWorkers();
  thread_ = std::thread([this] { Run(); });
  return absl::OkStatus();
}

void Coordinator::SetBlobAddress(const std::string& address) {
  Post([this, address] { state_.SetOwnBlobAddress(address); });
}

bool Coordinator::Post(std::function<void()> task) {
  if (inbox_.TryPush(std::move(task))) return true;
  if (!inbox_.closed()) LogError("control_inbox_full");
  return false;
}

void Coordinator::Run() {
  while (!stopping_.load()) {
    const std::vector<std::function<void()>> tasks = inbox_.PopAll(absl::Milliseconds(kTickEveryMs));
    for (const auto& task : tasks) {
      task();
      Act();
    }
    TickNow();
  }
  // Whoever waits for an answer gets one.
  for (const auto& task : inbox_.PopAll(absl::ZeroDuration())) task();
}

void Coordinator::TickNow() {
  const int64_t now_ns = NowNs();
  state_.Tick(now_ns);
  EndDrainsThatTookTooLong(now_ns);
  Act();
  if (!snapshot_due_ && now_ns - snapshot_at_ns_ < kSnapshotEveryNs) return;
  snapshot_due_ = false;
  snapshot_at_ns_ = now_ns;
  MeasureRates(now_ns);
  CountWorkers();
  PublishSnapshot();
}

void Coordinator::Act() {
  for (std::vector<Action> actions = state_.TakeActions(); !actions.empty(); actions = state_.TakeActions()) {
    for (const Action& action : actions) std::visit([this](const auto& which) { Do(which); }, action);
  }
}

void Coordinator::Do(const SaveEpoch& action) {
  const absl::Status status = store_->AdvanceEpoch(action.epoch);
  if (!status.ok()) LogError("epoch_not_stored", {{"epoch", action.epoch.value()}, {"error", AsStd(status.message())}});
}

void Coordinator::Do(const SavePipeline& action) {
  const absl::Status status = store_->PutPipeline({action.pipeline, action.deployment});
  if (!status.ok()) LogError("pipeline_not_stored", {{"error", AsStd(status.message())}});
}

void Coordinator::Do(const ForgetPipeline& action) {
  const absl::Status status = store_->DeletePipeline(action.pipeline);
  if (!status.ok()) LogError("pipeline_not_forgotten", {{"error", AsStd(status.message())}});
}

void Coordinator::Do(const SendAssignment& action) {
  const Assignment& assignment = action.assignment;
  LogInfo("worker_assigned", {{"worker", action.worker.value()},
                     {"pipeline", assignment.pipeline.value()},
                     {"epoch", assignment.epoch.value()},
                     {"stage", assignment.stage},
                     {"rank", assignment.rank},
                     {"blocks", assignment.blocks},
                     {"max_model_len", assignment.max_model_len}});
  if (WorkerLink* link = LinkOf(action.worker)) link->Send(assignment, options_.step_deadline_ms);
}

void Coordinator::Do(const SendLinkUp& action) {
  if (WorkerLink* link = LinkOf(action.worker)) link->Send(action);
}

void Coordinator::Do(const SendRelease& action) {
  if (WorkerLink* link = LinkOf(action.worker)) {
    link->SetEngine(nullptr);
    link->Send(action);
  }
}

void Coordinator::Do(const CloseWorker& action) {
  WorkerLink* link = LinkOf(action.worker);
  if (link == nullptr) return;
  LogWarning("worker_closed", {{"worker", action.worker.value()}, {"why", action.why}});
  const std::shared_ptr<WorkerLink> held = links_.at(action.worker);
  worker_ids_.erase(link);
  links_.erase(action.worker);
  held->SetEngine(nullptr);
  held->Close(action.why);
}

void Coordinator::Do(const CreatePipeline& action) {
  const DeploymentRecord& deployment = state_.deployments().at(action.deployment);
  EngineOptions options{.pipeline = action.pipeline,
                        .deployment = action.deployment,
                        .max_queued_requests = deployment.spec.max_queued_requests,
                        .step_deadline_ns = options_.step_deadline_ms * kNsPerMs,
                        .epoch_failed = {},
                        .drained = {}};
  const PipelineId id = action.pipeline;
  options.epoch_failed = [this, id](Epoch epoch, const std::string& why) {
    Post([this, id, epoch, why] { state_.EpochFailed(id, epoch, why + NamesOfTheWaiting(id), NowNs()); });
  };
  options.drained = [this, id] { Post([this, id] { state_.Drained(id, NowNs()); }); };
  auto engine = std::make_shared<PipelineEngine>(std::move(options), routers_,
                                                 std::make_unique<EngineMetrics>(*registry_, action.deployment, id));
  created_unix_s_[id] = UnixSeconds();
  absl::MutexLock lock(&engines_mutex_);
  engines_[id] = std::move(engine);
  snapshot_due_ = true;
}

void Coordinator::Do(const OpenEpoch& action) {
  const PipelineRecord& pipeline = state_.pipelines().at(action.pipeline);
  const DeploymentRecord& deployment = state_.deployments().at(pipeline.deployment);
  const std::shared_ptr<PipelineEngine> engine = FindEngine(action.pipeline);
  if (engine == nullptr) return;
  std::vector<std::shared_ptr<WorkerLink>> ranks;
  for (const WorkerId worker : pipeline.workers) {
    const auto link = links_.find(worker);
    if (link == links_.end()) return;  // it is on its way out, and the epoch with it
    link->second->SetEngine(engine);
    ranks.push_back(link->second);
  }
  const DeploymentSpec& spec = deployment.spec;
  engine->OpenEpoch(EpochSettings{.epoch = action.epoch,
                                  .stages = static_cast<int>(pipeline.placement.stages.size()),
                                  .blocks = pipeline.placement.blocks,
                                  .block_tokens = spec.block_size,
                                  .max_model_len = pipeline.placement.max_model_len,
                                  .vocabulary = deployment.model.sizes->spec.vocabulary,
                                  .max_step_rows = spec.max_num_batched_tokens,
                                  .max_sequences = spec.max_num_seqs,
                                  .max_slots = 2 * spec.max_num_seqs,
                                  .max_sample_rows = spec.max_num_seqs,
                                  .prefix_caching = !spec.disable_prefix_caching,
                                  .max_queued_requests = spec.max_queued_requests},
                    MakePlanTransport(std::move(ranks)));
  LogInfo("pipeline_ready", {{"pipeline", action.pipeline.value()},
                             {"deployment", pipeline.deployment},
                             {"epoch", action.epoch.value()},
                             {"blocks", pipeline.placement.blocks},
                             {"max_model_len", pipeline.placement.max_model_len}});
  snapshot_due_ = true;
}

void Coordinator::Do(const CloseEpoch& action) {
  LogWarning("epoch_ended", {{"pipeline", action.pipeline.value()}, {"epoch", action.epoch.value()}, {"why", action.why}});
  if (const auto engine = FindEngine(action.pipeline)) engine->CloseEpoch(action.epoch);
  snapshot_due_ = true;
}

void Coordinator::Do(const StopPipeline& action) {
  const auto engine = FindEngine(action.pipeline);
  snapshot_due_ = true;
  if (engine == nullptr) return;
  if (action.draining) {
    engine->Drain();
    return;
  }
  engine->Stop("UNAVAILABLE: the deployment was deleted");
  retired_.push_back(engine);
  rates_.erase(action.pipeline);
  absl::MutexLock lock(&engines_mutex_);
  engines_.erase(action.pipeline);
}

// Who was waiting for whom when a step gave no result: the heartbeats tell.
std::string Coordinator::NamesOfTheWaiting(PipelineId id) const {
  const auto found = state_.pipelines().find(id);
  std::string text;
  if (found == state_.pipelines().end()) return text;
  for (const WorkerId worker_id : found->second.workers) {
    const WorkerRecord* worker = state_.FindWorker(worker_id);
    if (worker == nullptr) continue;
    absl::StrAppend(&text, "; stage ", worker->stage, " rank ", worker->rank, " (", worker->info.name, ") finished step ",
                    worker->progress.last_step,
                    worker->progress.waiting_for.empty() ? "" : absl::StrCat(", waits for ", worker->progress.waiting_for));
  }
  return text;
}

void Coordinator::EndDrainsThatTookTooLong(int64_t now_ns) {
  for (auto entry = drain_deadlines_.begin(); entry != drain_deadlines_.end();) {
    if (now_ns < entry->second) {
      ++entry;
      continue;
    }
    std::vector<PipelineId> late;
    for (const auto& [id, pipeline] : state_.pipelines()) {
      if (pipeline.deployment == entry->first && pipeline.draining) late.push_back(id);
    }
    for (const PipelineId id : late) state_.Drained(id, now_ns);
    entry = drain_deadlines_.erase(entry);
  }
}

void Coordinator::MeasureRates(int64_t now_ns) {
  for (const auto& engine : Engines()) {
    const EngineStatus status = engine->status();
    PipelineRate& rate = rates_[engine->options().pipeline];
    const double seconds = static_cast<double>(now_ns - rate.at_ns) / 1e9;
    if (rate.at_ns > 0 && seconds > 0) {
      rate.prompt_per_s = static_cast<double>(status.stats.prompt_tokens - rate.prompt) / seconds;
      rate.output_per_s = static_cast<double>(status.stats.generated_tokens - rate.output) / seconds;
    }
    rate.at_ns = now_ns;
    rate.prompt = status.stats.prompt_tokens;
    rate.output = status.stats.generated_tokens;
  }
  retired_.clear();  // by now their threads have ended, or end here
}

void Coordinator::CountWorkers() {
  std::map<std::string, int> counts = {{"idle", 0}, {"loading", 0}, {"ready", 0}, {"releasing", 0}, {"lost", 0}};
  for (const auto& [id, worker] : state_.workers()) ++counts[std::string(NameOf(worker.phase))];
  auto& family = prometheus::BuildGauge()
                     .Name("pagoda_coordinator_workers")
                     .Help("Workers that the coordinator knows, by state")
                     .Register(*registry_);
  for (const auto& [name, count] : counts) family.Add({{"state", name}}).Set(count);
  prometheus::BuildGauge()
      .Name("pagoda_coordinator_routers")
      .Help("Routers that are attached")
      .Register(*registry_)
      .Add({})
      .Set(static_cast<double>(routers_->All().size()));
}

Snapshot Coordinator::MakeSnapshot() const {
  Snapshot snapshot;
  snapshot.version = snapshot_version_;
  for (const auto& [id, pipeline] : state_.pipelines()) {
    const auto deployment = state_.deployments().find(pipeline.deployment);
    const auto engine = FindEngine(id);
    if (deployment == state_.deployments().end() || engine == nullptr) continue;
    const EngineStatus status = engine->status();
    const checkpoint::ModelSpec& spec = deployment->second.model.sizes->spec;
    snapshot.pipelines.push_back({.pipeline = id,
                                  .epoch = pipeline.epoch,
                                  .model = pipeline.deployment,
                                  .model_digest = deployment->second.model.digest,
                                  .architecture = spec.architecture,
                                  .ready = pipeline.phase == PipelinePhase::kReady && !refusing_.load(),
                                  .max_model_len = pipeline.placement.max_model_len,
                                  .block_tokens = deployment->second.spec.block_size,
                                  .blocks_total = pipeline.placement.blocks,
                                  .blocks_used = status.stats.blocks_used,
                                  .running = status.stats.running,
                                  .waiting = status.stats.waiting,
                                  .numerics_profile = pipeline.numerics_profile,
                                  .vocabulary = spec.vocabulary,
                                  .max_queued_requests = deployment->second.spec.max_queued_requests,
                                  .created_unix_s = created_unix_s_.at(id),
                                  .preemptions = status.stats.preemptions,
                                  .prefix_hit_tokens = status.stats.prefix_hit_tokens,
                                  .prefix_query_tokens = status.stats.prefix_query_tokens});
  }
  return snapshot;
}

void Coordinator::PublishSnapshot() {
  ++snapshot_version_;
  Snapshot snapshot = MakeSnapshot();
  for (const auto& router : routers_->All()) router->SendSnapshot(snapshot);
  absl::MutexLock lock(&snapshot_mutex_);
  latest_ = std::move(snapshot);
}

WorkerLink* Coordinator::LinkOf(WorkerId worker) const {
  const auto found = links_.find(worker);
  return found == links_.end() ? nullptr : found->second.get();
}

WorkerId Coordinator::IdOf(const WorkerLink* link) const {
  const auto found = worker_ids_.find(link);
  return found == worker_ids_.end() ? WorkerId() : found->second;
}

std::shared_ptr<PipelineEngine> Coordinator::FindEngine(PipelineId pipeline) const {
  absl::MutexLock lock(&engines_mutex_);
  const auto found = engines_.find(pipeline);
  return found == engines_.end() ? nullptr : found->second;
}

std::vector<std::shared_ptr<PipelineEngine>> Coordinator::Engines() const {
  absl::MutexLock lock(&engines_mutex_);
  std::vector<std::shared_ptr<PipelineEngine>> all;
  for (const auto& [id, engine] : engines_) all.push_back(engine);
  return all;
}

bool Coordinator::FinishRunning(int timeout_ms) {
  refusing_.store(true);
  Post([this] { snapshot_due_ = true; });
  const int64_t until_ns = NowNs() + timeout_ms * kNsPerMs;
  while (NowNs() < until_ns) {
    bool idle = true;
    for (const auto& engine : Engines()) idle = idle && !engine->busy();
    if (idle) return true;
    absl::SleepFor(absl::Milliseconds(20));
  }
  return false;
}

void Coordinator::Stop() {
  if (stopping_.exchange(true)) return;
  inbox_.Close();
  if (thread_.joinable()) thread_.join();
  for (const auto& engine : Engines()) engine->Stop("UNAVAILABLE: the coordinator stops");
  {
    absl::MutexLock lock(&engines_mutex_);
    retired_.clear();
    engines_.clear();  // joins their threads
  }
  for (const auto& [id, link] : links_) {
    link->SetEngine(nullptr);
    link->Close("the coordinator stops");
  }
  for (const auto& router : routers_->All()) router->Close("the coordinator stops");
}

void Coordinator::WorkerJoined(std::shared_ptr<WorkerLink> link, WorkerInfo info) {
  Post([this, link = std::move(link), info = std::move(info)] {
    LogInfo("worker_joined", {{"worker", info.name},
                              {"host", info.host},
                              {"threads", info.threads},
                              {"memory_bytes", info.memory_bytes},
                              {"numerics_profile", info.numerics_profile},
                              {"implementation", info.implementation}});
    const WorkerId id = state_.Join(info, NowNs());
    links_[id] = link;
    worker_ids_[link.get()] = id;
    link->Welcome({.worker = id, .heartbeat_ms = options_.heartbeat_ms, .lease_ms = options_.lease_ms});
    snapshot_due_ = true;
  });
}

void Coordinator::WorkerHeartbeat(std::shared_ptr<WorkerLink> link, WorkerProgress progress) {
  Post([this, link = std::move(link), progress = std::move(progress)] {
    state_.Heartbeat(IdOf(link.get()), progress, NowNs());
  });
}

void Coordinator::WorkerLoaded(std::shared_ptr<WorkerLink> link, Epoch epoch, LoadPhase phase, double progress,
                               int64_t weights_bytes, int64_t kv_bytes) {
  Post([=, this, link = std::move(link)] {
    state_.Loaded(IdOf(link.get()), epoch, phase, progress, weights_bytes, kv_bytes, NowNs());
  });
}

void Coordinator::WorkerLeft(std::shared_ptr<WorkerLink> link, Epoch epoch) {
  Post([this, link = std::move(link), epoch] { state_.Left(IdOf(link.get()), epoch, NowNs()); });
}

void Coordinator::WorkerFault(std::shared_ptr<WorkerLink> link, Epoch epoch, std::string what) {
  Post([this, link = std::move(link), epoch, what = std::move(what)] {
    const WorkerRecord* worker = state_.FindWorker(IdOf(link.get()));
    if (worker == nullptr) return;
    LogWarning("worker_fault", {{"worker", worker->info.name}, {"epoch", epoch.value()}, {"what", what}});
    if (worker->epoch == epoch) state_.EpochFailed(worker->pipeline, epoch, what, NowNs());
  });
}

void Coordinator::WorkerGone(std::shared_ptr<WorkerLink> link) {
  Post([this, link = std::move(link)] {
    const WorkerId id = IdOf(link.get());
    if (id == WorkerId()) return;
    const WorkerRecord* worker = state_.FindWorker(id);
    if (worker != nullptr) LogWarning("worker_gone", {{"worker", worker->info.name}});
    worker_ids_.erase(link.get());
    links_.erase(id);
    state_.Gone(id, "its control stream ended", NowNs());
    snapshot_due_ = true;
  });
}

RouterId Coordinator::RouterJoined(std::shared_ptr<RouterLink> link) {
  Snapshot snapshot;
  {
    absl::MutexLock lock(&snapshot_mutex_);
    snapshot = latest_;
  }
  link->SendSnapshot(snapshot);
  const RouterId id = routers_->Add(std::move(link));
  Post([this] { snapshot_due_ = true; });
  return id;
}

void Coordinator::RouterGone(RouterId router) {
  routers_->Remove(router);
  for (const auto& engine : Engines()) engine->DropRouter(router);
}

void Coordinator::Submit(PipelineId pipeline, Request request, RouterLink& link) {
  const std::string client_request_id = request.client_request_id;
  Refusal refusal{.router = request.router,
                  .request = request.id,
                  .attempt = request.attempt,
                  .code = RefusalCode::kUnavailable,
                  .message = "the coordinator is shutting down",
                  .retry_after_ms = 0};
  LogReceived(request, pipeline);
  const auto refuse = [&] {
    LogInfo("request_refused", {{"request_id", client_request_id},
                                {"request", refusal.request.ToString()},
                                {"pipeline", pipeline.value()},
                                {"why", refusal.message}});
    link.SendRefused(refusal);
  };
  if (refusing_.load()) return refuse();
  const auto engine = FindEngine(pipeline);
  if (engine == nullptr) {
    refusal.code = RefusalCode::kNotFound;
    refusal.message = absl::StrCat("there is no pipeline ", pipeline.value(), " here");
    return refuse();
  }
  if (engine->TrySubmit(std::move(request))) return;
  refusal.code = RefusalCode::kResourceExhausted;
  refusal.message = absl::StrCat("the pipeline's queue is full (max_queued_requests ", engine->options().max_queued_requests, ")");
  refusal.retry_after_ms = 1000;
  refuse();
}

void Coordinator::Cancel(RequestId request) {
  for (const auto& engine : Engines()) engine->Cancel(request);
}

void Coordinator::StopChoice(RequestId request, int choice, int count) {
  for (const auto& engine : Engines()) engine->StopChoice(request, choice, count);
}

void Coordinator::Apply(DeploymentSpec spec, ModelFacts model, Done done) {
  const bool posted = Post([this, spec = std::move(spec), model = std::move(model), done] {
    const absl::StatusOr<int> needed = WorkersNeeded(*model.sizes, PlacementRequestOf(spec));
    if (!needed.ok()) return done(needed.status());
    const absl::Status stored = store_->PutDeployment(spec);
    if (!stored.ok()) return done(stored);
    drain_deadlines_.erase(spec.name);
    state_.Apply(spec, model, NowNs());
    Act();
    done(absl::OkStatus());
  });
  if (!posted) done(absl::UnavailableError("the coordinator is shutting down or overloaded"));
}

void Coordinator::Scale(std::string name, int replicas, Done done) {
  const bool posted = Post([this, name = std::move(name), replicas, done] {
    absl::Status status = state_.Scale(name, replicas, NowNs());
    if (status.ok()) status = store_->PutDeployment(state_.deployments().at(name).spec);
    done(status);
  });
  if (!posted) done(absl::UnavailableError("the coordinator is shutting down or overloaded"));
}

void Coordinator::Drain(std::string name, int timeout_ms, Done done) {
  const bool posted = Post([this, name = std::move(name), timeout_ms, done] {
    absl::Status status = state_.Drain(name, NowNs());
    if (status.ok() && timeout_ms > 0) drain_deadlines_[name] = NowNs() + timeout_ms * kNsPerMs;
    if (status.ok()) status = store_->PutDeployment(state_.deployments().at(name).spec);
    done(status);
  });
  if (!posted) done(absl::UnavailableError("the coordinator is shutting down or overloaded"));
}

void Coordinator::Delete(std::string name, Done done) {
  const bool posted = Post([this, name = std::move(name), done] {
    absl::Status status = state_.Delete(name, NowNs());
    if (status.ok()) status = store_->DeleteDeployment(name);
    done(status);
  });
  if (!posted) done(absl::UnavailableError("the coordinator is shutting down or overloaded"));
}

void Coordinator::View(std::function<void(ClusterView)> done) {
  const bool posted = Post([this, done] {
    ClusterView view;
    view.now_ns = NowNs();
    for (const auto& [name, deployment] : state_.deployments()) view.deployments.push_back(deployment);
    for (const auto& [id, worker] : state_.workers()) view.workers.push_back(worker);
    for (const auto& [id, pipeline] : state_.pipelines()) {
      ClusterView::Pipeline shown{.record = pipeline, .status = {}};
      if (const auto engine = FindEngine(id)) shown.status = engine->status();
      const auto rate = rates_.find(id);
      if (rate != rates_.end()) {
        shown.prompt_tokens_per_s = rate->second.prompt_per_s;
        shown.output_tokens_per_s = rate->second.output_per_s;
      }
      view.pipelines.push_back(std::move(shown));
    }
    done(std::move(view));
  });
  if (!posted) done(ClusterView());
}

}  // namespace pagoda::coordinator
