// The store that simulated coordinators share: a lease on the leadership with a term, fenced writes, and outages. As strict as
// the real ones: a write of whoever does not lead any more is refused, and an epoch is never given twice.
#pragma once

#include <map>
#include <optional>
#include <string>

#include "coordinator/cluster_records.h"
#include "tests/sim/world.h"

namespace pagoda::sim {

enum class StoreAnswer { kOk, kNotLeader, kUnreachable };

class SimStore {
 public:
  SimStore(World& world, int64_t lease_ns) : world_(world), lease_ns_(lease_ns) {}

  void SetReachable(bool reachable) { reachable_ = reachable; }
  int64_t lease_ns() const { return lease_ns_; }

  struct Campaigned {
    StoreAnswer answer = StoreAnswer::kOk;
    uint64_t term = 0;       // of the candidate, when it leads now
    std::string leader;      // whoever leads
  };
  Campaigned Campaign(const std::string& name) {
    if (!reachable_) return {StoreAnswer::kUnreachable, 0, ""};
    if (world_.now_ns() < expires_ns_) return {StoreAnswer::kOk, 0, leader_};
    leader_ = name;
    expires_ns_ = world_.now_ns() + lease_ns_;
    return {StoreAnswer::kOk, ++term_, leader_};
  }
  StoreAnswer Renew(uint64_t term) {
    if (!reachable_) return StoreAnswer::kUnreachable;
    if (term != term_) return StoreAnswer::kNotLeader;
    expires_ns_ = world_.now_ns() + lease_ns_;
    return StoreAnswer::kOk;
  }
  void Resign(uint64_t term) {
    if (reachable_ && term == term_) expires_ns_ = 0;
  }

  StoreAnswer AdvanceEpoch(uint64_t term, Epoch epoch) {
    const StoreAnswer answer = MayWrite(term);
    if (answer != StoreAnswer::kOk) return answer;
    if (epoch.value() <= last_epoch_) return StoreAnswer::kNotLeader;
    if (world_.TakeSpoil("epoch")) return StoreAnswer::kOk;  // and forgotten
    last_epoch_ = epoch.value();
    return StoreAnswer::kOk;
  }
  StoreAnswer PutPipeline(uint64_t term, const coordinator::RestoredPipeline& pipeline) {
    const StoreAnswer answer = MayWrite(term);
    if (answer != StoreAnswer::kOk) return answer;
    last_pipeline_ = std::max(last_pipeline_, pipeline.id.value());
    pipelines_[pipeline.id] = pipeline;
    return answer;
  }
  StoreAnswer ForgetPipeline(uint64_t term, PipelineId id) {
    const StoreAnswer answer = MayWrite(term);
    if (answer == StoreAnswer::kOk) pipelines_.erase(id);
    return answer;
  }

  bool Takes(uint64_t term) const { return MayWrite(term) == StoreAnswer::kOk; }
  bool reachable() const { return reachable_; }
  uint64_t last_epoch() const { return last_epoch_; }
  uint64_t last_pipeline() const { return last_pipeline_; }
  std::vector<coordinator::RestoredPipeline> pipelines() const {
    std::vector<coordinator::RestoredPipeline> all;
    for (const auto& [id, pipeline] : pipelines_) all.push_back(pipeline);
    return all;
  }

 private:
  StoreAnswer MayWrite(uint64_t term) const {
    if (!reachable_) return StoreAnswer::kUnreachable;
    return term == term_ ? StoreAnswer::kOk : StoreAnswer::kNotLeader;
  }

  World& world_;
  const int64_t lease_ns_;
  bool reachable_ = true;
  std::string leader_;
  uint64_t term_ = 0;
  int64_t expires_ns_ = 0;
  uint64_t last_epoch_ = 0;
  uint64_t last_pipeline_ = 0;
  std::map<PipelineId, coordinator::RestoredPipeline> pipelines_;
};

}  // namespace pagoda::sim
