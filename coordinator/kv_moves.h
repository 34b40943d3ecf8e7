// The moves of KV under way (kv_move.h): from which pipeline to which, who still fills, what it takes. Plain state, no clock; the
// control thread's.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <vector>

#include "common/ids.h"
#include "coordinator/cluster_state.h"
#include "coordinator/kv_move.h"

namespace pagoda::coordinator {

// The pipeline that takes what runs on `from`, or nothing: of the same deployment and the very same shards, ready, not `leaving`
// itself, with workers that know how on both sides. The one that runs least.
std::optional<PipelineId> ChooseKvPeer(const ClusterState& cluster, PipelineId from, const std::set<PipelineId>& leaving,
                                       const std::map<PipelineId, int>& running);

// The most bytes of one block that a rank of the pipeline holds.
int64_t KvBlockBytesOf(const ClusterState& cluster, const PipelineRecord& pipeline);

struct KvMove {
  uint64_t id = 0;
  PipelineId from;
  PipelineId to;
  Epoch from_epoch;
  Epoch to_epoch;
  int64_t began_ns = 0;
  bool reserving = false;            // the other's scheduler was asked
  std::set<WorkerId> awaited;        // ranks that fill; empty: not told yet, or done
  std::vector<WorkerId> filling;     // all that were told
  int64_t blocks = 0;
  int64_t bytes = 0;                 // that came, over all ranks
  int64_t slowest_us = 0;            // rank
  int64_t slowest_bytes = 0;
  bool takes_all = false;
};

class KvMoves {
 public:
  // Requires that nothing moves from there yet.
  KvMove& Begin(PipelineId from, Epoch from_epoch, PipelineId to, Epoch to_epoch, int64_t now_ns);
  KvMove* Find(uint64_t id);
  const KvMove* From(PipelineId pipeline) const;
  void Erase(uint64_t id) { moves_.erase(id); }
  void Clear() { moves_.clear(); }
  // Moves that have this pipeline at either end, of the epoch.
  std::vector<uint64_t> Touching(PipelineId pipeline, Epoch epoch) const;
  std::vector<uint64_t> Late(int64_t now_ns) const;
  std::set<PipelineId> leaving() const;
  bool empty() const { return moves_.empty(); }

  // A rank says that its blocks are there. True: it was the last.
  static bool Filled(KvMove& move, WorkerId worker, int64_t bytes, int64_t took_us);

 private:
  uint64_t next_ = 1;
  std::map<uint64_t, KvMove> moves_;
};

// Bytes a second of one rank, assumed at first and measured from then on.
class KvMoveRate {
 public:
  void Observe(int64_t bytes, int64_t took_us);
  double BlockNs(int64_t block_bytes) const { return static_cast<double>(block_bytes) / bytes_per_s_ * 1e9; }

 private:
  double bytes_per_s_ = 200e6;
};

}  // namespace pagoda::coordinator
