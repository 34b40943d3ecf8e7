#include "router/policy/policy.h"

#include <algorithm>
#include <tuple>
#include <vector>

namespace pagoda::router {
namespace {

PipelineLoad LoadOf(const PipelineLoads& loads, PipelineKey key) {
  const auto found = loads.find(key);
  return found == loads.end() ? PipelineLoad{} : found->second;
}

// It is there, or may be assembled again, and is large enough.
bool OfItsNumericsIsThere(const RouteRequest& request, const ClusterView& view) {
  return std::ranges::any_of(view.pipelines, [&](const PipelineView& pipeline) {
    return IsOfItsModel(request, pipeline) && SameNumerics(pipeline.numerics, request.numerics) && request.total_tokens <= pipeline.max_model_len;
  });
}

bool IsOfOtherNumerics(const RouteRequest& request, const PipelineView& pipeline) {
  return !request.numerics.empty() && !SameNumerics(pipeline.numerics, request.numerics);
}

}  // namespace

bool IsOfItsModel(const RouteRequest& request, const PipelineView& pipeline) {
  return pipeline.model == request.model && pipeline.digest == request.digest;
}

bool CanServe(const RouteRequest& request, const ClusterView& view, const PipelineView& pipeline) {
  const bool takes_it = pipeline.ready || (request.accepted && pipeline.takes_replays);
  if (!takes_it || !IsOfItsModel(request, pipeline) || request.total_tokens > pipeline.max_model_len) return false;
  if (!IsOfOtherNumerics(request, pipeline)) return true;
  return !request.only_its_numerics && (!request.keeps_numerics || !OfItsNumericsIsThere(request, view));
}

RouteCost CostOf(const RouteRequest& request, const PipelineView& pipeline,
                 const PipelineLoad& load, double mean_load_tokens, const PrefixIndex& prefixes,
                 const PolicyOptions& options) {
  RouteCost cost;
  cost.load_tokens = load.tokens + options.tokens_per_waiting_request * pipeline.waiting;
  const double cap =
      options.cap_factor * mean_load_tokens + static_cast<double>(options.cap_slack_tokens);
  if (static_cast<double>(cost.load_tokens) <= cap) {
    const int64_t matched = prefixes.MatchedBlocks(request.chain, pipeline.key);
    cost.cached_tokens = std::min(matched * pipeline.block_tokens, request.prompt_tokens);
  }
  cost.total = static_cast<double>(cost.load_tokens + request.prompt_tokens - cost.cached_tokens);
  return cost;
}

std::optional<PipelineKey> ChoosePipeline(const RouteRequest& request, const ClusterView& view,
                                          const PipelineLoads& loads, const PrefixIndex& prefixes,
                                          const PolicyOptions& options) {
  double sum = 0;
  std::vector<const PipelineView*> candidates;
  for (const PipelineView& pipeline : view.pipelines) {
    if (!CanServe(request, view, pipeline)) continue;
    sum += static_cast<double>(LoadOf(loads, pipeline.key).tokens +
                               options.tokens_per_waiting_request * pipeline.waiting);
    candidates.push_back(&pipeline);
  }
  if (candidates.empty()) return std::nullopt;
  const double mean = sum / static_cast<double>(candidates.size());

  // Smallest first: avoided ones last, other numerics before them, then what drains, then cost, then whose turn it is.
  using Rank = std::tuple<bool, bool, bool, double, uint64_t>;
  std::optional<PipelineKey> best;
  Rank best_rank;
  for (const PipelineView* candidate : candidates) {
    const PipelineView& pipeline = *candidate;
    const PipelineLoad load = LoadOf(loads, pipeline.key);
    const bool avoided = std::ranges::count(request.avoid, pipeline.key) > 0;
    const Rank rank{avoided, IsOfOtherNumerics(request, pipeline), !pipeline.ready,
                    CostOf(request, pipeline, load, mean, prefixes, options).total,
                    load.last_choice};
    if (!best || rank < best_rank) {
      best = pipeline.key;
      best_rank = rank;
    }
  }
  return best;
}

}  // namespace pagoda::router
