// Deployments: what is wanted, and how one spec takes the place of another. What runs by the old one serves on until as many
// pipelines of the new one are ready; where they would have no workers, as few as give them enough are drained before that. What
// drains finishes its streams, also over losses and over a change of coordinators.
#include <algorithm>
#include <functional>
#include <set>
#include <utility>

#include "coordinator/cluster_state.h"

namespace pagoda::coordinator {

void ClusterState::Apply(DeploymentSpec spec, ModelFacts model, int64_t now_ns) {
  const std::string name = spec.name;
  const auto found = deployments_.find(name);
  if (found == deployments_.end()) {
    DeploymentRecord& deployment = deployments_[name];
    deployment.spec = std::move(spec);
    deployment.model = std::move(model);
    TakeUpRestored(deployment, now_ns);
    return Reconcile(now_ns);
  }
  DeploymentRecord& deployment = found->second;
  const bool same_pipelines = MakeTheSamePipelines(deployment.spec, spec) && deployment.model.digest == model.digest;
  const bool same_queue = deployment.spec.max_queued_requests == spec.max_queued_requests;
  const auto before = std::make_shared<const DeploymentRecord>(deployment);
  deployment.spec = std::move(spec);
  deployment.model = std::move(model);
  deployment.draining = false;
  deployment.message.clear();
  for (auto& [id, pipeline] : pipelines_) {
    if (pipeline.deployment != name) continue;
    if (!same_pipelines && pipeline.made_by == nullptr) pipeline.made_by = before;
    // Applied again as it was before: what drains goes on draining, since its engine has let go of what waits for others.
    const bool made_so = pipeline.made_by != nullptr && !pipeline.draining && pipeline.made_by->model.digest == deployment.model.digest &&
                         MakeTheSamePipelines(pipeline.made_by->spec, deployment.spec);
    if (made_so) pipeline.made_by = nullptr;
    if (!same_queue) Do(LimitQueue{id, deployment.spec.max_queued_requests});
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
    Do(StopPipeline{id, StopHow::kDeleted});
    Remove(id, now_ns);
  }
  ForgetRestored(name);
  Reconcile(now_ns);
  return absl::OkStatus();
}

void ClusterState::StreamsMayReturn(int64_t now_ns) {
  for (auto& [id, pipeline] : pipelines_) {
    if (pipeline.draining) pipeline.streams_return_until_ns = std::max(pipeline.streams_return_until_ns, now_ns + limits_.streams_return_ns);
  }
}

void ClusterState::Drained(PipelineId id, int64_t now_ns) {
  const auto found = pipelines_.find(id);
  if (found != pipelines_.end() && now_ns >= found->second.streams_return_until_ns) EndDrain(id, StopHow::kDrained, now_ns);
}

void ClusterState::EndDrain(PipelineId id, StopHow how, int64_t now_ns) {
  const auto found = pipelines_.find(id);
  if (found == pipelines_.end() || !found->second.draining) return;
  Do(StopPipeline{id, how});
  Remove(id, now_ns);
  Reconcile(now_ns);
}

void ClusterState::Reconcile(int64_t now_ns) {
  for (auto& [name, deployment] : deployments_) MatchReplicas(deployment);
  // Idle workers go first to whom room was made for, once that has drained; then to what served and takes new work, then to what drains,
  // then to what is new.
  const auto drains_still = [this](const std::string& deployment) {
    return std::ranges::any_of(pipelines_, [&](const auto& entry) { return entry.second.draining && entry.second.deployment == deployment; });
  };
  const auto turn = [&](const PipelineRecord& pipeline) {
    if (pipeline.room_was_made && pipeline.made_by == nullptr && !drains_still(pipeline.deployment)) return 0;
    const bool was_ready = !pipeline.numerics_profile.empty() || !pipeline.shard_digests.empty();
    if (!was_ready) return 3;
    return pipeline.draining ? 2 : 1;
  };
  std::vector<PipelineRecord*> pending;
  for (auto& [id, pipeline] : pipelines_) {
    if (pipeline.phase == PipelinePhase::kPending) pending.push_back(&pipeline);
  }
  std::ranges::stable_sort(pending, std::less<>(), [&](const PipelineRecord* pipeline) { return turn(*pipeline); });
  reserved_ = 0;
  for (PipelineRecord* pipeline : pending) TryAssemble(*pipeline, now_ns);
  for (auto& [name, deployment] : deployments_) MakeRoom(deployment);
}

// What the store knows of a deployment that was not known here: its pipelines, as its spec or the one before wants them.
void ClusterState::TakeUpRestored(DeploymentRecord& deployment, int64_t now_ns) {
  int wanted = deployment.spec.replicas;
  std::set<PipelineId> forgotten;
  for (RestoredPipeline& kept : restored_) {
    if (kept.deployment != deployment.spec.name) continue;
    const bool was_ready = !kept.placement.ranks.empty();
    const bool as_wanted = !kept.spec || (MakeTheSamePipelines(*kept.spec, deployment.spec) && kept.model_digest == deployment.model.digest);
    const bool active = as_wanted && !kept.draining && wanted > 0;
    wanted -= active;
    if (!as_wanted && was_ready && kept.sizes == nullptr) continue;  // its model may still be found (FoundFormerModel)
    if (!active && !was_ready) {
      Do(ForgetPipeline{kept.id});
      forgotten.insert(kept.id);
      continue;
    }
    PipelineRecord pipeline;
    pipeline.id = kept.id;
    pipeline.deployment = kept.deployment;
    if (!as_wanted) {
      DeploymentRecord made_by;
      made_by.spec = *kept.spec;
      made_by.model = {.digest = kept.model_digest, .sizes = kept.sizes};
      pipeline.made_by = std::make_shared<const DeploymentRecord>(std::move(made_by));
    }
    pipeline.draining = kept.draining || (as_wanted && !active);
    if (was_ready) {
      pipeline.placement = std::move(kept.placement);
      pipeline.shard_digests = std::move(kept.shard_digests);
      pipeline.numerics_profile = std::move(kept.numerics_profile);
      pipeline.served = true;
      pipeline.wait_for_holders_until_ns = now_ns + limits_.holders_return_ns;
      pipeline.streams_return_until_ns = now_ns + limits_.assembled_again_ns;  // should it drain by then
    }
    Add(std::move(pipeline));
  }
  std::erase_if(restored_, [&](const RestoredPipeline& kept) { return pipelines_.contains(kept.id) || forgotten.contains(kept.id); });
  // Who joined before this was known.
  for (auto& [id, worker] : workers_) {
    if (worker.phase == WorkerPhase::kIdle && worker.shard.empty()) RecognizeShard(worker);
  }
}

void ClusterState::ForgetRestored(const std::string& deployment) {
  std::erase_if(restored_, [&](const RestoredPipeline& kept) {
    if (kept.deployment == deployment) Do(ForgetPipeline{kept.id});
    return kept.deployment == deployment;
  });
}

void ClusterState::FoundFormerModel(PipelineId id, std::shared_ptr<const ModelSizes> sizes, int64_t now_ns) {
  const auto kept = std::ranges::find(restored_, id, &RestoredPipeline::id);
  if (kept == restored_.end()) return;
  if (sizes == nullptr) {
    Do(ForgetPipeline{id});
    restored_.erase(kept);
    return;
  }
  kept->sizes = std::move(sizes);
  if (const auto deployment = deployments_.find(kept->deployment); deployment != deployments_.end()) {
    TakeUpRestored(deployment->second, now_ns);
    Reconcile(now_ns);
  }
}

void ClusterState::Add(PipelineRecord pipeline) {
  const PipelineId id = pipeline.id;
  const bool draining = pipeline.draining;
  pipeline.message = "not placed yet";
  const PipelineRecord& added = pipelines_.emplace(id, std::move(pipeline)).first->second;
  if (added.placement.ranks.empty()) Do(SavePipeline{Stored(added, DeploymentOf(added))});
  Do(CreatePipeline{id, added.deployment});
  if (draining) Do(StopPipeline{id, StopHow::kDrain});
}

void ClusterState::StartDraining(PipelineRecord& pipeline) {
  pipeline.draining = true;
  if (pipeline.phase == PipelinePhase::kReady) pipeline.phase = PipelinePhase::kDraining;
  Do(SavePipeline{Stored(pipeline, DeploymentOf(pipeline))});
  Do(StopPipeline{pipeline.id, StopHow::kDrain});
}

// Those of a deployment that do not drain; who should go first stands last: what waits, then what loads, then what makes shift, then
// the newest.
std::vector<PipelineId> ClusterState::ActiveOf(const DeploymentRecord& deployment, bool of_a_former_spec) const {
  std::vector<PipelineId> active;
  for (const auto& [id, pipeline] : pipelines_) {
    const bool former = pipeline.made_by != nullptr;
    if (pipeline.deployment == deployment.spec.name && !pipeline.draining && former == of_a_former_spec) active.push_back(id);
  }
  std::ranges::stable_sort(active, std::greater<>(), [&](PipelineId id) {
    const PipelineRecord& pipeline = pipelines_.at(id);
    if (pipeline.phase == PipelinePhase::kPending) return 0;
    if (pipeline.phase != PipelinePhase::kReady) return 1;
    return pipeline.makeshift.empty() ? 3 : 2;
  });
  return active;
}

void ClusterState::MatchReplicas(const DeploymentRecord& deployment) {
  const bool served = std::ranges::any_of(pipelines_, [&](const auto& entry) {
    return entry.second.deployment == deployment.spec.name && entry.second.served;
  });
  std::vector<PipelineId> current = ActiveOf(deployment, /*of_a_former_spec=*/false);
  for (int missing = deployment.spec.replicas - static_cast<int>(current.size()); missing > 0; --missing) {
    PipelineRecord pipeline;
    pipeline.id = PipelineId(next_pipeline_++);
    pipeline.deployment = deployment.spec.name;
    pipeline.served = served;  // whoever comes is there by now
    Add(std::move(pipeline));
  }
  for (; static_cast<int>(current.size()) > deployment.spec.replicas; current.pop_back()) StartDraining(pipelines_.at(current.back()));
  const auto ready = std::ranges::count_if(current, [&](PipelineId id) { return pipelines_.at(id).phase == PipelinePhase::kReady; });
  std::vector<PipelineId> former = ActiveOf(deployment, /*of_a_former_spec=*/true);
  for (; std::ssize(former) > deployment.spec.replicas - ready; former.pop_back()) StartDraining(pipelines_.at(former.back()));
}

// A pipeline of the new spec finds too few workers: those of former ones are let go, as few as are enough for it. Where all of them
// would not be, they serve on.
void ClusterState::MakeRoom(const DeploymentRecord& deployment) {
  const std::vector<PipelineId> current = ActiveOf(deployment, /*of_a_former_spec=*/false);
  std::vector<PipelineId> former = ActiveOf(deployment, /*of_a_former_spec=*/true);
  const auto starved = std::ranges::find_if(current, [&](PipelineId id) { return pipelines_.at(id).starved; });
  if (former.empty() || starved == current.end()) return;
  // One after the other: the next one when this one serves, and none for what does not get ready.
  const bool one_is_coming = std::ranges::any_of(current, [&](PipelineId id) {
    const PipelineRecord& pipeline = pipelines_.at(id);
    const bool loads = pipeline.phase == PipelinePhase::kLoading || pipeline.phase == PipelinePhase::kLinking;
    return loads || (pipeline.phase == PipelinePhase::kPending && pipeline.failures > 0 && !pipeline.starved);
  });
  if (one_is_coming) return;
  // Workers are on their way already.
  const bool more_will_come = std::ranges::any_of(workers_, [&](const auto& entry) {
    const auto pipeline = pipelines_.find(entry.second.pipeline);
    const bool drains = pipeline != pipelines_.end() && pipeline->second.deployment == deployment.spec.name && pipeline->second.draining;
    return entry.second.phase == WorkerPhase::kReleasing || drains;
  });
  if (more_will_come) return;
  std::vector<WorkerId> free;
  const auto build = [&](WorkerId id) { return workers_.at(id).info; };
  for (const PipelineId first : former) {
    if (pipelines_.at(first).workers.empty()) continue;
    const WorkerInfo like = build(pipelines_.at(first).workers.front());
    free.clear();
    for (const auto& [id, worker] : workers_) {
      if (worker.phase == WorkerPhase::kIdle && SameBuild(worker.info, like)) free.push_back(id);
    }
    std::vector<PipelineId> let_go;
    for (auto next = former.rbegin(); next != former.rend(); ++next) {
      const std::vector<WorkerId>& workers = pipelines_.at(*next).workers;
      if (workers.empty() || !SameBuild(build(workers.front()), like)) continue;
      let_go.push_back(*next);
      free.insert(free.end(), workers.begin(), workers.end());
      if (!WouldFit(deployment, free)) continue;
      for (const PipelineId id : let_go) StartDraining(pipelines_.at(id));
      pipelines_.at(*starved).room_was_made = true;
      return;
    }
  }
}

}  // namespace pagoda::coordinator
