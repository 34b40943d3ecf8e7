// The coordinator behind its services: one control thread owns membership, deployments and the store; each pipeline has an
// engine with a thread of its own. Thread rule: every public method may be called from any thread; those that take a
// callback call it on the control thread.
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "common/bounded_queue.h"
#include "common/mutex.h"
#include "coordinator/cluster_state.h"
#include "coordinator/event_log.h"
#include "coordinator/kv_moves.h"
#include "coordinator/leader_watch.h"
#include "coordinator/leadership.h"
#include "coordinator/links.h"
#include "coordinator/model_catalog.h"
#include "coordinator/pipeline_engine.h"
#include "coordinator/prober.h"
#include "coordinator/resume_table.h"
#include "coordinator/store/store.h"
#include "security/epoch_tokens.h"

namespace prometheus {
class Registry;
}

namespace pagoda::coordinator {

struct CoordinatorOptions {
  std::string name = "coordinator";
  int heartbeat_ms = 500;
  int lease_ms = 3000;
  int step_deadline_ms = 30000;
  int makeshift_after_ms = 5000;  // see ClusterLimits::makeshift_after_ns
  int canary_every_ms = 10000;  // 0: none
  bool encrypt_data_plane = false;  // the ranks of an epoch get a key for what they send each other; only over TLS
  std::string pulse_file;  // touched while the control thread and all engines go round; empty: none
  Tracer* tracer = nullptr;  // null: no traces; outlives the coordinator
  uint32_t announced_protocol = ~0u;  // to routers, at most; for tests of two versions together
};

// What Admin shows of the cluster.
struct ClusterView {
  struct Pipeline {
    PipelineRecord record;
    EngineStatus status;
    double prompt_tokens_per_s = 0;
    double output_tokens_per_s = 0;
  };
  std::vector<DeploymentRecord> deployments;
  std::vector<Pipeline> pipelines;
  std::vector<WorkerRecord> workers;
  std::vector<ClusterEvent> events;  // oldest first
  int64_t now_ns = 0;
  bool leads = false;
  std::string leader_address;  // when another one leads
};

class Coordinator {
 public:
  Coordinator(CoordinatorOptions options, std::unique_ptr<Store> store, std::shared_ptr<ModelCatalog> catalog,
              std::shared_ptr<prometheus::Registry> registry);
  ~Coordinator();

  // Starts the control thread and campaigns for the leadership; `address` is where others reach this coordinator. Whoever leads
  // reads the store then: a deployment whose model cannot be opened any more is kept, with the reason logged, and does not run.
  // The others answer NotLeader.
  absl::Status Start(const std::string& address);
  bool leads() const { return leading_.load(); }
  // When the control thread last went round: within a second of now, or it hangs.
  int64_t last_tick_ns() const { return last_tick_ns_.load(); }
  std::string address() const;         // its own, as others know it; empty before Start
  std::string leader_address() const;  // of another one; empty: nobody is known to lead
  void SetBlobAddress(const std::string& address);

  // Refuses new requests from now on; true once nothing runs, false when the time is over.
  bool FinishRunning(int timeout_ms);
  void Stop();

  // Of a worker's stream, in the order of its messages.
  void WorkerJoined(std::shared_ptr<WorkerLink> link, WorkerInfo info);
  void WorkerHeartbeat(std::shared_ptr<WorkerLink> link, WorkerProgress progress);
  void WorkerLoaded(std::shared_ptr<WorkerLink> link, Epoch epoch, LoadPhase phase, LoadDetails details);
  void WorkerLeft(std::shared_ptr<WorkerLink> link, Epoch epoch);
  void WorkerFault(std::shared_ptr<WorkerLink> link, Epoch epoch, std::string what);
  // It was told to stop, and says so: it is let go (Farewell) once the KV of what runs there has moved, or will not.
  void WorkerLeaving(std::shared_ptr<WorkerLink> link);
  struct KvFilledReport {
    uint64_t move = 0;
    Epoch epoch;
    std::string error;  // empty: all is there
    int64_t bytes = 0;
    int64_t took_us = 0;
  };
  void WorkerFilledKv(std::shared_ptr<WorkerLink> link, KvFilledReport report);
  // Its stream ended. `planned`: after it had said that it leaves.
  void WorkerGone(std::shared_ptr<WorkerLink> link, bool planned);

  // Of a router's stream. It gets a snapshot at once.
  RouterId RouterJoined(std::shared_ptr<RouterLink> link);
  void RouterGone(RouterId router);
  void SnapshotDue();  // routers get one at once
  // Answers through the router's link when it is refused.
  void Submit(PipelineId pipeline, Request request, ResumeTable::Label label, RouterLink& link);
  void Cancel(RequestId request, uint32_t attempt);
  void StopChoice(RequestId request, int choice, int count);
  // What is known of a client's stream, for the router that it came back to; whoever still generates for it is stopped.
  std::vector<ResumeTable::Part> TakeOver(const std::string& tenant, const std::string& resume_id);

  using Done = std::function<void(absl::Status)>;
  void Apply(DeploymentSpec spec, ModelFacts model, Done done);
  void Scale(std::string name, int replicas, Done done);
  void Drain(std::string name, int timeout_ms, Done done);
  void Delete(std::string name, Done done);
  void View(std::function<void(ClusterView)> done);

  const CoordinatorOptions& options() const { return options_; }
  ModelCatalog& catalog() { return *catalog_; }

 private:
  struct PipelineRate {
    int64_t at_ns = 0;
    int64_t prompt = 0;
    int64_t output = 0;
    double prompt_per_s = 0;
    double output_per_s = 0;
  };

  void Label(PipelineId pipeline, ResumeTable::Label& label) const;
  bool Post(std::function<void()> task);  // false: it will not run
  void Lead(const Leader& leader);
  absl::Status TakeUpStoredState();
  void FindFormerModels(int64_t now_ns);
  void RestoreTheRest(int64_t now_ns);
  void WritePipelines(int64_t now_ns);
  void StepDown(const std::string& why);
  void WatchLeader(int64_t now_ns);
  absl::Status CheckLeads() const;
  absl::Status StoreReplicas(const std::string& name, int replicas);
  void Run();
  void TickNow();
  void Act();
  void Do(const SaveEpoch& action);
  void Do(const SavePipeline& action);
  void Do(const ForgetPipeline& action);
  void Do(const SendAssignment& action);
  void Do(const SendLinkUp& action);
  void Do(const SendRelease& action);
  void Do(const CloseWorker& action);
  void Do(const ProbeWorker& action);
  void Do(const ReportFault& action);
  void Do(const CreatePipeline& action);
  void Do(const OpenEpoch& action);
  void Do(const CloseEpoch& action);
  void Do(const StopPipeline& action);
  void Do(const LimitQueue& action);
  // coordinator_move.cc
  bool MoveKv(PipelineId from);
  void TakeOffer(uint64_t move, KvOffer offer);
  void Fill(uint64_t move, const KvReservation& reservation);
  void EndMove(uint64_t move, KvMoveEnd end);
  void Leave(const KvMove& move, KvMoveEnd end);
  void EndMovesOf(PipelineId pipeline, Epoch epoch);
  void EndLateMoves(int64_t now_ns);
  void ForgetMove(PipelineId pipeline);
  void LetGo(WorkerLink& link, bool planned);
  void PublishSnapshot();
  Snapshot MakeSnapshot() const;
  ClusterView MakeView() const;
  void Tell(std::string_view kind, std::string text);  // to whoever looks at the cluster
  void EndDrainsThatTookTooLong(int64_t now_ns);
  void MeasureRates(int64_t now_ns);
  void CountWorkers();
  void CountResumable(int64_t now_ns);
  WorkerLink* LinkOf(WorkerId worker) const;
  WorkerId IdOf(const WorkerLink* link) const;
  std::shared_ptr<PipelineEngine> FindEngine(PipelineId pipeline) const;
  std::vector<std::shared_ptr<PipelineEngine>> Engines() const;

  const CoordinatorOptions options_;
  const security::EpochTokens link_tokens_;
  const std::shared_ptr<ModelCatalog> catalog_;
  const std::shared_ptr<prometheus::Registry> registry_;
  const std::shared_ptr<RouterDirectory> routers_ = std::make_shared<RouterDirectory>();
  const std::shared_ptr<SharedResumeTable> resumable_ = std::make_shared<SharedResumeTable>();
  BoundedQueue<std::function<void()>> inbox_;
  std::atomic<bool> refusing_{false};
  std::atomic<bool> stopping_{false};
  std::atomic<bool> leading_{false};
  std::atomic<int64_t> last_tick_ns_{0};

  mutable Mutex engines_mutex_;
  std::map<PipelineId, std::shared_ptr<PipelineEngine>> engines_ ABSL_GUARDED_BY(engines_mutex_);
  mutable Mutex snapshot_mutex_;
  Snapshot latest_ ABSL_GUARDED_BY(snapshot_mutex_);
  std::string address_ ABSL_GUARDED_BY(snapshot_mutex_);
  std::string leader_address_ ABSL_GUARDED_BY(snapshot_mutex_);

  // The control thread's.
  std::unique_ptr<Store> store_;
  ClusterState state_;
  std::map<WorkerId, std::shared_ptr<WorkerLink>> links_;
  std::unordered_map<const WorkerLink*, WorkerId> worker_ids_;
  std::map<PipelineId, int64_t> created_unix_s_;
  std::map<PipelineId, PipelineRate> rates_;
  std::map<std::string, int64_t> drain_deadlines_;  // by deployment
  std::vector<std::shared_ptr<PipelineEngine>> retired_;  // their threads end by themselves
  KvMoves moves_;
  KvMoveRate move_rate_;
  std::multimap<PipelineId, std::shared_ptr<WorkerLink>> departing_;  // workers that leave once their pipeline's KV has moved
  std::map<PipelineId, PipelineId> moved_to_;  // of pipelines that were left: who has their KV
  std::set<PipelineId> left_;                  // that drained by moving what ran there: their epoch is closed
  EventLog events_;
  uint64_t snapshot_version_ = 0;
  int64_t snapshot_at_ns_ = 0;
  bool snapshot_due_ = false;
  Epoch refused_epoch_;  // that the store did not take: nobody is assigned to it

  std::string own_blob_address_;
  bool stored_state_due_ = false;  // this one leads and could not read the store yet
  // Of the store, and not taken up: their models could not be opened. Tried again, since a disk or a network may come back.
  std::map<std::string, DeploymentRecord> unrestored_;
  std::set<PipelineId> former_not_found_;  // of specs before: told once
  int64_t restore_again_ns_ = 0;
  std::map<PipelineId, std::optional<RestoredPipeline>> unwritten_;  // what the store did not take; nothing: to be forgotten
  int64_t write_again_ns_ = 0;

  LeaderWatch leader_watch_;
  int64_t probe_leader_at_ns_ = 0;

  std::unique_ptr<Leadership> leadership_;
  Prober prober_;
  std::thread thread_;
};

}  // namespace pagoda::coordinator
