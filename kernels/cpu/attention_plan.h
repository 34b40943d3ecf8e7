// Cuts the attention of a step into tasks: one KV head, consecutive rows of one sequence, and the query heads that read the
// KV head, at most kAttendVectors query vectors. Pure function.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/backend.h"
#include "kernels/cpu/kernel_table.h"

namespace pagoda::kernels::cpu {

struct AttendPart {
  int sequence = 0;
  int row = 0;  // within the sequence
  int rows = 0;
  int kv_head = 0;
  int first_head = 0;  // in the order of HeadOrder
  int heads = 0;
};
struct AttendPlan {
  std::vector<int32_t> head_order;  // query heads sorted by the KV head that they read
  std::vector<AttendPart> parts;
};
AttendPlan PlanAttention(const StepRows& step, const AttentionParams& params, int threads);

}  // namespace pagoda::kernels::cpu
