// One coordinator process of a simulated cluster: the real cluster state and schedulers, with the glue of the real control and
// engine threads done as events. Messages to and from routers and plans to workers go over the real wire types.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>

#include "coordinator/cluster_state.h"
#include "coordinator/links.h"
#include "coordinator/resume_table.h"
#include "coordinator/scheduler.h"
#include "pagoda/internal/v1/pipeline.pb.h"
#include "tests/sim/network.h"
#include "tests/sim/sim_store.h"

namespace pagoda::sim {

class Cluster;

class SimCoordinator {
 public:
  SimCoordinator(Cluster& cluster, Life life);

  Life life() const { return life_; }
  bool leads() const { return term_ != 0; }

  void Leave();  // SIGTERM
  // An operator's; false: it does not lead, or the store takes nothing from it.
  bool Apply(coordinator::DeploymentSpec spec);

  // From workers.
  void OnWorkerJoined(std::shared_ptr<Stream> stream, const coordinator::WorkerInfo& info, Life worker);
  void OnWorkerLost(const std::shared_ptr<Stream>& stream);
  void OnWorkerLeaving(const std::shared_ptr<Stream>& stream);
  void OnHeartbeat(const Stream* stream, const coordinator::WorkerProgress& progress);
  void OnLoaded(const Stream* stream, Epoch epoch, coordinator::LoadPhase phase, const coordinator::LoadDetails& details);
  void OnLeft(const Stream* stream, Epoch epoch);
  void OnFault(const Stream* stream, Epoch epoch, const std::string& what);
  void OnResult(const Stream* stream, coordinator::StepResult result);

  // From routers.
  void OnRouterAttached(std::shared_ptr<Stream> stream, Life router);
  void OnRouterLost(const std::shared_ptr<Stream>& stream);
  void OnRouterMessage(const Stream* stream, const internal::v1::RouterMessage& message);

  // For invariants at the end.
  std::string UnrestOf() const;  // what still runs or leaks; empty: nothing
  struct Totals {
    int64_t replayed = 0, refilled = 0, recomputed = 0, preemptions = 0, epochs = 0, drafts = 0, accepted_drafts = 0, kept_streams = 0;
  };
  Totals totals() const;

 private:
  struct WorkerEnd {
    std::shared_ptr<Stream> stream;
    Life life;
    WorkerId id;
  };
  struct RouterEnd {
    std::shared_ptr<Stream> stream;
    Life life;
    coordinator::RouterId id;
  };
  struct Engine {
    PipelineId pipeline;
    std::unique_ptr<coordinator::Scheduler> scheduler = std::make_unique<coordinator::Scheduler>();
    Epoch epoch;
    std::vector<WorkerId> ranks;
    bool open = false;
    bool failed = false;
    bool draining = false;
    std::deque<std::pair<uint64_t, int64_t>> dispatched;  // step, when
    StepNumber last_step;
  };

  int64_t Now() const;
  void Tick();
  void KeepLeadership();
  void Lead(uint64_t term);
  void StepDown();
  void FinishRunning(int64_t until_ns);
  void Stop();
  void EndEpoch(const coordinator::CloseEpoch& action);
  void Act();
  void Do(const coordinator::Action& action);
  void OpenEpoch(const coordinator::OpenEpoch& action);
  void FailEpoch(Engine& engine, const std::string& why, uint64_t stalled_step);
  void Pump(Engine& engine);
  void Dispatch(Engine& engine);
  void Publish(Engine& engine);
  int PublishDeaths(Engine& engine);
  void CheckStepDeadline(Engine& engine);
  void PublishSnapshot();
  void Submit(coordinator::RouterId router, internal::v1::Submit submit);
  void Answer(const RouterEnd& router, const internal::v1::ResumeQuery& query);
  void SendHello(const RouterEnd& router);
  void ToRouter(const RouterEnd& router, std::shared_ptr<internal::v1::CoordinatorMessage> message);
  void Refuse(coordinator::RouterId router, const coordinator::Refusal& refusal);
  WorkerEnd* FindWorker(const Stream* stream);
  WorkerEnd* FindWorker(WorkerId id);
  RouterEnd* FindRouter(coordinator::RouterId id);
  template <typename F>
  void ToWorker(WorkerId id, F what);

  Cluster& cluster_;
  World& world_;
  const Life life_;
  const std::string name_;
  uint64_t term_ = 0;
  std::string leader_;
  coordinator::ClusterState state_;
  std::vector<WorkerEnd> workers_;
  std::vector<RouterEnd> routers_;
  std::map<PipelineId, Engine> engines_;
  coordinator::ResumeTable resumable_;
  uint64_t next_router_ = 1;
  uint64_t snapshot_version_ = 0;
  bool snapshot_due_ = true;
  int64_t snapshot_at_ns_ = 0;
  int64_t renew_at_ns_ = 0;
  std::set<uint64_t> refused_epochs_;
  std::set<std::string> left_;  // workers that said that they leave, until they join again: nobody may blame them
  bool refusing_ = false;       // told to stop
  bool stopped_ = false;
  int64_t epochs_opened_ = 0;
};

}  // namespace pagoda::sim
