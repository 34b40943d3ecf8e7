// How the blocks of a product are cut into slices (numerics.h) and in which order slices and shards are added. Pure function.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "kernels/cuda/kernels.h"

namespace pagoda::kernels::cuda {

struct SlicePlan {
  std::vector<SliceStep> steps;
  int planes = 1;
  int max_depth = 0;  // of the stack of unfinished subtrees
};
// `cuts`: the shards' borders in columns, multiples of 32.
absl::StatusOr<SlicePlan> PlanSlices(const std::vector<int64_t>& cuts, const PackOptions& options);

}  // namespace pagoda::kernels::cuda
