#include "coordinator/cluster_state.h"

#include <algorithm>
#include <utility>

namespace pagoda::coordinator {
namespace {

constexpr int64_t kLeftShownNs = 60'000'000'000;  // a restart is over by then, and keeps its turn
constexpr int64_t kLostShownNs = 3600 * int64_t{1'000'000'000};
constexpr int64_t kBlameNs = 60'000'000'000;
constexpr int64_t kFlapsForgottenNs = 60'000'000'000;

}  // namespace

void ClusterState::Restore(uint64_t last_epoch, uint64_t last_pipeline, std::vector<RestoredPipeline> pipelines) {
  next_epoch_ = last_epoch + 1;
  next_pipeline_ = last_pipeline + 1;
  restored_ = std::move(pipelines);
  for (const RestoredPipeline& pipeline : restored_) next_pipeline_ = std::max(next_pipeline_, pipeline.id.value() + 1);
}

void ClusterState::CountFlap(const std::string& name, int64_t now_ns) {
  Flaps& flaps = flaps_[name];
  flaps.count = FlapsOf(name, now_ns) + 1;
  flaps.last_ns = now_ns;
  std::erase_if(flaps_, [&](const auto& entry) { return now_ns - entry.second.last_ns > kFlapsForgottenNs; });
}

int ClusterState::FlapsOf(const std::string& name, int64_t now_ns) const {
  const auto found = flaps_.find(name);
  return found == flaps_.end() || now_ns - found->second.last_ns > kFlapsForgottenNs ? 0 : found->second.count;
}

bool ClusterState::ComesAndGoes(const WorkerRecord& worker, int64_t now_ns) const {
  constexpr int kOften = 3;
  return FlapsOf(worker.info.name, now_ns) >= kOften;
}

// It has a shard in memory that a pipeline knows: by digest, since names of places are this coordinator's own.
void ClusterState::RecognizeShard(WorkerRecord& worker) {
  if (worker.info.held_shard.empty()) return;
  worker.shard_digest = worker.info.held_shard;
  for (const auto& [id, pipeline] : pipelines_) {
    const auto deployment = deployments_.find(pipeline.deployment);
    if (deployment == deployments_.end() || pipeline.shard_digests.size() != pipeline.placement.ranks.size()) continue;
    for (size_t place = 0; place < pipeline.shard_digests.size(); ++place) {
      if (pipeline.shard_digests[place] != worker.info.held_shard) continue;
      const RankPlacement& rank = pipeline.placement.ranks[place];
      worker.shard = ShardName(pipeline, DeploymentOf(pipeline), rank.stage, rank.rank);
      return;
    }
  }
}

const DeploymentRecord& ClusterState::DeploymentOf(const PipelineRecord& pipeline) const {
  return pipeline.made_by != nullptr ? *pipeline.made_by : deployments_.at(pipeline.deployment);
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
  RecognizeShard(record);
  const WorkerId id = record.id;
  workers_.emplace(id, std::move(record));
  // What failed may work with this one: no pipeline waits out its pause.
  for (auto& [pipeline_id, pipeline] : pipelines_) pipeline.not_before_ns = std::min(pipeline.not_before_ns, now_ns);
  Reconcile(now_ns);
  return id;
}

void ClusterState::Gone(WorkerId id, const std::string& why, int64_t now_ns, bool planned) {
  const auto found = workers_.find(id);
  if (found == workers_.end() || found->second.phase == WorkerPhase::kLost) return;
  WorkerRecord& worker = found->second;
  const PipelineId pipeline_id = worker.pipeline;
  const int stage = worker.stage;
  const int rank = worker.rank;
  worker.phase = WorkerPhase::kLost;
  worker.forget_at_ns = now_ns + (planned ? kLeftShownNs : kLostShownNs);
  worker.pipeline = PipelineId();
  worker.shard.clear();
  worker.held.reset();
  if (!planned) CountFlap(worker.info.name, now_ns);
  const auto pipeline = pipelines_.find(pipeline_id);
  if (pipeline != pipelines_.end()) {
    Disband(pipeline->second, absl::StrCat("stage ", stage, " rank ", rank, " (", worker.info.name, ") is lost: ", why),
            true, now_ns, planned);
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
  worker.probed_ns = 0;
  worker.wedged.clear();
  if (progress.epoch == worker.progress.epoch && progress.steps > worker.progress.steps) {
    const double steps = static_cast<double>(progress.steps - worker.progress.steps);
    const double wait = static_cast<double>(progress.wait_in_us - worker.progress.wait_in_us);
    const double compute = static_cast<double>(progress.compute_us - worker.progress.compute_us);
    worker.wait_ms = wait / steps / 1000;
    worker.step_ms = (wait + compute) / steps / 1000;
  }
  worker.progress = progress;
  LearnTimes(worker);
}

// Ranks of a group have a part of each layer: their times say little about whole ones.
void ClusterState::LearnTimes(const WorkerRecord& worker) {
  constexpr int64_t kRowsToBelieve = 2000;
  const auto pipeline = pipelines_.find(worker.pipeline);
  const WorkerProgress& progress = worker.progress;
  if (progress.decode_rows < kRowsToBelieve || pipeline == pipelines_.end() || Epoch(progress.epoch) != worker.epoch) return;
  const auto deployment = deployments_.find(pipeline->second.deployment);
  const std::vector<StagePlacement>& stages = pipeline->second.placement.stages;
  if (deployment == deployments_.end() || worker.stage >= static_cast<int>(stages.size())) return;
  if (pipeline->second.made_by != nullptr) return;  // of what the deployment was before
  const StagePlacement& stage = stages[static_cast<size_t>(worker.stage)];
  if (stage.tensor_parallel != 1) return;
  const double rows = static_cast<double>(progress.decode_rows);
  MeasuredTimes& measured = deployment->second.measured;
  measured.layer_ns = static_cast<double>(progress.layers_us) * 1000 / rows / (stage.layer_end - stage.layer_begin);
  if (worker.stage + 1 == static_cast<int>(stages.size())) measured.head_ns = static_cast<double>(progress.head_us) * 1000 / rows;
}

void ClusterState::Loaded(WorkerId id, Epoch epoch, LoadPhase phase, const LoadDetails& details, int64_t now_ns) {
  const auto found = workers_.find(id);
  if (found == workers_.end() || found->second.epoch != epoch) return;
  WorkerRecord& worker = found->second;
  worker.heard_ns = now_ns;
  worker.probed_ns = 0;
  worker.wedged.clear();
  worker.load_progress = details.progress;
  if (details.weights_bytes > 0) worker.weights_bytes = details.weights_bytes;
  if (details.kv_bytes > 0) worker.kv_bytes = details.kv_bytes;
  if (!details.shard_digest.empty()) worker.shard_digest = details.shard_digest;
  const auto pipeline = pipelines_.find(worker.pipeline);
  if (pipeline == pipelines_.end()) return;
  if (phase == LoadPhase::kLoaded && worker.phase == WorkerPhase::kLoading) {
    worker.phase = WorkerPhase::kLoaded;
    worker.load_progress = 1;
    worker.held = details.held;
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

void ClusterState::Remove(PipelineId id, int64_t now_ns) {
  const auto found = pipelines_.find(id);
  if (found == pipelines_.end()) return;
  Disband(found->second, "the pipeline is removed", false, now_ns, /*planned=*/true);
  Do(ForgetPipeline{id});
  pipelines_.erase(found);
}

std::vector<RankView> ClusterState::RanksOf(const PipelineRecord& pipeline, int64_t now_ns) const {
  std::vector<RankView> ranks;
  for (const WorkerId id : pipeline.workers) {
    const WorkerRecord* worker = FindWorker(id);
    if (worker == nullptr) continue;
    const WorkerProgress& progress = worker->progress;
    const int64_t silent_ns = now_ns - worker->heard_ns;
    ranks.push_back({.stage = worker->stage,
                     .rank = worker->rank,
                     .worker = worker->info.name,
                     .silent_ms = silent_ns / 1'000'000,
                     .step = progress.current_step,
                     .last_step = progress.last_step,
                     .operation = progress.operation,
                     .waiting_for = progress.waiting_for,
                     .waiting_ms = progress.waiting_for.empty() ? 0 : progress.waiting_us / 1000 + silent_ns / 1'000'000});
  }
  return ranks;
}

void ClusterState::LookIntoSilence(int64_t now_ns) {
  std::vector<std::pair<WorkerId, std::string>> wedged;
  for (const auto& [id, worker] : workers_) {
    if (worker.wedged.empty() || worker.phase == WorkerPhase::kLost) continue;
    if (now_ns - worker.probed_ns >= limits_.wedged_grace_ns) wedged.emplace_back(id, worker.wedged);
  }
  for (const auto& [id, why] : wedged) {
    Do(CloseWorker{id, why});
    Gone(id, why, now_ns);
  }
  for (auto& [id, worker] : workers_) {
    if (worker.phase == WorkerPhase::kLost || worker.probed_ns != 0 || worker.info.blob_address.empty()) continue;
    if (now_ns - worker.heard_ns < limits_.suspect_after_ns) continue;
    worker.probed_ns = now_ns;
    Do(ProbeWorker{id, worker.info.blob_address});
  }
}

void ClusterState::Probed(WorkerId id, ProbeResult result, int64_t now_ns) {
  const auto found = workers_.find(id);
  if (found == workers_.end() || found->second.phase == WorkerPhase::kLost || found->second.probed_ns == 0) return;
  WorkerRecord& worker = found->second;
  const auto pipeline = pipelines_.find(worker.pipeline);
  std::vector<RankView> ranks;
  int silent = 0;
  if (pipeline != pipelines_.end()) {
    ranks = RanksOf(pipeline->second, now_ns);
    const auto& all = pipeline->second.workers;
    silent = static_cast<int>(std::find(all.begin(), all.end(), id) - all.begin());
  } else {
    RankView& view = ranks.emplace_back();
    view.worker = worker.info.name;
    view.silent_ms = (now_ns - worker.heard_ns) / 1'000'000;
    view.last_step = worker.progress.last_step;
    view.operation = worker.progress.operation;
  }
  const Diagnosis diagnosis = DiagnoseSilence(ranks, silent, result);
  Do(ReportFault{diagnosis.kind, worker.info.name, worker.pipeline, diagnosis.text});
  // What cannot be reached may come back within its lease; what is there and silent within a moment.
  if (diagnosis.kind == FaultKind::kPartition) return;
  if (diagnosis.kind == FaultKind::kWedge) {
    worker.wedged = diagnosis.text;
    return;
  }
  Do(CloseWorker{id, diagnosis.text});
  Gone(id, diagnosis.text, now_ns);
}

void ClusterState::StepStalled(PipelineId id, Epoch epoch, StepNumber step, const std::string& why, int64_t now_ns) {
  const auto found = pipelines_.find(id);
  if (found == pipelines_.end() || found->second.epoch != epoch || found->second.workers.empty()) return;
  const Diagnosis diagnosis = DiagnoseStall(RanksOf(found->second, now_ns), step.value());
  std::string worker;
  if (diagnosis.culprit >= 0) {
    WorkerRecord& culprit = workers_.at(found->second.workers[static_cast<size_t>(diagnosis.culprit)]);
    worker = culprit.info.name;
    // Of a link that carries nothing nobody knows which end it is.
    if (diagnosis.kind != FaultKind::kPartition) {
      culprit.blamed_until_ns = now_ns + kBlameNs;
      CountFlap(worker, now_ns);
    }
  }
  const std::string text = absl::StrCat(why, ": ", diagnosis.text);
  Do(ReportFault{diagnosis.kind, worker, id, text});
  EpochFailed(id, epoch, text, now_ns);
}

void ClusterState::Tick(int64_t now_ns) {
  // Whoever was stopped is this process: what it did not read in the meantime is not missing.
  if (ticked_ns_ > 0 && now_ns - ticked_ns_ > limits_.pause_ns) {
    for (auto& [id, worker] : workers_) worker.heard_ns = std::min(now_ns, worker.heard_ns + (now_ns - ticked_ns_));
  }
  ticked_ns_ = now_ns;
  // Who left on purpose is missed by nobody; who was lost is, for a while.
  std::erase_if(workers_, [now_ns](const auto& entry) {
    return entry.second.phase == WorkerPhase::kLost && now_ns >= entry.second.forget_at_ns;
  });
  LookIntoSilence(now_ns);
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
  EndMakeshifts(now_ns);
}

void ClusterState::Do(Action action) { actions_.push_back(std::move(action)); }
std::vector<Action> ClusterState::TakeActions() { return std::exchange(actions_, {}); }

}  // namespace pagoda::coordinator
