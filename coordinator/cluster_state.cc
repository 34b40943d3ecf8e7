#include "coordinator/cluster_state.h"

#include <algorithm>
#include <utility>

namespace pagoda::coordinator {

void ClusterState::Restore(uint64_t last_epoch, uint64_t last_pipeline,
                           const std::vector<std::pair<PipelineId, std::string>>& pipelines) {
  next_epoch_ = last_epoch + 1;
  next_pipeline_ = last_pipeline + 1;
  restored_ = pipelines;
  for (const auto& [id, deployment] : pipelines) next_pipeline_ = std::max(next_pipeline_, id.value() + 1);
}

const WorkerRecord* ClusterState::FindWorker(WorkerId id) const {
  const auto found = workers_.find(id);
  return found == workers_.end() ? nullptr : &found->second;
}

WorkerId ClusterState::Join(WorkerInfo info, int64_t now_ns) {
  uint64_t order = next_join_++;
  std::vector<WorkerId> earlier;
  for (const auto& [id, worker] : workers_) {
    if (worker.info.name == info.name) earlier.push_back(id);
  }
  for (const WorkerId id : earlier) {
    if (workers_.at(id).phase != WorkerPhase::kLost) {
      Do(CloseWorker{id, "a worker of the same name joined"});
      Gone(id, "it restarted", now_ns);
    }
    workers_.erase(id);
  }
  WorkerRecord record;
  record.id = WorkerId(next_worker_++);
  record.info = std::move(info);
  record.heard_ns = now_ns;
  record.joined_order = order;
  const WorkerId id = record.id;
  workers_.emplace(id, std::move(record));
  // What failed may work with this one: no pipeline waits out its pause.
  for (auto& [pipeline_id, pipeline] : pipelines_) pipeline.not_before_ns = std::min(pipeline.not_before_ns, now_ns);
  Reconcile(now_ns);
  return id;
}

void ClusterState::Gone(WorkerId id, const std::string& why, int64_t now_ns) {
  const auto found = workers_.find(id);
  if (found == workers_.end() || found->second.phase == WorkerPhase::kLost) return;
  WorkerRecord& worker = found->second;
  const PipelineId pipeline_id = worker.pipeline;
  const int stage = worker.stage;
  const int rank = worker.rank;
  worker.phase = WorkerPhase::kLost;
  worker.pipeline = PipelineId();
  worker.shard.clear();
  const auto pipeline = pipelines_.find(pipeline_id);
  if (pipeline != pipelines_.end()) {
    Disband(pipeline->second, absl::StrCat("stage ", stage, " rank ", rank, " (", worker.info.name, ") is lost: ", why),
            true, now_ns);
    // Nothing was wrong with the layout: try again at once, with whoever is there.
    pipeline->second.not_before_ns = now_ns;
  }
  Reconcile(now_ns);
}

void ClusterState::Heartbeat(WorkerId id, const WorkerProgress& progress, int64_t now_ns) {
  const auto found = workers_.find(id);
  if (found == workers_.end() || found->second.phase == WorkerPhase::kLost) return;
  WorkerRecord& worker = found->second;
  const double seconds = static_cast<double>(now_ns - worker.heard_ns) / 1e9;
  const int64_t sent = progress.epoch == worker.progress.epoch ? progress.bytes_sent - worker.progress.bytes_sent : 0;
  worker.sent_bytes_per_s = seconds > 0 && sent > 0 ? static_cast<double>(sent) / seconds : 0;
  worker.heard_ns = now_ns;
  if (progress.epoch == worker.progress.epoch && progress.steps > worker.progress.steps) {
    const double steps = static_cast<double>(progress.steps - worker.progress.steps);
    const double wait = static_cast<double>(progress.wait_in_us - worker.progress.wait_in_us);
    const double compute = static_cast<double>(progress.compute_us - worker.progress.compute_us);
    worker.wait_ms = wait / steps / 1000;
    worker.step_ms = (wait + compute) / steps / 1000;
  }
  worker.progress = progress;
}

void ClusterState::Loaded(WorkerId id, Epoch epoch, LoadPhase phase, double progress, int64_t weights_bytes,
                          int64_t kv_bytes, int64_t now_ns) {
  const auto found = workers_.find(id);
  if (found == workers_.end() || found->second.epoch != epoch) return;
  WorkerRecord& worker = found->second;
  worker.heard_ns = now_ns;
  worker.load_progress = progress;
  if (weights_bytes > 0) worker.weights_bytes = weights_bytes;
  if (kv_bytes > 0) worker.kv_bytes = kv_bytes;
  const auto pipeline = pipelines_.find(worker.pipeline);
  if (pipeline == pipelines_.end()) return;
  if (phase == LoadPhase::kLoaded && worker.phase == WorkerPhase::kLoading) {
    worker.phase = WorkerPhase::kLoaded;
    worker.load_progress = 1;
  } else if (phase == LoadPhase::kLinked && worker.phase == WorkerPhase::kLoaded) {
    worker.phase = WorkerPhase::kReady;
  }
  Advance(pipeline->second, now_ns);
}

void ClusterState::Left(WorkerId id, Epoch epoch, int64_t now_ns) {
  const auto found = workers_.find(id);
  if (found == workers_.end() || found->second.epoch != epoch) return;
  if (found->second.phase == WorkerPhase::kReleasing) found->second.phase = WorkerPhase::kIdle;
  Reconcile(now_ns);
}

void ClusterState::EpochFailed(PipelineId id, Epoch epoch, const std::string& why, int64_t now_ns) {
  const auto found = pipelines_.find(id);
  if (found == pipelines_.end() || found->second.epoch != epoch || found->second.workers.empty()) return;
  Disband(found->second, why, true, now_ns);
  Reconcile(now_ns);
}

void ClusterState::Apply(DeploymentSpec spec, ModelFacts model, int64_t now_ns) {
  const std::string name = spec.name;
  const auto found = deployments_.find(name);
  if (found == deployments_.end()) {
    deployments_[name] = DeploymentRecord{std::move(spec), std::move(model), false, ""};
  } else {
    DeploymentRecord& deployment = found->second;
    DeploymentSpec scaled = deployment.spec;
    scaled.replicas = spec.replicas;
    const bool same_shape = scaled == spec && deployment.model.digest == model.digest;
    deployment.spec = std::move(spec);
    deployment.model = std::move(model);
    deployment.draining = false;
    deployment.message.clear();
    if (!same_shape) {
      // What runs finishes where it is; new pipelines take its place.
      for (auto& [id, pipeline] : pipelines_) {
        if (pipeline.deployment != name || pipeline.draining) continue;
        pipeline.draining = true;
        if (pipeline.phase == PipelinePhase::kReady) pipeline.phase = PipelinePhase::kDraining;
        Do(StopPipeline{id, true});
      }
    }
  }
  Reconcile(now_ns);
}

absl::Status ClusterState::Scale(const std::string& name, int replicas, int64_t now_ns) {
  const auto found = deployments_.find(name);
  if (found == deployments_.end()) return absl::NotFoundError(absl::StrCat("there is no deployment '", name, "'"));
  DeploymentSpec spec = found->second.spec;
  spec.replicas = replicas;
  PAGODA_ASSIGN_OR_RETURN(found->second.spec, Settle(std::move(spec)));
  if (replicas > 0) found->second.draining = false;
  Reconcile(now_ns);
  return absl::OkStatus();
}

absl::Status ClusterState::Drain(const std::string& name, int64_t now_ns) {
  const auto found = deployments_.find(name);
  if (found == deployments_.end()) return absl::NotFoundError(absl::StrCat("there is no deployment '", name, "'"));
  found->second.spec.replicas = 0;
  found->second.draining = true;
  Reconcile(now_ns);
  return absl::OkStatus();
}

absl::Status ClusterState::Delete(const std::string& name, int64_t now_ns) {
  if (deployments_.erase(name) == 0) return absl::NotFoundError(absl::StrCat("there is no deployment '", name, "'"));
  std::vector<PipelineId> gone;
  for (const auto& [id, pipeline] : pipelines_) {
    if (pipeline.deployment == name) gone.push_back(id);
  }
  for (const PipelineId id : gone) {
    Do(StopPipeline{id, false});
    Remove(id, now_ns);
  }
  Reconcile(now_ns);
  return absl::OkStatus();
}

void ClusterState::Drained(PipelineId id, int64_t now_ns) {
  const auto found = pipelines_.find(id);
  if (found == pipelines_.end() || !found->second.draining) return;
  Do(StopPipeline{id, false});
  Remove(id, now_ns);
  Reconcile(now_ns);
}

void ClusterState::Remove(PipelineId id, int64_t now_ns) {
  const auto found = pipelines_.find(id);
  if (found == pipelines_.end()) return;
  Disband(found->second, "the pipeline is removed", false, now_ns);
  Do(ForgetPipeline{id});
  pipelines_.erase(found);
}

void ClusterState::Tick(int64_t now_ns) {
  std::vector<std::pair<WorkerId, std::string>> late;
  for (const auto& [id, worker] : workers_) {
    if (worker.phase == WorkerPhase::kLost) continue;
    if (now_ns - worker.heard_ns > limits_.lease_ns) {
      late.emplace_back(id, absl::StrCat("nothing was heard of it for ", limits_.lease_ns / 1'000'000, " ms"));
    } else if (worker.phase == WorkerPhase::kReleasing && now_ns - worker.releasing_since_ns > limits_.release_deadline_ns) {
      late.emplace_back(id, absl::StrCat("it did not release epoch ", worker.epoch.value(), " within ",
                                         limits_.release_deadline_ns / 1'000'000, " ms"));
    }
  }
  for (const auto& [id, why] : late) {
    Do(CloseWorker{id, why});
    Gone(id, why, now_ns);
  }
  std::vector<std::pair<PipelineId, Epoch>> stuck;
  for (const auto& [id, pipeline] : pipelines_) {
    const bool assembling = pipeline.phase == PipelinePhase::kLoading || pipeline.phase == PipelinePhase::kLinking;
    if (assembling && now_ns - pipeline.assembling_since_ns > limits_.assembly_deadline_ns) {
      stuck.emplace_back(id, pipeline.epoch);
    }
  }
  for (const auto& [id, epoch] : stuck) EpochFailed(id, epoch, "the workers did not become ready in time", now_ns);
  Reconcile(now_ns);
}

void ClusterState::Do(Action action) { actions_.push_back(std::move(action)); }
std::vector<Action> ClusterState::TakeActions() { return std::exchange(actions_, {}); }

}  // namespace pagoda::coordinator
