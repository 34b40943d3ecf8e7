// A whole simulated cluster: processes, network, store, clients; faults by seed or by script; and what must hold whatever
// happens: every request ends once, with the tokens of an undisturbed run and none after a cancel; when it is quiet, no block
// is in use and nothing runs.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "coordinator/deployment.h"
#include "tests/sim/network.h"
#include "tests/sim/sim_client.h"
#include "tests/sim/sim_coordinator.h"
#include "tests/sim/sim_router.h"
#include "tests/sim/sim_store.h"
#include "tests/sim/sim_worker.h"

namespace pagoda::sim {

struct ClusterOptions {
  uint64_t seed = 1;
  int hosts = 3;
  int coordinators = 1;
  int routers = 1;
  int replicas = 1;
  int stages = 2;
  std::vector<int> tensor_parallel = {1};
  int spares = 0;
  int blocks = 24;
  int block_tokens = 4;
  int64_t max_model_len = 64;
  int max_step_rows = 16;
  int max_sequences = 6;
  int64_t replay_bytes = 1 << 20;  // of kept outputs, per worker; 0: none are kept
  int requests = 20;
  int repeating = 0;  // percent of the requests whose text repeats itself, so that its next tokens can be guessed
  int pace = 1;       // so many times slower than the toy is by itself: faults meet more streams
  int resumable = 0;  // percent of the clients that can come back for their stream
  int64_t arrivals_ns = 3 * kSecond;  // over which they come
  int64_t rest_ns = 15 * kSecond;     // of quiet at the end, before it is looked at what is left
};

class Cluster {
 public:
  explicit Cluster(const ClusterOptions& options);
  ~Cluster();

  World& world() { return world_; }
  Network& network() { return network_; }
  SimStore& store() { return store_; }
  const ClusterOptions& options() const { return options_; }
  const coordinator::DeploymentSpec& spec() const { return spec_; }
  const coordinator::ModelFacts& model() const { return model_; }

  void SetSpec(coordinator::DeploymentSpec spec) { spec_ = std::move(spec); }
  // As soon as there is a leader that can.
  void Apply(int activation_bits);

  // Faults; `process` is a name such as "worker-0".
  ProcessId Find(const std::string& process) const;  // -1: there is none
  void Kill(ProcessId process, int64_t restart_after_ns);
  void Pause(ProcessId process, int64_t for_ns);
  // SIGTERM: it leaves in its own order, and starts again so long after it has gone.
  void Drain(ProcessId process, int64_t restart_after_ns);
  void Slow(ProcessId process, int factor) { slowness_[process] = factor; }
  std::vector<ProcessId> ProcessesOf(char kind) const;  // 'w', 'c' or 'r'

  // Runs to `until_ns` or to the first violation.
  void RunUntil(int64_t until_ns);
  bool AllRequestsEnded() const;
  // Faults are over: everything must come to its end and to rest within `within_ns`.
  void Settle(int64_t within_ns);
  // What has happened, by name.
  std::map<std::string, int64_t> Counts() const;

  // Of the processes' own.
  void Exit(Life life);  // of one that was told to stop, and is ready to go
  void Count(const std::string& what, int64_t by = 1) { counts_[what] += by; }
  SimCoordinator* Reach(ProcessId from, int nth);            // the nth coordinator, if it can be reached
  SimCoordinator* CoordinatorOf(Life life);                  // null when that life is over
  int IndexOfCoordinator(const std::string& name) const;
  int coordinators() const { return options_.coordinators; }
  void SendToWorker(Life from, const coordinator::LinkPeer& peer, std::function<void(SimWorker&)> what);
  int SlownessOf(ProcessId process) const;
  SimRouter* RouterOf(int index);  // null while it is down or stopped
  SimRouter* RouterOfLife(Life life);
  void ToWorkerProcess(const std::shared_ptr<Stream>& stream, ProcessId from, Life worker, std::function<void(SimWorker&)> what);
  void ToRouterProcess(const std::shared_ptr<Stream>& stream, ProcessId from, Life router,
                       std::shared_ptr<internal::v1::CoordinatorMessage> message);
  void NameLink(Life router, const Stream* stream, int link);  // as the router calls it
  // A pipeline was lost, by no order. A request that was in flight in four of these may be quarantined (docs/reliability.md), and
  // its prompt is refused from then on.
  void NoteLoss() { losses_ns_.push_back(world_.now_ns()); }
  bool MayBeQuarantined(const std::vector<TokenId>& prompt, int64_t since_ns);
  void CheckEpoch(Epoch epoch, const std::string& coordinator);  // no two give out the same

 private:
  void Boot(ProcessId process);
  void AddClients();
  void Repeat(SimClient::Plan& plan);
  void MakeResumable(SimClient::Plan& plan, int number);

  const ClusterOptions options_;
  World world_;
  Network network_;
  SimStore store_;
  coordinator::DeploymentSpec spec_;
  coordinator::ModelFacts model_;
  std::vector<ProcessId> coordinator_ids_, worker_ids_, router_ids_;
  std::map<ProcessId, std::unique_ptr<SimCoordinator>> coordinators_;
  std::map<ProcessId, std::unique_ptr<SimWorker>> workers_;
  std::map<ProcessId, std::unique_ptr<SimRouter>> routers_;
  std::map<const Stream*, int> link_names_;
  std::map<uint64_t, std::string> epoch_owners_;
  std::map<ProcessId, int> slowness_;
  std::map<ProcessId, std::pair<Life, int64_t>> drained_;  // told to stop: which life, and for how long it stays away
  std::map<std::string, int64_t> counts_;
  std::vector<int64_t> losses_ns_;
  std::set<std::vector<TokenId>> quarantined_;
  std::vector<std::unique_ptr<SimClient>> clients_;
};

}  // namespace pagoda::sim
