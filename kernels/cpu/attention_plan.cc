#include "kernels/cpu/attention_plan.h"

#include <algorithm>

namespace pagoda::kernels::cpu {

AttendPlan PlanAttention(const StepRows& step, const AttentionParams& params, int threads) {
  AttendPlan plan;
  std::vector<int> first(params.kv_heads + 1, 0);
  for (int kv = 0; kv < params.kv_heads; ++kv) {
    first[kv] = static_cast<int>(plan.head_order.size());
    for (int h = 0; h < params.query_heads; ++h) {
      if (params.kv_head_of[h] == kv) plan.head_order.push_back(h);
    }
  }
  first[params.kv_heads] = static_cast<int>(plan.head_order.size());

  // Few rows: heads of one KV head are also shared out, at the price of reading K and V more than once.
  const bool split_heads = step.rows * params.kv_heads < 4 * threads && threads > 1;
  for (size_t s = 0; s < step.sequences.size(); ++s) {
    const int rows = step.sequences[s].rows;
    for (int kv = 0; kv < params.kv_heads; ++kv) {
      const int group = split_heads ? 1 : kAttendVectors;
      for (int h = first[kv]; h < first[kv + 1]; h += group) {
        const int heads = std::min(group, first[kv + 1] - h);
        const int at_once = kAttendVectors / heads;
        for (int row = 0; row < rows; row += at_once) {
          plan.parts.push_back({static_cast<int>(s), row, std::min(at_once, rows - row), kv, h, heads});
        }
      }
    }
  }
  return plan;
}

}  // namespace pagoda::kernels::cpu
