#include "router/policy/policy.h"

#include <algorithm>
#include <tuple>

namespace pagoda::router {
namespace {

PipelineLoad LoadOf(const PipelineLoads& loads, PipelineKey key) {
  const auto found = loads.find(key);
  return found == loads.end() ? PipelineLoad{} : found->second;
}

bool CanServe(const RouteRequest& request, const PipelineView& pipeline) {
  return pipeline.ready && pipeline.model == request.model && pipeline.digest == request.digest &&
         request.total_tokens <= pipeline.max_model_len;
}

}  // namespace

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
  int candidates = 0;
  for (const PipelineView& pipeline : view.pipelines) {
    if (!CanServe(request, pipeline)) continue;
    sum += static_cast<double>(LoadOf(loads, pipeline.key).tokens +
                               options.tokens_per_waiting_request * pipeline.waiting);
    ++candidates;
  }
  if (candidates == 0) return std::nullopt;
  const double mean = sum / candidates;

  // Smallest first: avoided ones last, another numerics profile before them, then cost, then whose
  // turn it is.
  using Rank = std::tuple<bool, bool, double, uint64_t>;
  std::optional<PipelineKey> best;
  Rank best_rank;
  for (const PipelineView& pipeline : view.pipelines) {
    if (!CanServe(request, pipeline)) continue;
    const PipelineLoad load = LoadOf(loads, pipeline.key);
    const bool avoided = std::ranges::count(request.avoid, pipeline.key) > 0;
    const bool other_profile = !request.preferred_profile.empty() &&
                               pipeline.numerics_profile != request.preferred_profile;
    const Rank rank{avoided, other_profile,
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
