// One worker process of a simulated cluster: the real slot table and KV record, plans that went over the real wire types, and
// the toy model in place of kernels. What the real engine does in threads and blocking waits is a state machine here: a plan is
// applied, waits for its input, computes for a while, sends on.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "coordinator/cluster_records.h"
#include "pagoda/internal/v1/worker.pb.h"
#include "tests/sim/network.h"
#include "worker/engine/kv_record.h"
#include "worker/engine/slot_table.h"

namespace pagoda::sim {

class Cluster;

class SimWorker {
 public:
  SimWorker(Cluster& cluster, Life life);

  const std::string& name() const { return name_; }
  Life life() const { return life_; }

  void Leave();  // SIGTERM

  // From the coordinator's stream.
  void OnWelcome();
  void OnNotLeader(const std::string& leader);
  void OnAssignment(coordinator::Assignment assignment);
  void OnLinkUp(coordinator::SendLinkUp link_up);
  void OnRelease(Epoch epoch, bool keep_weights);
  void OnPlan(const internal::v1::StepPlan& plan);

  // From a peer of the data plane.
  struct Hidden {
    std::vector<uint64_t> rows;
  };
  struct Tokens {
    std::vector<std::pair<int, TokenId>> samples;  // slot, token
  };
  void OnHidden(Epoch epoch, uint64_t step, Hidden hidden);
  void OnTokens(Epoch epoch, uint64_t step, Tokens tokens);
  void OnGathered(Epoch epoch, uint64_t step, int rank);

 private:
  enum class Phase { kIdle, kForks, kTokens, kHidden, kCompute, kGroup };
  struct Pending {  // samples whose tokens are on their way to stage 0
    uint64_t step = 0;
    struct Sample {
      int slot = 0;
      uint64_t generation = 0;
      int position = 0;
    };
    std::vector<Sample> samples;
  };
  struct Rows {  // of one sequence, or of one chain of a rebuild
    int first_position = 0;
    int count = 0;
    std::vector<int32_t> blocks;
  };

  void Connect();
  void OnStreamLost();
  void Beat();
  void Report(coordinator::LoadPhase phase, bool whole);
  void Fault(const std::string& what);
  void EndEpoch();

  const coordinator::PlacedStage& stage() const { return assignment_->stages[static_cast<size_t>(assignment_->stage)]; }
  int stages() const { return static_cast<int>(assignment_->stages.size()); }
  bool first() const { return assignment_->stage == 0; }
  bool last() const { return assignment_->stage + 1 == stages(); }

  // The current plan.
  void Pump();
  bool Wait(Phase phase, const std::string& what);
  void Begin();
  void Apply();
  void PlaceRows();
  size_t StepsForForks() const;
  size_t StepsForRows();
  bool TakeTokens(size_t steps);
  bool TakeInput();
  void TakeRowTokens();
  void Compute();
  void RunLayers();
  void SendOn();
  worker::SampledToken Sample(const worker::StepPlan& plan, const worker::PlanSample& sample);
  void Finish();
  bool Runs() const;
  bool Feeds() const;
  void SendHidden(const std::vector<uint64_t>& rows);
  uint64_t& Kv(int layer, int32_t block, int offset);

  Cluster& cluster_;
  World& world_;
  const Life life_;
  const std::string name_;
  const uint64_t incarnation_;

  std::shared_ptr<Stream> stream_;
  std::optional<Life> coordinator_;
  int next_coordinator_ = 0;
  bool leaving_ = false;

  // What stays over epochs.
  std::string shard_;
  std::string kv_shape_;
  std::vector<uint64_t> kv_;  // [layers of the stage, blocks, block_tokens]
  std::unique_ptr<worker::KvRecord> record_;

  // Of the epoch.
  std::optional<coordinator::Assignment> assignment_;
  std::vector<coordinator::LinkPeer> peers_;
  bool linked_ = false;
  std::unique_ptr<worker::SlotTable> slots_;
  std::deque<worker::StepPlan> plans_;
  uint64_t last_step_ = 0;
  std::deque<Pending> pending_;
  std::map<uint64_t, Hidden> hidden_;
  std::map<uint64_t, Tokens> tokens_;
  std::map<uint64_t, std::vector<int>> gathered_;
  uint64_t epoch_life_ = 0;  // tells an event of an older epoch apart

  // Of the plan in progress.
  Phase phase_ = Phase::kIdle;
  int64_t waiting_since_ns_ = 0;
  std::string waiting_for_;
  std::vector<Rows> rows_;
  std::vector<TokenId> row_tokens_;
  int64_t compute_us_ = 0;
  std::vector<uint64_t> values_;  // [rows]: going in, then coming out
};

}  // namespace pagoda::sim
