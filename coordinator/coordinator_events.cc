// What workers, routers and operators tell the coordinator; each becomes a task of the control thread or of an engine.
#include "coordinator/coordinator.h"

#include <algorithm>

#include "common/clock.h"
#include "common/log.h"
#include "common/stream_errors.h"
#include "coordinator/request_log.h"

namespace pagoda::coordinator {
namespace {

constexpr int kLeavingMs = static_cast<int>(kKvMoveNs / kNsPerMs) + 1000;

}  // namespace

void Coordinator::WorkerJoined(std::shared_ptr<WorkerLink> link, WorkerInfo info) {
  Post([this, link = std::move(link), info = std::move(info)] {
    if (!leading_.load()) return link->SendNotLeader(leader_address());
    LogInfo("worker_joined", {{"worker", info.name},
                              {"holds_shard", info.held_shard},
                              {"host", info.host},
                              {"threads", info.threads},
                              {"memory_bytes", info.memory_bytes},
                              {"numerics_profile", info.numerics_profile},
                              {"implementation", info.implementation}});
    Tell("worker_joined", absl::StrCat(info.name, " joined from ", info.host));
    const WorkerId id = state_.Join(info, NowNs());
    links_[id] = link;
    worker_ids_[link.get()] = id;
    link->Welcome({.worker = id, .heartbeat_ms = options_.heartbeat_ms, .lease_ms = options_.lease_ms, .leaving_ms = kLeavingMs});
    snapshot_due_ = true;
  });
}

void Coordinator::WorkerHeartbeat(std::shared_ptr<WorkerLink> link, WorkerProgress progress) {
  Post([this, link = std::move(link), progress = std::move(progress)] {
    state_.Heartbeat(IdOf(link.get()), progress, NowNs());
  });
}

void Coordinator::WorkerLoaded(std::shared_ptr<WorkerLink> link, Epoch epoch, LoadPhase phase, LoadDetails details) {
  Post([this, link = std::move(link), epoch, phase, details = std::move(details)] {
    state_.Loaded(IdOf(link.get()), epoch, phase, details, NowNs());
  });
}

void Coordinator::WorkerLeft(std::shared_ptr<WorkerLink> link, Epoch epoch) {
  Post([this, link = std::move(link), epoch] { state_.Left(IdOf(link.get()), epoch, NowNs()); });
}

void Coordinator::WorkerFault(std::shared_ptr<WorkerLink> link, Epoch epoch, std::string what) {
  Post([this, link = std::move(link), epoch, what = std::move(what)] {
    const WorkerRecord* worker = state_.FindWorker(IdOf(link.get()));
    if (worker == nullptr) return;
    Tell("worker_fault", absl::StrCat(worker->info.name, ": ", what));
    LogWarning("worker_fault", {{"worker", worker->info.name}, {"epoch", epoch.value()}, {"what", what}});
    if (worker->epoch == epoch) state_.EpochFailed(worker->pipeline, epoch, what, NowNs());
  });
}

void Coordinator::WorkerGone(std::shared_ptr<WorkerLink> link, bool planned) {
  Post([this, link = std::move(link), planned] { LetGo(*link, planned); });
}

void Coordinator::LetGo(WorkerLink& link, bool planned) {
  if (planned) link.Farewell();
  const WorkerId id = IdOf(&link);
  if (id == WorkerId()) return;
  const WorkerRecord* worker = state_.FindWorker(id);
  if (worker != nullptr) {
    LogWarning("worker_gone", {{"worker", worker->info.name}});
    Tell(planned ? "worker_left" : "worker_lost",
         absl::StrCat(worker->info.name, planned ? " leaves: it was told to stop" : " is lost: its control stream ended"));
  }
  worker_ids_.erase(&link);
  links_.erase(id);
  state_.Gone(id, planned ? "it was told to stop" : "its control stream ended", NowNs(), planned);
  snapshot_due_ = true;
}

RouterId Coordinator::RouterJoined(std::shared_ptr<RouterLink> link) {
  Snapshot snapshot;
  {
    MutexLock lock(&snapshot_mutex_);
    snapshot = latest_;
  }
  const bool leads = leading_.load();
  link->SendHello(leads, leads ? "" : leader_address());
  if (leads) link->SendSnapshot(snapshot);
  const RouterId id = routers_->Add(std::move(link));
  Post([this] { snapshot_due_ = true; });
  return id;
}

void Coordinator::RouterGone(RouterId router) {
  routers_->Remove(router);
  resumable_->DetachRouter(router, NowNs());
  Post([this] { state_.StreamsMayReturn(NowNs()); });  // before an engine hears that it has less to do
  for (const auto& engine : Engines()) engine->DropRouter(router);
}

void Coordinator::Submit(PipelineId pipeline, Request request, ResumeTable::Label label, RouterLink& link) {
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
  if (!leading_.load()) {
    refusal.message = absl::StrCat("this coordinator does not lead; ", leader_address(), " does");
    return refuse();
  }
  if (refusing_.load()) return refuse();
  const auto engine = FindEngine(pipeline);
  if (engine == nullptr) {
    refusal.code = RefusalCode::kNotFound;
    refusal.message = absl::StrCat("there is no pipeline ", pipeline.value(), " here");
    return refuse();
  }
  // It left a lost pipeline, which kept it for its next epoch: nobody would read those tokens.
  if (request.attempt > 1) {
    for (const auto& other : Engines()) {
      if (other != engine) other->Cancel(request.id, request.attempt);
    }
  }
  if (!label.resume_id.empty()) {
    Label(pipeline, label);
    request.resumable = resumable_->Begin(std::move(label), request, pipeline, NowNs());
    if (!request.resumable) LogWarning("stream_not_resumable", {{"request_id", client_request_id}});
  }
  if (engine->TrySubmit(std::move(request))) return;
  resumable_->Drop(refusal.request, refusal.attempt);
  refusal.code = RefusalCode::kResourceExhausted;
  refusal.message = absl::StrCat("the pipeline's queue is full (max_queued_requests ", engine->max_queued_requests(), ")");
  refusal.retry_after_ms = 1000;
  refuse();
}

// Whoever goes on with the stream must know whose tokens these are.
void Coordinator::Label(PipelineId pipeline, ResumeTable::Label& label) const {
  MutexLock lock(&snapshot_mutex_);
  const auto found = std::ranges::find(latest_.pipelines, pipeline, &PipelineSnapshot::pipeline);
  if (found == latest_.pipelines.end()) return;
  label.model_digest = found->model_digest;
  label.numerics = found->numerics;
}

std::vector<ResumeTable::Part> Coordinator::TakeOver(const std::string& tenant, const std::string& resume_id) {
  std::vector<ResumeTable::Part> parts = resumable_->Find(tenant, resume_id, NowNs());
  for (const ResumeTable::Part& part : parts) {
    const auto engine = part.attached ? FindEngine(part.pipeline) : nullptr;
    if (engine != nullptr) engine->Abort(part.request, std::string(kTakenOverError));
  }
  return parts;
}

void Coordinator::Cancel(RequestId request, uint32_t attempt) {
  resumable_->Detach(request, attempt, NowNs());
  for (const auto& engine : Engines()) engine->Cancel(request, attempt);
}

void Coordinator::StopChoice(RequestId request, int choice, int count) {
  for (const auto& engine : Engines()) engine->StopChoice(request, choice, count);
}

void Coordinator::Apply(DeploymentSpec spec, ModelFacts model, Done done) {
  const bool posted = Post([this, spec = std::move(spec), model = std::move(model), done] {
    if (const absl::Status leads = CheckLeads(); !leads.ok()) return done(leads);
    const absl::StatusOr<int> needed = WorkersNeeded(*model.sizes, PlacementRequestOf(spec));
    if (!needed.ok()) return done(needed.status());
    const absl::Status stored = store_->PutDeployment(spec);
    if (!stored.ok()) return done(stored);
    Tell("deployment", absl::StrCat(spec.name, " was applied, replicas ", spec.replicas));
    drain_deadlines_.erase(spec.name);
    unrestored_.erase(spec.name);
    state_.Apply(spec, model, NowNs());
    Act();
    done(absl::OkStatus());
  });
  if (!posted) done(absl::UnavailableError("the coordinator is shutting down or overloaded"));
}

// What is not in the store has not happened: a leader that was deposed, or cannot reach the store, changes nothing.
absl::Status Coordinator::StoreReplicas(const std::string& name, int replicas) {
  PAGODA_RETURN_IF_ERROR(CheckLeads());
  if (const auto waiting = unrestored_.find(name); waiting != unrestored_.end()) return absl::UnavailableError(waiting->second.message);
  const auto found = state_.deployments().find(name);
  if (found == state_.deployments().end()) return absl::OkStatus();  // the state says so
  DeploymentSpec spec = found->second.spec;
  spec.replicas = replicas;
  PAGODA_ASSIGN_OR_RETURN(spec, Settle(std::move(spec)));
  return store_->PutDeployment(spec);
}

void Coordinator::Scale(std::string name, int replicas, Done done) {
  const bool posted = Post([this, name = std::move(name), replicas, done] {
    absl::Status status = StoreReplicas(name, replicas);
    if (status.ok()) status = state_.Scale(name, replicas, NowNs());
    if (status.ok()) Tell("deployment", absl::StrCat(name, " is scaled to ", replicas, " replicas"));
    done(status);
  });
  if (!posted) done(absl::UnavailableError("the coordinator is shutting down or overloaded"));
}

void Coordinator::Drain(std::string name, int timeout_ms, Done done) {
  const bool posted = Post([this, name = std::move(name), timeout_ms, done] {
    absl::Status status = StoreReplicas(name, 0);
    if (status.ok()) status = state_.Drain(name, NowNs());
    if (status.ok()) Tell("deployment", absl::StrCat(name, " is being drained"));
    if (status.ok() && timeout_ms > 0) drain_deadlines_[name] = NowNs() + timeout_ms * kNsPerMs;
    done(status);
  });
  if (!posted) done(absl::UnavailableError("the coordinator is shutting down or overloaded"));
}

void Coordinator::Delete(std::string name, Done done) {
  const bool posted = Post([this, name = std::move(name), done] {
    absl::Status status = CheckLeads();
    const bool known = state_.deployments().contains(name);
    if (status.ok() && (known || unrestored_.contains(name))) status = store_->DeleteDeployment(name);
    const bool waited = status.ok() && unrestored_.erase(name) > 0;
    if (waited && !known) {
      state_.ForgetRestored(name);
    } else if (status.ok()) {
      status = state_.Delete(name, NowNs());
    }
    if (status.ok()) Tell("deployment", absl::StrCat(name, " was deleted"));
    done(status);
  });
  if (!posted) done(absl::UnavailableError("the coordinator is shutting down or overloaded"));
}

}  // namespace pagoda::coordinator
