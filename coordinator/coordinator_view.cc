// What routers and operators are shown of the cluster: snapshots, rates, counts, the admin view.
#include "coordinator/coordinator.h"

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/registry.h>

#include <chrono>
#include <optional>

#include "common/clock.h"
#include "coordinator/pipeline_facts.h"

namespace pagoda::coordinator {

void Coordinator::MeasureRates(int64_t now_ns) {
  for (const auto& engine : Engines()) {
    const EngineStatus status = engine->status();
    PipelineRate& rate = rates_[engine->options().pipeline];
    const double seconds = static_cast<double>(now_ns - rate.at_ns) / 1e9;
    if (seconds < 0.5) continue;  // an event brought this snapshot forward: too short to measure
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
  // Each kind is there from the start, at zero: a rate sees the first one.
  auto& faults = prometheus::BuildCounter()
                     .Name("pagoda_coordinator_faults_total")
                     .Help("Workers found dead, wedged, slow or cut off, by kind")
                     .Register(*registry_);
  for (const FaultKind kind : {FaultKind::kDeath, FaultKind::kWedge, FaultKind::kSlowness, FaultKind::kPartition}) {
    faults.Add({{"kind", std::string(NameOf(kind))}});
  }
  prometheus::BuildGauge()
      .Name("pagoda_coordinator_leading")
      .Help("1 where this coordinator leads, 0 where it stands by; all of a cluster together: 1, but for moments")
      .Register(*registry_)
      .Add({})
      .Set(leads() ? 1 : 0);
  prometheus::BuildGauge()
      .Name("pagoda_coordinator_routers")
      .Help("Routers that are attached")
      .Register(*registry_)
      .Add({})
      .Set(static_cast<double>(routers_->All().size()));
}

void Coordinator::CountResumable(int64_t now_ns) {
  const ResumeTable::Sizes sizes = resumable_->Expire(now_ns);
  prometheus::BuildGauge()
      .Name("pagoda_coordinator_resumable_streams")
      .Help("Streams that their clients may come back for")
      .Register(*registry_)
      .Add({})
      .Set(static_cast<double>(sizes.streams));
  prometheus::BuildGauge()
      .Name("pagoda_coordinator_resumable_bytes")
      .Help("Memory that their logs take")
      .Register(*registry_)
      .Add({})
      .Set(static_cast<double>(sizes.bytes));
}

Snapshot Coordinator::MakeSnapshot() const {
  Snapshot snapshot;
  snapshot.version = snapshot_version_;
  for (const auto& [id, pipeline] : state_.pipelines()) {
    const auto deployment = state_.deployments().find(pipeline.deployment);
    const auto engine = FindEngine(id);
    if (deployment == state_.deployments().end() || engine == nullptr) continue;
    const EngineStatus status = engine->status();
    const auto moved_to = moved_to_.find(id);
    snapshot.pipelines.push_back(SnapshotOf(pipeline, state_.DeploymentOf(pipeline),
                                            {.stats = status.stats,
                                             .leaving = refusing_.load() || left_.contains(id),
                                             .moving = moves_.From(id) != nullptr,
                                             .kv_moved_to = moved_to == moved_to_.end() ? PipelineId() : moved_to->second,
                                             .created_unix_s = created_unix_s_.at(id)}));
  }
  return snapshot;
}

void Coordinator::Tell(std::string_view kind, std::string text) {
  using std::chrono::milliseconds;
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  events_.Add(kind, std::move(text), std::chrono::duration_cast<milliseconds>(now).count());
  snapshot_due_ = true;
}

void Coordinator::SnapshotDue() {
  Post([this] { snapshot_due_ = true; });
}

void Coordinator::PublishSnapshot() {
  ++snapshot_version_;
  Snapshot snapshot = MakeSnapshot();
  std::optional<ClusterView> view;
  for (const auto& router : routers_->All()) {
    router->SendSnapshot(snapshot);
    if (!router->watching()) continue;
    if (!view) view = MakeView();
    router->SendCluster(*view);
  }
  MutexLock lock(&snapshot_mutex_);
  latest_ = std::move(snapshot);
}

ClusterView Coordinator::MakeView() const {
  ClusterView view;
  view.leads = leading_.load();
  view.leader_address = leader_address();
  view.now_ns = NowNs();
  for (const auto& [name, deployment] : state_.deployments()) view.deployments.push_back(deployment);
  for (const auto& [name, deployment] : unrestored_) view.deployments.push_back(deployment);
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
  view.events.assign(events_.events().begin(), events_.events().end());
  return view;
}

void Coordinator::View(std::function<void(ClusterView)> done) {
  if (!Post([this, done] { done(MakeView()); })) done(ClusterView());
}

}  // namespace pagoda::coordinator
