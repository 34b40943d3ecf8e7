// A pipeline that lost a worker, with nobody to take its place: what is left serves in a smaller layout, if the model fits and no
// other pipeline serves it, until there are enough again. Results do not depend on the layout, so its streams go on with the tokens
// they would have had; only KV and weights are made anew.
#include <algorithm>
#include <functional>
#include <utility>

#include "coordinator/cluster_state.h"

namespace pagoda::coordinator {
namespace {

struct Layout {
  int stages = 1;
  int tensor_parallel = 1;
  int workers() const { return stages * tensor_parallel; }
};

// What could be made of `workers`, the largest first; of two alike the one with larger groups, as was asked for.
std::vector<Layout> SmallerLayouts(const PlacementRequest& asked, int workers, int needed) {
  const int widest = *std::max_element(asked.tensor_parallel.begin(), asked.tensor_parallel.end());
  std::vector<Layout> layouts;
  for (int width = widest; width >= 1; --width) {
    for (int stages = asked.stages; stages >= 1; --stages) {
      const Layout layout{.stages = stages, .tensor_parallel = width};
      if (layout.workers() <= workers && layout.workers() < needed) layouts.push_back(layout);
    }
  }
  std::stable_sort(layouts.begin(), layouts.end(), [](const Layout& a, const Layout& b) { return a.workers() > b.workers(); });
  return layouts;
}

std::string Told(const Placement& placement, int needed) {
  const size_t stages = placement.stages.size();
  return absl::StrCat("runs with ", placement.ranks.size(), " of ", needed, " workers, in ", stages, stages == 1 ? " stage" : " stages",
                      ", until more are there");
}

}  // namespace

// Of what drains by a former spec nobody else can finish the streams but who is made by the same.
bool ClusterState::AnotherServes(const PipelineRecord& pipeline) const {
  return std::ranges::any_of(pipelines_, [&](const auto& entry) {
    const PipelineRecord& other = entry.second;
    return other.id != pipeline.id && other.deployment == pipeline.deployment && other.phase == PipelinePhase::kReady && !other.draining &&
           (!pipeline.draining || NumericsOf(other, DeploymentOf(other)) == NumericsOf(pipeline, DeploymentOf(pipeline)));
  });
}

// The makeshift's workers and idle ones like them, of those that do not come and go, are enough for what is asked for, and it fits.
bool ClusterState::CouldBeWhole(const PipelineRecord& pipeline, const DeploymentRecord& deployment, int64_t now_ns) const {
  std::vector<WorkerId> workers = pipeline.workers;
  const WorkerInfo& info = workers_.at(workers.front()).info;
  for (const auto& [id, worker] : workers_) {
    const bool sound = !IsBlamed(worker, now_ns) && !ComesAndGoes(worker, now_ns);
    if (worker.phase == WorkerPhase::kIdle && SameBuild(worker.info, info) && sound) workers.push_back(id);
  }
  return WouldFit(deployment, std::move(workers));
}

// What the deployment asks for could be made of these.
bool ClusterState::WouldFit(const DeploymentRecord& deployment, std::vector<WorkerId> workers) const {
  const PlacementRequest asked = PlacementRequestOf(deployment.spec);
  const absl::StatusOr<int> needed = WorkersNeeded(*deployment.model.sizes, asked);
  if (!needed.ok() || std::ssize(workers) < *needed) return false;
  std::ranges::stable_sort(workers, std::greater<>(), [&](WorkerId id) { return workers_.at(id).info.memory_bytes; });
  workers.resize(static_cast<size_t>(*needed));
  return PlaceModel(*deployment.model.sizes, ResourcesOf(workers), asked).ok();
}

std::vector<WorkerId> ClusterState::LargestIdle(const PipelineRecord& pipeline, const DeploymentRecord& deployment, int count) const {
  std::vector<const WorkerRecord*> idle = IdleOfOneBuild(pipeline, deployment, count);
  std::ranges::stable_sort(idle, std::greater<>(), [](const WorkerRecord* worker) { return worker->info.memory_bytes; });
  std::vector<WorkerId> ids;
  for (int i = 0; i < count; ++i) ids.push_back(idle[static_cast<size_t>(i)]->id);
  return ids;
}

bool ClusterState::AssembleMakeshift(PipelineRecord& pipeline, const DeploymentRecord& deployment, PlacementRequest request, int needed,
                                     int64_t now_ns) {
  const bool possible = limits_.makeshift_after_ns > 0 && pipeline.served && deployment.spec.layers_per_stage.empty();
  if (!possible || AnotherServes(pipeline)) {
    pipeline.short_since_ns = 0;
    return false;
  }
  if (pipeline.short_since_ns == 0) pipeline.short_since_ns = now_ns;
  const int idle = static_cast<int>(IdleOfOneBuild(pipeline, deployment, needed).size());
  const int last = static_cast<int>(pipeline.placement.ranks.size());
  const auto assemble = [&](const std::vector<WorkerId>& chosen) {
    pipeline.makeshift = Told(pipeline.placement, needed);
    pipeline.short_since_ns = 0;  // whoever is lost of it may come back too
    pipeline.workers = chosen;
    SendAssignments(pipeline, deployment, now_ns);
    return true;
  };
  // It was a makeshift already: its workers have their shards.
  if (last > 0 && last < needed && last <= idle) {
    const std::vector<WorkerId> chosen = ChooseWorkers(pipeline, deployment, last);
    if (WaitsForHolders(pipeline, chosen, deployment, now_ns)) {
      pipeline.message = "waits for the workers that have its shards loaded";
      return true;
    }
    if (KeepsItsPlaces(pipeline, chosen)) return assemble(chosen);
  }
  if (now_ns - pipeline.short_since_ns < limits_.makeshift_after_ns) return false;
  if (last > 0) {  // no stream may find less room than it had
    request.max_model_len = pipeline.placement.max_model_len;
    request.allow_shorter_context = false;
  }
  for (const Layout& layout : SmallerLayouts(request, idle, needed)) {
    PlacementRequest smaller = request;
    smaller.stages = layout.stages;
    smaller.tensor_parallel = {layout.tensor_parallel};
    for (const bool largest : {false, true}) {  // first those that have something of it loaded, or came first
      const std::vector<WorkerId> chosen = largest ? LargestIdle(pipeline, deployment, layout.workers())
                                                   : ChooseWorkers(pipeline, deployment, layout.workers());
      absl::StatusOr<Placement> placement = PlaceModel(*deployment.model.sizes, ResourcesOf(chosen), smaller);
      if (!placement.ok()) continue;
      pipeline.placement = *std::move(placement);
      pipeline.shard_digests.clear();
      return assemble(chosen);
    }
  }
  return false;
}

void ClusterState::EndMakeshifts(int64_t now_ns) {
  for (auto& [id, pipeline] : pipelines_) {
    if (pipeline.makeshift.empty() || pipeline.workers.empty() || pipeline.draining) continue;
    const DeploymentRecord& deployment = DeploymentOf(pipeline);
    if (!CouldBeWhole(pipeline, deployment, now_ns)) {
      pipeline.enough_since_ns = 0;
      continue;
    }
    if (pipeline.enough_since_ns == 0) pipeline.enough_since_ns = now_ns;
    // What does not serve yet has nothing to lose. What does is not stopped for one that comes and goes.
    const bool serves = pipeline.phase == PipelinePhase::kReady;
    if (serves && now_ns - pipeline.enough_since_ns < limits_.makeshift_least_ns) continue;
    pipeline.enough_since_ns = 0;
    Disband(pipeline, "there are workers enough again for the layout that it was asked for", true, now_ns, /*planned=*/true);
    pipeline.not_before_ns = now_ns;
    return Reconcile(now_ns);  // one at a time: the same idle workers make only one whole
  }
}

}  // namespace pagoda::coordinator
