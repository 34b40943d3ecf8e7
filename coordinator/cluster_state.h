// Who is in the cluster and what they should be doing: workers with leases, deployments (what is wanted), pipelines (what is
// there), and the messages that bring the second towards the first. A plain state machine: event + now -> state + actions.
// Owned by the coordinator's control thread; no locks.
//
// A pipeline's life: pending (workers or room are missing) -> loading (assignments are out) -> linking (all have loaded, the
// peers' addresses are out) -> ready (all linked) -> back to pending when a rank is lost or a step fails. Each assembly is
// an epoch of its own; epochs never repeat, also not over restarts of the coordinator (kSaveEpoch comes before the
// assignments that use it). A worker that held a shard keeps its weights and is asked first for the same place.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "common/ids.h"
#include "common/status.h"
#include "coordinator/cluster_records.h"

namespace pagoda::coordinator {

struct ClusterLimits {
  int64_t lease_ns = 3'000'000'000;
  int64_t suspect_after_ns = 1'400'000'000;      // of silence: then it is looked into; the lease is not waited for
  int64_t wedged_grace_ns = 800'000'000;         // a process that only starves says something within it
  int64_t pause_ns = 700'000'000;                // between ticks: this process was stopped itself, and nobody is late
  int64_t holders_return_ns = 2'000'000'000;     // after a start: how long those that held shards are waited for
  int64_t streams_return_ns = 5'000'000'000;     // routers are back by then, with the streams of what drains
  int64_t assembled_again_ns = 60'000'000'000;   // so long, at most, they are waited for while it is not assembled
  int64_t assembly_deadline_ns = 600'000'000'000;
  int64_t release_deadline_ns = 15'000'000'000;  // a worker that does not say that it left is taken for lost
  int64_t first_retry_ns = 200'000'000;
  int64_t most_retry_ns = 30'000'000'000;
  int64_t makeshift_after_ns = 5'000'000'000;    // without enough workers, until those that are left serve in a smaller layout; 0: never
  int64_t makeshift_least_ns = 10'000'000'000;   // enough workers are there for so long: back to the layout that is asked for
  std::vector<std::string> own_blob_addresses;
};

class ClusterState {
 public:
  explicit ClusterState(ClusterLimits limits) : limits_(std::move(limits)) {}

  // Before anything else, what the store has. Pipelines keep their ids.
  void Restore(uint64_t last_epoch, uint64_t last_pipeline, std::vector<RestoredPipeline> pipelines);
  // Those of former specs whose models nobody has brought yet.
  const std::vector<RestoredPipeline>& restored() const { return restored_; }
  void ForgetRestored(const std::string& deployment);  // it was deleted before it was taken up
  // Null: it is gone for good.
  void FoundFormerModel(PipelineId pipeline, std::shared_ptr<const ModelSizes> sizes, int64_t now_ns);
  // The address under which workers find this coordinator's own Blob service.
  void SetOwnBlobAddress(std::string address) { limits_.own_blob_addresses = {std::move(address)}; }

  // Workers. A name that is already there with another incarnation is the same worker after a restart.
  WorkerId Join(WorkerInfo info, int64_t now_ns);
  // `planned`: it leaves by order; what ran with it blames nobody.
  void Gone(WorkerId worker, const std::string& why, int64_t now_ns, bool planned = false);
  void Heartbeat(WorkerId worker, const WorkerProgress& progress, int64_t now_ns);
  void Loaded(WorkerId worker, Epoch epoch, LoadPhase phase, const LoadDetails& details, int64_t now_ns);
  // What came of a ProbeWorker.
  void Probed(WorkerId worker, ProbeResult result, int64_t now_ns);
  // A step gave no result in time although all ranks report.
  void StepStalled(PipelineId pipeline, Epoch epoch, StepNumber step, const std::string& why, int64_t now_ns);
  void Left(WorkerId worker, Epoch epoch, int64_t now_ns);
  // A rank (or the engine) says that the epoch cannot go on.
  void EpochFailed(PipelineId pipeline, Epoch epoch, const std::string& why, int64_t now_ns);

  // Deployments (cluster_rollout.cc). The same spec twice changes nothing.
  void Apply(DeploymentSpec spec, ModelFacts model, int64_t now_ns);
  absl::Status Scale(const std::string& name, int replicas, int64_t now_ns);
  absl::Status Drain(const std::string& name, int64_t now_ns);
  absl::Status Delete(const std::string& name, int64_t now_ns);
  // A draining pipeline has no request left. Told again and again: it stays for a moment where streams may come back to it.
  void Drained(PipelineId pipeline, int64_t now_ns);
  void EndDrain(PipelineId pipeline, StopHow how, int64_t now_ns);  // whatever it has left
  // A router was lost or cut off: its streams return by it or by another.
  void StreamsMayReturn(int64_t now_ns);

  void Tick(int64_t now_ns);

  std::vector<Action> TakeActions();
  const ClusterLimits& limits() const { return limits_; }

  const std::map<WorkerId, WorkerRecord>& workers() const { return workers_; }
  const std::map<PipelineId, PipelineRecord>& pipelines() const { return pipelines_; }
  const std::map<std::string, DeploymentRecord>& deployments() const { return deployments_; }
  // What the pipeline is made by: its deployment, or what that was before another spec was applied.
  const DeploymentRecord& DeploymentOf(const PipelineRecord& pipeline) const;
  const WorkerRecord* FindWorker(WorkerId id) const;
  std::vector<RankView> RanksOf(const PipelineRecord& pipeline, int64_t now_ns) const;

 private:
  void Reconcile(int64_t now_ns);
  void TakeUpRestored(DeploymentRecord& deployment, int64_t now_ns);
  void Add(PipelineRecord pipeline);
  void StartDraining(PipelineRecord& pipeline);
  std::vector<PipelineId> ActiveOf(const DeploymentRecord& deployment, bool of_a_former_spec) const;
  void MatchReplicas(const DeploymentRecord& deployment);
  void MakeRoom(const DeploymentRecord& deployment);
  bool WouldFit(const DeploymentRecord& deployment, std::vector<WorkerId> workers) const;
  void TryAssemble(PipelineRecord& pipeline, int64_t now_ns);
  // cluster_makeshift.cc. True: it was assembled, or is about to be; else `pipeline.message` may say why not.
  bool AssembleMakeshift(PipelineRecord& pipeline, const DeploymentRecord& deployment, PlacementRequest request, int needed,
                         int64_t now_ns);
  void EndMakeshifts(int64_t now_ns);
  bool AnotherServes(const PipelineRecord& pipeline) const;
  std::vector<WorkerId> LargestIdle(const PipelineRecord& pipeline, const DeploymentRecord& deployment, int count) const;
  bool CouldBeWhole(const PipelineRecord& pipeline, const DeploymentRecord& deployment, int64_t now_ns) const;
  std::vector<const WorkerRecord*> IdleOfOneBuild(const PipelineRecord& pipeline, const DeploymentRecord& deployment, int needed) const;
  bool HasPlaceFor(const PipelineRecord& pipeline, const DeploymentRecord& deployment, const WorkerRecord& worker) const;
  int ReleasingHoldersOf(const PipelineRecord& pipeline, const DeploymentRecord& deployment) const;
  std::vector<WorkerId> ChooseWorkers(const PipelineRecord& pipeline, const DeploymentRecord& deployment, int needed) const;
  bool KeepsItsPlaces(const PipelineRecord& pipeline, const std::vector<WorkerId>& chosen) const;
  bool WaitsForHolders(const PipelineRecord& pipeline, const std::vector<WorkerId>& chosen, const DeploymentRecord& deployment,
                       int64_t now_ns) const;
  void RecognizeShard(WorkerRecord& worker);
  void CountFlap(const std::string& name, int64_t now_ns);
  int FlapsOf(const std::string& name, int64_t now_ns) const;
  bool ComesAndGoes(const WorkerRecord& worker, int64_t now_ns) const;
  bool IsBlamed(const WorkerRecord& worker, int64_t now_ns) const { return worker.blamed_until_ns > now_ns; }
  void LookIntoSilence(int64_t now_ns);
  std::vector<WorkerResources> ResourcesOf(const std::vector<WorkerId>& chosen) const;
  void SendAssignments(PipelineRecord& pipeline, const DeploymentRecord& deployment, int64_t now_ns);
  void Advance(PipelineRecord& pipeline, int64_t now_ns);
  void Disband(PipelineRecord& pipeline, const std::string& why, bool keep_weights, int64_t now_ns, bool planned = false);
  void Remove(PipelineId pipeline, int64_t now_ns);
  void LearnTimes(const WorkerRecord& worker);
  std::string ShardName(const PipelineRecord& pipeline, const DeploymentRecord& deployment, int stage, int rank) const;
  void Do(Action action);

  ClusterLimits limits_;
  uint64_t next_worker_ = 1;
  uint64_t next_pipeline_ = 1;
  uint64_t next_epoch_ = 1;
  uint64_t next_join_ = 1;
  std::map<WorkerId, WorkerRecord> workers_;
  std::map<PipelineId, PipelineRecord> pipelines_;
  std::map<std::string, DeploymentRecord> deployments_;
  std::vector<RestoredPipeline> restored_;  // of deployments that were not applied here yet, or of models that were not found yet
  int reserved_ = 0;  // of the idle workers, for pipelines that wait for more of their own; while Reconcile goes through them
  int64_t ticked_ns_ = 0;
  struct Flaps {
    int count = 0;
    int64_t last_ns = 0;
  };
  std::map<std::string, Flaps> flaps_;  // by worker name: how often it was lost of late
  std::vector<Action> actions_;
};

}  // namespace pagoda::coordinator
