// What the coordinators are and serve, as this router knows them: streams that come and end, leaders that change, snapshots, and
// what becomes of the requests that ran on what is gone.
#include <algorithm>

#include "common/log.h"
#include "pagoda/internal/v1/pipeline.pb.h"
#include "router/dispatcher.h"
#include "router/dispatcher_wire.h"

namespace pagoda::router {

namespace wire = pagoda::internal::v1;

void Dispatcher::OnHello(int link, const wire::CoordinatorHello& hello) {
  Link& entry = links_[link];
  const std::string before = hello.leader() && !entry.leads ? entry.follows : "";
  entry.coordinator = hello.coordinator();
  entry.protocol = hello.protocol();
  entry.address = hello.address();
  entry.leads = hello.leader();
  if (!hello.leader_address().empty()) entry.follows = hello.leader_address();
  metrics_->SetCoordinators(attached());
  LogInfo("coordinator_attached", {{"coordinator", hello.coordinator()}, {"leader", hello.leader()}});
  if (!before.empty() && before != hello.address()) LeaveDeposed(before);
  if (!hello.leader() && !hello.leader_address().empty()) edges_.add_coordinator(hello.leader_address());
}

// Another coordinator of its cluster leads: the pipelines are that one's now. One that was stopped, or cut off from its
// store, says nothing, and its stream would be held until it counts as silent.
void Dispatcher::LeaveDeposed(const std::string& address) {
  std::vector<int> links;
  for (const auto& [link, entry] : links_) {
    if (entry.leads && entry.address == address) links.push_back(link);
  }
  for (const int link : links) {
    LogWarning("coordinator_deposed", {{"coordinator", links_[link].coordinator}, {"address", address}});
    OnLinkLost(link);
    deposed_.insert(link);
  }
}

void Dispatcher::MergeView(bool whole) {
  view_.pipelines.clear();
  for (const auto& [link, entry] : links_) {
    view_.pipelines.insert(view_.pipelines.end(), entry.pipelines.begin(), entry.pipelines.end());
  }
  // What a lost coordinator served is known a while longer, unless another serves it.
  const MonotonicNs now = edges_.now();
  std::erase_if(ghosts_, [&](const Ghost& ghost) {
    return now >= ghost.until_ns || std::ranges::any_of(view_.pipelines, [&](const PipelineView& pipeline) {
             return pipeline.model == ghost.pipeline.model && pipeline.digest == ghost.pipeline.digest &&
                    SameNumerics(pipeline.numerics, ghost.pipeline.numerics);
           });
  });
  for (const Ghost& ghost : ghosts_) view_.pipelines.push_back(ghost.pipeline);
  // A count of nothing is dropped with its pipeline; others go when their requests have moved on.
  absl::erase_if(loads_, [this](const auto& entry) {
    return entry.second.requests == 0 && view_.Find(entry.first) == nullptr;
  });
  registry_->Update(view_, edges_.now() / kNsPerMs);
  metrics_->SetCluster(view_, whole);
}

void Dispatcher::OnSnapshot(int link, const wire::Snapshot& snapshot) {
  Link& entry = links_[link];
  std::vector<PipelineView> pipelines = PipelinesOf(link, snapshot);
  for (const PipelineView& old : entry.pipelines) {
    const bool kept =
        std::ranges::any_of(pipelines, [&](const PipelineView& p) { return p.key == old.key; });
    if (!kept) prefixes_.Erase(old.key);
    if (!kept) breakers_.Forget(old.key);
  }
  std::set<PipelineKey> lost;
  entry.pipelines = std::move(pipelines);
  MergeView(/*whole=*/true);
  // A pipeline that is gone, or was assembled anew: what ran there is submitted again with its
  // tokens.
  for (const RequestId id : Oldest([link](const Running& running) { return running.pipeline.link == link; })) {
    Running& running = sessions_.find(id)->second;
    const PipelineView* pipeline = view_.Find(running.pipeline);
    const bool gone = pipeline == nullptr || pipeline->epoch != running.epoch;
    if (!gone && pipeline->epoch_closed && running.unplaced_ns == 0) running.unplaced_ns = edges_.now();
    if (!gone && !(pipeline->epoch_closed && AnotherIsReady(running))) continue;
    running.accepted = true;
    // Its KV is there by now: as if its prompt had been given to that one.
    if (pipeline != nullptr && pipeline->kv_moved_to != PipelineId()) prefixes_.Insert(running.chain, {link, pipeline->kv_moved_to});
    // Once for all that ran there, and not when it was taken away.
    if (pipeline != nullptr && lost.insert(running.pipeline).second) PipelineFailed(running.pipeline);
    Replace(running, "pipeline_lost");
  }
}

// Than where it was: no need to wait for that one to come back.
bool Dispatcher::AnotherIsReady(const Running& running) const {
  RouteRequest route = RouteOf(running);
  route.accepted = true;
  return std::ranges::any_of(view_.pipelines, [&](const PipelineView& pipeline) {
    return pipeline.key != running.pipeline && CanServe(route, view_, pipeline);
  });
}

void Dispatcher::OnLinkLost(int link) {
  deposed_.erase(link);
  const auto found = links_.find(link);
  if (found != links_.end()) {
    for (PipelineView& pipeline : found->second.pipelines) {
      prefixes_.Erase(pipeline.key);
      breakers_.Forget(pipeline.key);
      if (!pipeline.ready && !pipeline.takes_replays && !pipeline.epoch_closed) continue;  // it was on its way out
      pipeline.ready = pipeline.takes_replays = false;
      pipeline.epoch_closed = true;
      ghosts_.push_back({std::move(pipeline), edges_.now() + options_.hold_ms * kNsPerMs});
    }
    links_.erase(found);
    metrics_->SetCoordinators(attached());
    MergeView(/*whole=*/false);
  }
  for (const RequestId id : Oldest([link](const Running& running) { return running.pipeline.link == link; })) {
    Running& running = sessions_.find(id)->second;
    running.accepted = true;
    Replace(running, "coordinator_lost");
  }
  for (auto& [number, query] : queries_) query.links.erase(link);
  EndQueries([](const Query& query) { return query.links.empty(); });
}

}  // namespace pagoda::router
