// What the coordinator's threads need of the streams at its edges, without the wire's types. Implemented in services/.
// Every method may be called from any thread and returns at once (it queues).
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "common/ids.h"
#include "common/mutex.h"
#include "coordinator/cluster_state.h"
#include "coordinator/kv_move.h"
#include "coordinator/request.h"
#include "coordinator/step_plan.h"

namespace pagoda::coordinator {

class PipelineEngine;
struct ClusterView;

// One worker's control stream.
class WorkerLink {
 public:
  virtual ~WorkerLink() = default;
  struct Greeting {
    WorkerId worker;
    int heartbeat_ms = 0;
    int lease_ms = 0;
    int leaving_ms = 0;  // how long it is asked to stay after it said that it leaves
  };
  virtual void Welcome(const Greeting& greeting) = 0;
  // In place of a welcome: another coordinator leads (empty: nobody does). The stream ends.
  virtual void SendNotLeader(const std::string& leader_address) = 0;
  virtual void Send(const Assignment& assignment, int step_deadline_ms) = 0;
  // Of the epoch, the same for all its ranks. `key` empty: packets are not encrypted.
  struct LinkSecret {
    std::string token;
    std::string key;
  };
  virtual void Send(const SendLinkUp& link_up, const LinkSecret& secret) = 0;
  virtual void Send(const SendRelease& release) = 0;
  // See worker.proto's FillKv and EndKvFill.
  struct KvFill {
    uint64_t move = 0;
    Epoch epoch;
    std::string source;
    Epoch source_epoch;
    std::string source_token;
    int timeout_ms = 0;
  };
  virtual void Send(const KvFill& fill, const KvReservation& blocks) = 0;
  virtual void EndKvFill(uint64_t move, Epoch epoch) = 0;
  // It leaves, and nothing more is wanted of it: the stream ends well.
  virtual void Farewell() = 0;
  // Where its step results go from now on; null: nowhere.
  virtual void SetEngine(std::shared_ptr<PipelineEngine> engine) = 0;
  virtual void Close(const std::string& why) = 0;
};

// Carries the plans of one epoch to all of its ranks. Used by the engine's thread.
class PlanTransport {
 public:
  virtual ~PlanTransport() = default;
  // False when a rank cannot be reached any more: then the epoch is over.
  virtual bool Dispatch(const StepPlan& plan) = 0;
};
std::unique_ptr<PlanTransport> MakePlanTransport(std::vector<std::shared_ptr<WorkerLink>> ranks);

struct PipelineSnapshot {
  PipelineId pipeline;
  Epoch epoch;
  std::string model;
  std::string model_digest;
  std::string architecture;
  bool ready = false;
  int64_t max_model_len = 0;
  int block_tokens = 0;
  int blocks_total = 0;
  int blocks_used = 0;
  int running = 0;
  int waiting = 0;
  std::string numerics_profile;
  int vocabulary = 0;
  int max_queued_requests = 0;
  int64_t created_unix_s = 0;
  int64_t preemptions = 0;
  int64_t prefix_hit_tokens = 0;
  int64_t prefix_query_tokens = 0;
  bool epoch_closed = false;
  PipelineId kv_moved_to;
  int64_t predicted_wait_ms = 0;
  std::string numerics;        // see NumericsOf
  bool takes_replays = false;  // of streams that were accepted before; also while it drains
};

struct Snapshot {
  uint64_t version = 0;
  std::vector<PipelineSnapshot> pipelines;
};

struct StepTokens {
  PipelineId pipeline;
  Epoch epoch;
  StepNumber step;
};

// One router's stream.
class RouterLink {
 public:
  virtual ~RouterLink() = default;
  virtual void SendHello(bool leads, const std::string& leader_address) = 0;
  virtual void SendTokens(const StepTokens& head, std::span<ChoiceOutput* const> outputs) = 0;
  virtual void SendRefused(const Refusal& refusal) = 0;
  virtual void SendDeaths(std::span<const DeathNotice> notices) = 0;
  virtual void SendSnapshot(const Snapshot& snapshot) = 0;
  // Somebody looks at its status page: it wants the cluster with each snapshot.
  virtual bool watching() const { return false; }
  virtual void SendCluster(const ClusterView&) {}
  virtual void Close(const std::string& why) = 0;
};

// Who is attached. Thread-safe.
class RouterDirectory {
 public:
  RouterId Add(std::shared_ptr<RouterLink> link) {
    MutexLock lock(&mutex_);
    const RouterId id(next_++);
    links_.emplace(id, std::move(link));
    return id;
  }
  void Remove(RouterId id) {
    MutexLock lock(&mutex_);
    links_.erase(id);
  }
  std::shared_ptr<RouterLink> Find(RouterId id) const {
    MutexLock lock(&mutex_);
    const auto found = links_.find(id);
    return found == links_.end() ? nullptr : found->second;
  }
  std::vector<std::shared_ptr<RouterLink>> All() const {
    MutexLock lock(&mutex_);
    std::vector<std::shared_ptr<RouterLink>> all;
    for (const auto& [id, link] : links_) all.push_back(link);
    return all;
  }

 private:
  mutable Mutex mutex_;
  uint64_t next_ ABSL_GUARDED_BY(mutex_) = 1;
  std::unordered_map<RouterId, std::shared_ptr<RouterLink>> links_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace pagoda::coordinator
