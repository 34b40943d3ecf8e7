// An immutable picture of all pipelines of all coordinators that this router is attached to. Value
// type.
#pragma once

#include <compare>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "common/ids.h"

namespace pagoda::router {

// A pipeline id is unique within its coordinator only.
struct PipelineKey {
  int link = -1;
  PipelineId pipeline;
  auto operator<=>(const PipelineKey&) const = default;
  template <typename H>
  friend H AbslHashValue(H state, const PipelineKey& key) {
    return H::combine(std::move(state), key.link, key.pipeline);
  }
};

struct PipelineView {
  PipelineKey key;
  Epoch epoch;
  std::string model;
  std::string digest;
  std::string architecture;
  bool ready = false;           // takes new work
  bool takes_replays = false;   // of streams that were accepted before; also while it drains
  int64_t max_model_len = 0;
  int block_tokens = 16;
  int blocks_total = 0;
  int blocks_used = 0;
  int running = 0;
  int waiting = 0;
  std::string numerics_profile;
  std::string numerics;  // what tokens depend on beside request and weights; empty: not known yet
  int vocabulary = 0;
  int max_queued_requests = 0;
  int64_t created_unix_s = 0;
  int64_t preemptions = 0;
  int64_t prefix_hit_tokens = 0;
  int64_t prefix_query_tokens = 0;
  bool epoch_closed = false;  // it was lost, and may be assembled again
  PipelineId kv_moved_to = {};  // who took the KV of what ran there; 0: nobody
  int64_t predicted_wait_ms = 0;
};

// A coordinator of protocol 1 tells the profile alone, which is how the whole begins.
inline bool SameNumerics(std::string_view a, std::string_view b) {
  const std::string_view shorter = a.size() < b.size() ? a : b;
  const std::string_view longer = a.size() < b.size() ? b : a;
  return longer == shorter || (!shorter.empty() && longer.starts_with(shorter) && longer[shorter.size()] == ' ');
}

struct ClusterView {
  std::vector<PipelineView> pipelines;

  const PipelineView* Find(PipelineKey key) const {
    for (const PipelineView& pipeline : pipelines) {
      if (pipeline.key == key) return &pipeline;
    }
    return nullptr;
  }
};

}  // namespace pagoda::router
