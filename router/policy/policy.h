// Where a request goes: a pure function of the request, the picture of the cluster, and this
// router's own counts. Least load in tokens, where a prompt's blocks that a pipeline probably holds
// count as done, but never past a hard cap on load: affinity without one puts every prefix group on
// one backend.
#pragma once

#include <optional>
#include <span>
#include <string_view>

#include "absl/container/flat_hash_map.h"
#include "router/cluster_view.h"
#include "router/policy/prefix_index.h"

namespace pagoda::router {

// What this router has under way at one pipeline.
struct PipelineLoad {
  int64_t tokens = 0;  // prompt and output tokens of requests in flight
  int64_t requests = 0;
  uint64_t last_choice = 0;  // sequence number of the last request sent there; breaks ties in turn
};
using PipelineLoads = absl::flat_hash_map<PipelineKey, PipelineLoad>;

struct RouteRequest {
  std::string_view model = {};
  std::string_view digest = {};
  int64_t prompt_tokens = 0;
  int64_t total_tokens = 0;                 // prompt + max_tokens: must fit in max_model_len
  std::span<const BlockHash> chain = {};    // of the prompt; empty: no affinity
  bool accepted = false;            // before, here or elsewhere: may go to a pipeline that drains
  std::string_view numerics = {};   // by which the tokens that it has were made; empty: it has none
  bool only_its_numerics = false;   // none at all rather than others
  bool keeps_numerics = true;       // as long as there is a pipeline of them, be it ready or not
  std::span<const PipelineKey> avoid =
      {};  // have just refused or lost this request; taken only when nothing else is left
};

struct PolicyOptions {
  // A pipeline whose load is above cap_factor x the mean + cap_slack_tokens gets no credit for its
  // prefixes.
  double cap_factor = 1.5;
  int64_t cap_slack_tokens = 2048;
  int64_t tokens_per_waiting_request = 256;  // weight of what other routers queued there
};

// Serves the request's model, whatever its state.
bool IsOfItsModel(const RouteRequest& request, const PipelineView& pipeline);

// It takes the request now, as far as the picture tells. A pipeline of other numerics takes a stream that has tokens only when none of
// its own is left (see `keeps_numerics`): what comes then are not the tokens that it would have had.
bool CanServe(const RouteRequest& request, const ClusterView& view, const PipelineView& pipeline);

// nullopt: no pipeline serves the request now.
std::optional<PipelineKey> ChoosePipeline(const RouteRequest& request, const ClusterView& view,
                                          const PipelineLoads& loads, const PrefixIndex& prefixes,
                                          const PolicyOptions& options);

// The cost that ChoosePipeline minimises, in tokens.
struct RouteCost {
  int64_t load_tokens = 0;
  int64_t cached_tokens = 0;  // credit, zero above the cap
  double total = 0;
};
RouteCost CostOf(const RouteRequest& request, const PipelineView& pipeline,
                 const PipelineLoad& load, double mean_load_tokens, const PrefixIndex& prefixes,
                 const PolicyOptions& options);

}  // namespace pagoda::router
