#include "kernels/cuda/slice_plan.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "kernels/numerics.h"

namespace pagoda::kernels::cuda {

absl::StatusOr<SlicePlan> PlanSlices(const std::vector<int64_t>& cuts, const PackOptions& options) {
  const int shards = static_cast<int>(cuts.size()) - 1;
  for (size_t i = 0; i < cuts.size(); ++i) {
    if (cuts[i] < 0 || cuts[i] % kQuantBlock != 0 || (i > 0 && cuts[i] <= cuts[i - 1])) {
      return absl::InvalidArgumentError(absl::StrCat("pack: shard border ", cuts[i]));
    }
  }
  std::vector<ShardRange> planes = options.planes;
  if (planes.empty()) planes = {{options.first_shard, options.first_shard + shards}};
  SlicePlan plan;
  plan.planes = static_cast<int>(planes.size());
  int next = options.first_shard, depth = 0;
  for (size_t p = 0; p < planes.size(); ++p) {
    if (planes[p].begin != next || planes[p].size() <= 0 || planes[p].end > options.first_shard + shards) {
      return absl::InvalidArgumentError(absl::StrCat("pack: plane ", p, " is [", planes[p].begin, ", ", planes[p].end,
                                                     "), but the planes must follow each other from shard ",
                                                     options.first_shard));
    }
    next = planes[p].end;
    const std::vector<int> adds = AddsAfterLeaf(planes[p]);
    for (size_t i = 0; i < adds.size(); ++i) {
      const size_t shard = static_cast<size_t>(planes[p].begin - options.first_shard) + i;
      const int begin = static_cast<int>((cuts[shard] - cuts[0]) / kQuantBlock);
      const int end = static_cast<int>((cuts[shard + 1] - cuts[0]) / kQuantBlock);
      const int length = SliceBlocks(end - begin);
      for (int at = begin; at < end; at += length) plan.steps.push_back({.end_block = std::min(end, at + length)});
      SliceStep& last = plan.steps.back();
      const bool complete = i + 1 == adds.size();
      last.ends_shard = 1;
      last.adds = static_cast<int8_t>(adds[i]);
      last.plane = complete ? static_cast<int16_t>(p) : int16_t{-1};
      depth += (complete ? 0 : 1) - adds[i];
      plan.max_depth = std::max(plan.max_depth, depth);
    }
  }
  if (next != options.first_shard + shards) return absl::InvalidArgumentError("pack: the planes do not cover all shards");
  return plan;
}

}  // namespace pagoda::kernels::cuda
