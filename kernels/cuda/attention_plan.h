// Cuts a step's attention into units for warps (attention.cuh). Whether a sequence is split changes no bit, so it may depend on how
// busy the device is. Pure function.
#pragma once

#include <vector>

#include "kernels/backend.h"
#include "kernels/cuda/kernels.h"

namespace pagoda::kernels::cuda {

struct AttentionPlan {
  std::vector<AttentionUnit> units;
  std::vector<AttentionJoin> joins;
  int partials = 0;  // vectors of all chunks that were split
};
// `warps`: how many the device runs at once.
AttentionPlan PlanAttention(const StepRows& step, const AttentionParams& params, int warps);

}  // namespace pagoda::kernels::cuda
