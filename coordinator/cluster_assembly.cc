// From what is wanted to what is there: replicas, choice of workers, placement, assembly, end of an epoch.
#include "coordinator/cluster_state.h"

#include <algorithm>
#include <functional>
#include <tuple>
#include <utility>

namespace pagoda::coordinator {
namespace {

constexpr int kTriesOfAPlacement = 2;  // that does not come up: then it is made anew

}  // namespace

std::string ClusterState::ShardName(const PipelineRecord& pipeline, const DeploymentRecord& deployment, int stage,
                                    int rank) const {
  const StagePlacement& place = pipeline.placement.stages[static_cast<size_t>(stage)];
  return absl::StrCat(deployment.model.digest, " layers ", place.layer_begin, "-", place.layer_end, " rank ", rank, "/",
                      place.tensor_parallel, " of ", pipeline.placement.stages.size());
}

// The worker has a shard of the pipeline's last assembly in memory.
bool ClusterState::HasPlaceFor(const PipelineRecord& pipeline, const DeploymentRecord& deployment, const WorkerRecord& worker) const {
  return !worker.shard.empty() && std::ranges::any_of(pipeline.placement.ranks, [&](const RankPlacement& rank) {
    return worker.shard == ShardName(pipeline, deployment, rank.stage, rank.rank);
  });
}

// Of the builds with enough idle workers the one that holds most of the pipeline's shards; when none has enough, the one with most of
// them.
std::vector<const WorkerRecord*> ClusterState::IdleOfOneBuild(const PipelineRecord& pipeline, const DeploymentRecord& deployment,
                                                              int needed) const {
  std::vector<std::vector<const WorkerRecord*>> builds;
  for (const auto& [id, worker] : workers_) {
    if (worker.phase != WorkerPhase::kIdle) continue;
    auto build = std::ranges::find_if(builds, [&](const auto& other) { return SameBuild(other.front()->info, worker.info); });
    if (build == builds.end()) build = builds.insert(build, std::vector<const WorkerRecord*>());
    build->push_back(&worker);
  }
  const auto held = [&](const std::vector<const WorkerRecord*>& workers) {
    return std::ranges::count_if(pipeline.placement.ranks, [&](const RankPlacement& rank) {
      const std::string shard = ShardName(pipeline, deployment, rank.stage, rank.rank);
      return std::ranges::any_of(workers, [&](const WorkerRecord* worker) { return worker->shard == shard; });
    });
  };
  const auto worth = [&](const std::vector<const WorkerRecord*>& workers) {
    const bool enough = static_cast<int>(workers.size()) >= needed;
    return std::tuple(enough, enough ? held(workers) : 0, workers.size());
  };
  const auto best = std::ranges::max_element(builds, {}, worth);
  return best == builds.end() ? std::vector<const WorkerRecord*>() : *best;
}

// Those that still have a shard of the last assembly come first, for their own place; then in order of registration.
std::vector<WorkerId> ClusterState::ChooseWorkers(const PipelineRecord& pipeline, const DeploymentRecord& deployment,
                                                  int needed) const {
  std::vector<const WorkerRecord*> idle = IdleOfOneBuild(pipeline, deployment, needed);
  // Where others are enough, one in which a step stalled is left out, whatever it has loaded.
  const auto blamed = [this](const WorkerRecord* worker) { return IsBlamed(*worker, ticked_ns_); };
  const auto sound = std::count_if(idle.begin(), idle.end(), [&](const auto* worker) { return !blamed(worker); });
  if (sound >= needed) std::erase_if(idle, blamed);
  // One that comes and goes is taken last.
  const auto flaps = [this](const WorkerRecord* worker) {
    return ComesAndGoes(*worker, ticked_ns_) ? FlapsOf(worker->info.name, ticked_ns_) : 0;
  };
  // One whose shard another pipeline waits for is left to it, where others are enough.
  const auto awaited = [&](const WorkerRecord* worker) {
    return std::ranges::any_of(pipelines_, [&](const auto& entry) {
      const PipelineRecord& other = entry.second;
      return other.id != pipeline.id && other.phase == PipelinePhase::kPending && HasPlaceFor(other, DeploymentOf(other), *worker);
    });
  };
  std::sort(idle.begin(), idle.end(), [&](const WorkerRecord* a, const WorkerRecord* b) {
    return std::tuple(flaps(a), awaited(a), a->joined_order, a->info.name) < std::tuple(flaps(b), awaited(b), b->joined_order, b->info.name);
  });
  std::vector<WorkerId> places(static_cast<size_t>(needed));
  const auto take = [&](size_t place, std::vector<const WorkerRecord*>::iterator worker) {
    places[place] = (*worker)->id;
    idle.erase(worker);
  };
  if (static_cast<int>(pipeline.placement.ranks.size()) == needed) {
    for (size_t i = 0; i < places.size(); ++i) {
      const RankPlacement& rank = pipeline.placement.ranks[i];
      const std::string shard = ShardName(pipeline, deployment, rank.stage, rank.rank);
      const auto found = std::find_if(idle.begin(), idle.end(), [&](const auto* worker) { return worker->shard == shard; });
      if (found != idle.end()) take(i, found);
    }
  }
  for (size_t i = 0; i < places.size() && !idle.empty(); ++i) {
    if (places[i] == WorkerId()) take(i, idle.begin());
  }
  return places;
}

// The last placement can be used again as it is: whoever takes a place that its worker lost has room for it. Then nobody
// loads anything but the one shard, and the others' KV stays good.
bool ClusterState::KeepsItsPlaces(const PipelineRecord& pipeline, const std::vector<WorkerId>& chosen) const {
  const auto& ranks = pipeline.placement.ranks;
  if (ranks.size() != chosen.size() || pipeline.failures > kTriesOfAPlacement) return false;
  for (size_t i = 0; i < chosen.size(); ++i) {
    const auto worker = workers_.find(chosen[i]);
    if (worker == workers_.end()) return false;
    const WorkerInfo& info = worker->second.info;
    if (info.memory_bytes < ranks[i].weights_bytes + ranks[i].workspace_bytes + ranks[i].kv_bytes) return false;
    if (info.kv_cache_bytes > 0 && info.kv_cache_bytes < ranks[i].kv_bytes) return false;
  }
  return true;
}

// A new coordinator waits a moment for those whose shards are loaded before it gives their places to others.
bool ClusterState::WaitsForHolders(const PipelineRecord& pipeline, const std::vector<WorkerId>& chosen,
                                   const DeploymentRecord& deployment, int64_t now_ns) const {
  if (now_ns >= pipeline.wait_for_holders_until_ns) return false;
  for (size_t i = 0; i < chosen.size() && i < pipeline.placement.ranks.size(); ++i) {
    const RankPlacement& rank = pipeline.placement.ranks[i];
    if (workers_.at(chosen[i]).shard != ShardName(pipeline, deployment, rank.stage, rank.rank)) return true;
  }
  return false;
}

// Workers of one host share its memory, and each measured it while the others did: they count as equal. So do workers
// whose measurements differ by less than measurements of equal machines do; noise must not move layers.
std::vector<WorkerResources> ClusterState::ResourcesOf(const std::vector<WorkerId>& chosen) const {
  std::map<std::string, std::pair<double, int>> by_host;
  bool measured = true;
  for (const WorkerId id : chosen) {
    const WorkerInfo& info = workers_.at(id).info;
    measured = measured && info.memory_bandwidth > 0;
    by_host[info.host].first += info.memory_bandwidth;
    ++by_host[info.host].second;
  }
  double slowest = 0;
  double fastest = 0;
  for (const auto& [host, sum] : by_host) {
    const double mean = sum.first / sum.second;
    slowest = slowest == 0 ? mean : std::min(slowest, mean);
    fastest = std::max(fastest, mean);
  }
  const bool alike = !measured || fastest < 1.5 * slowest;
  std::vector<WorkerResources> resources;
  for (const WorkerId id : chosen) {
    const WorkerInfo& info = workers_.at(id).info;
    const auto& [sum, count] = by_host.at(info.host);
    resources.push_back({.name = info.name,
                         .memory_bytes = info.memory_bytes,
                         .threads = info.threads,
                         .memory_bandwidth = alike ? 0 : sum / count,
                         .compute_rate = info.compute_rate,
                         .kv_cache_bytes = info.kv_cache_bytes});
  }
  return resources;
}

// Those that are still letting go of the last epoch, with a shard of this pipeline, and were not the reason for its end: to wait for
// them costs less than to load their shards elsewhere. It has a deadline (release_deadline_ns).
int ClusterState::ReleasingHoldersOf(const PipelineRecord& pipeline, const DeploymentRecord& deployment) const {
  return static_cast<int>(std::ranges::count_if(workers_, [&](const auto& entry) {
    const WorkerRecord& worker = entry.second;
    return worker.phase == WorkerPhase::kReleasing && !IsBlamed(worker, ticked_ns_) && HasPlaceFor(pipeline, deployment, worker);
  }));
}

void ClusterState::TryAssemble(PipelineRecord& pipeline, int64_t now_ns) {
  pipeline.starved = false;
  if (now_ns < pipeline.not_before_ns) return;
  const auto found = deployments_.find(pipeline.deployment);
  if (found == deployments_.end()) return;
  DeploymentRecord& newest = found->second;
  if (WorthCuttingBy(*newest.model.sizes, newest.measured, newest.cut_by)) newest.cut_by = newest.measured;
  const DeploymentRecord& deployment = DeploymentOf(pipeline);
  PlacementRequest request = PlacementRequestOf(deployment.spec);
  request.measured = deployment.cut_by;
  const absl::StatusOr<int> needed = WorkersNeeded(*deployment.model.sizes, request);
  if (!needed.ok()) {
    pipeline.message = std::string(AsStd(needed.status().message()));
    return;
  }
  const int idle = std::max(0, static_cast<int>(IdleOfOneBuild(pipeline, deployment, *needed).size()) - reserved_);
  // Its own workers are on their way: whoever comes after it leaves it as many as it needs.
  const auto wait_for_its_own = [&] { reserved_ += std::max(0, *needed - ReleasingHoldersOf(pipeline, deployment)); };
  int all_idle = 0;
  int releasing = 0;
  for (const auto& [id, worker] : workers_) {
    all_idle += worker.phase == WorkerPhase::kIdle;
    releasing += worker.phase == WorkerPhase::kReleasing;
  }
  if (idle < *needed) {
    if (now_ns < pipeline.wait_for_holders_until_ns || ReleasingHoldersOf(pipeline, deployment) > 0) wait_for_its_own();
    if (releasing == 0 && AssembleMakeshift(pipeline, deployment, request, *needed, now_ns)) return;
    pipeline.starved = true;
    if (pipeline.failures == 0 || releasing == 0) {
      pipeline.message = absl::StrCat("needs ", *needed, " workers", all_idle > idle ? " of one version and numerics profile" : "", ", ", idle, " of ",
                                      workers_.size(), " are idle", all_idle > idle ? absl::StrCat(" (", all_idle, " of all versions)") : "",
                                      pipeline.message.empty() || pipeline.failures == 0 ? "" : "; ",
                                      pipeline.failures == 0 ? "" : "the last try failed: ",
                                      pipeline.failures == 0 ? "" : pipeline.last_fault);
    }
    return;
  }
  if (ReleasingHoldersOf(pipeline, deployment) > 0) return wait_for_its_own();
  std::vector<WorkerId> chosen = ChooseWorkers(pipeline, deployment, *needed);
  if (WaitsForHolders(pipeline, chosen, deployment, now_ns)) {
    pipeline.message = "waits for the workers that have its shards loaded";
    return wait_for_its_own();
  }
  if (!KeepsItsPlaces(pipeline, chosen)) {
    absl::StatusOr<Placement> placement = PlaceModel(*deployment.model.sizes, ResourcesOf(chosen), request);
    if (!placement.ok()) {  // one that is too small must not stand in the way of others
      const std::vector<WorkerId> largest = LargestIdle(pipeline, deployment, *needed);
      absl::StatusOr<Placement> other = PlaceModel(*deployment.model.sizes, ResourcesOf(largest), request);
      if (other.ok()) {
        chosen = largest;
        placement = std::move(other);
      }
    }
    if (!placement.ok()) {
      pipeline.message = std::string(AsStd(placement.status().message()));
      pipeline.starved = !AssembleMakeshift(pipeline, deployment, request, *needed, now_ns);  // these are others than it ran on
      return;
    }
    pipeline.placement = *std::move(placement);
    pipeline.shard_digests.clear();
  }
  pipeline.short_since_ns = 0;
  pipeline.makeshift.clear();
  pipeline.workers = chosen;
  SendAssignments(pipeline, deployment, now_ns);
}

void ClusterState::SendAssignments(PipelineRecord& pipeline, const DeploymentRecord& deployment, int64_t now_ns) {
  pipeline.epoch = Epoch(next_epoch_++);
  pipeline.phase = PipelinePhase::kLoading;
  pipeline.assembling_since_ns = now_ns;
  pipeline.message = "loading";
  pipeline.kv_format = absl::StrCat(deployment.spec.kv_cache_type, " ", deployment.spec.block_size);
  Do(SaveEpoch{pipeline.epoch});
  std::vector<PlacedStage> stages;
  for (const StagePlacement& stage : pipeline.placement.stages) {
    stages.push_back({stage.layer_begin, stage.layer_end, stage.tensor_parallel});
  }
  std::vector<std::string> peers = limits_.own_blob_addresses;
  for (const auto& [id, worker] : workers_) {
    const bool has_part = worker.shard.rfind(deployment.model.digest, 0) == 0 && worker.phase != WorkerPhase::kLost;
    if (has_part && !worker.info.blob_address.empty()) peers.push_back(worker.info.blob_address);
  }
  for (size_t i = 0; i < pipeline.workers.size(); ++i) {
    const RankPlacement& rank = pipeline.placement.ranks[i];
    WorkerRecord& worker = workers_.at(pipeline.workers[i]);
    worker.phase = WorkerPhase::kLoading;
    worker.pipeline = pipeline.id;
    worker.epoch = pipeline.epoch;
    worker.stage = rank.stage;
    worker.rank = rank.rank;
    worker.load_progress = 0;
    worker.weights_bytes = rank.weights_bytes;
    worker.kv_bytes = rank.kv_bytes;
    worker.shard = ShardName(pipeline, deployment, rank.stage, rank.rank);
    worker.shard_digest.clear();
    worker.held.reset();
    Do(SendAssignment{worker.id, Assignment{.pipeline = pipeline.id,
                                            .epoch = pipeline.epoch,
                                            .deployment = deployment.spec.name,
                                            .model = deployment.spec.model,
                                            .model_digest = deployment.model.digest,
                                            .stage = rank.stage,
                                            .rank = rank.rank,
                                            .stages = stages,
                                            .max_model_len = pipeline.placement.max_model_len,
                                            .block_tokens = deployment.spec.block_size,
                                            .blocks = pipeline.placement.blocks,
                                            .kv_cache_type = deployment.spec.kv_cache_type,
                                            .activation_bits = deployment.spec.activation_bits,
                                            .max_step_rows = deployment.spec.max_num_batched_tokens,
                                            .max_slots = 2 * deployment.spec.max_num_seqs,
                                            .max_sample_rows = deployment.spec.max_num_seqs,
                                            .model_peers = peers}});
  }
}

void ClusterState::Advance(PipelineRecord& pipeline, int64_t now_ns) {
  const auto all_are = [&](auto test) {
    return std::all_of(pipeline.workers.begin(), pipeline.workers.end(),
                       [&](WorkerId id) { return test(workers_.at(id).phase); });
  };
  if (pipeline.phase == PipelinePhase::kLoading &&
      all_are([](WorkerPhase p) { return p == WorkerPhase::kLoaded || p == WorkerPhase::kReady; })) {
    pipeline.phase = PipelinePhase::kLinking;
    pipeline.message = "linking";
    std::vector<LinkPeer> peers;
    for (const WorkerId id : pipeline.workers) {
      const WorkerRecord& worker = workers_.at(id);
      peers.push_back({worker.stage, worker.rank, worker.info.data_address, worker.info.host});
    }
    for (const WorkerId id : pipeline.workers) Do(SendLinkUp{id, pipeline.epoch, peers});
  }
  if (pipeline.phase == PipelinePhase::kLinking && all_are([](WorkerPhase p) { return p == WorkerPhase::kReady; })) {
    pipeline.phase = pipeline.draining ? PipelinePhase::kDraining : PipelinePhase::kReady;
    pipeline.message.clear();
    pipeline.failures = 0;
    pipeline.served = true;
    pipeline.enough_since_ns = 0;
    pipeline.room_was_made = false;
    pipeline.streams_return_until_ns = std::min(pipeline.streams_return_until_ns, now_ns + limits_.streams_return_ns);
    pipeline.last_fault.clear();
    pipeline.numerics_profile = workers_.at(pipeline.workers.back()).info.numerics_profile;
    pipeline.shard_digests.clear();
    for (const WorkerId id : pipeline.workers) pipeline.shard_digests.push_back(workers_.at(id).shard_digest);
    Do(SavePipeline{Stored(pipeline, DeploymentOf(pipeline))});
    Do(OpenEpoch{pipeline.id, pipeline.epoch});
    MatchReplicas(deployments_.at(pipeline.deployment));  // one of a former spec may have waited for it
  }
}

// Ends the epoch: those that are left release what they hold and are free again once they say so.
void ClusterState::Disband(PipelineRecord& pipeline, const std::string& why, bool keep_weights, int64_t now_ns,
                           bool planned) {
  const bool was_open = pipeline.phase == PipelinePhase::kReady || pipeline.phase == PipelinePhase::kDraining;
  if (was_open) Do(CloseEpoch{pipeline.id, pipeline.epoch, why, planned});
  for (const WorkerId id : pipeline.workers) {
    const auto found = workers_.find(id);
    if (found == workers_.end() || found->second.phase == WorkerPhase::kLost) continue;
    WorkerRecord& worker = found->second;
    if (!keep_weights || worker.phase == WorkerPhase::kLoading) worker.shard.clear();
    worker.phase = WorkerPhase::kReleasing;
    worker.releasing_since_ns = now_ns;
    worker.pipeline = PipelineId();
    Do(SendRelease{id, pipeline.epoch, keep_weights});
  }
  pipeline.workers.clear();
  pipeline.phase = PipelinePhase::kPending;
  pipeline.message = why;
  pipeline.last_fault = why;
  if (was_open) {
    pipeline.failures = 1;
    pipeline.not_before_ns = now_ns;
  } else {
    const int64_t wait = limits_.first_retry_ns << std::min(pipeline.failures, 10);
    pipeline.not_before_ns = now_ns + std::min(wait, limits_.most_retry_ns);
    ++pipeline.failures;
  }
}

}  // namespace pagoda::coordinator
