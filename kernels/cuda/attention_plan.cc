#include "kernels/cuda/attention_plan.h"

#include <algorithm>

namespace pagoda::kernels::cuda {
namespace {

constexpr int kVectors = 16;

struct Chunks {
  int first = 0;
  int last = 0;
  int count() const { return last - first + 1; }
};
// Of rows [first_row, last_row] of a sequence.
Chunks ChunksOf(const SequenceRows& sequence, int first_row, int last_row, int window) {
  const int64_t first_position = sequence.first_position + first_row, last_position = sequence.first_position + last_row;
  const int64_t visible = window > 0 ? std::max<int64_t>(0, first_position - window + 1) : 0;
  return {static_cast<int>(visible / kAttentionChunk), static_cast<int>(last_position / kAttentionChunk)};
}

}  // namespace

AttentionPlan PlanAttention(const StepRows& step, const AttentionParams& params, int warps) {
  std::vector<int> heads(static_cast<size_t>(params.kv_heads), 0);
  for (const int32_t kv : params.kv_head_of) ++heads[static_cast<size_t>(kv)];
  AttentionPlan plan;
  for (size_t s = 0; s < step.sequences.size(); ++s) {
    const SequenceRows& sequence = step.sequences[s];
    for (int kv = 0; kv < params.kv_heads; ++kv) {
      const int per_row = heads[static_cast<size_t>(kv)];
      for (int first = 0; per_row > 0 && first < sequence.rows * per_row; first += kVectors) {
        const int vectors = std::min(kVectors, sequence.rows * per_row - first);
        const Chunks chunks = ChunksOf(sequence, first / per_row, (first + vectors - 1) / per_row, params.sliding_window);
        plan.units.push_back({.sequence = static_cast<int32_t>(s),
                              .first_row = sequence.first_row,
                              .first_position = static_cast<int32_t>(sequence.first_position),
                              .kv_head = kv,
                              .first_vector = first,
                              .vectors = vectors,
                              .first_chunk = chunks.first,
                              .chunks = chunks.count(),
                              .partial = -1});
      }
    }
  }
  // The longest first: what starts last should be short. Split what would keep a warp busy after the others are done.
  const auto longer = [](const AttentionUnit& a, const AttentionUnit& b) { return a.chunks > b.chunks; };
  if (static_cast<int>(plan.units.size()) < warps) {
    std::vector<AttentionUnit> split;
    for (const AttentionUnit& unit : plan.units) {
      if (unit.chunks == 1) {
        split.push_back(unit);
        continue;
      }
      plan.joins.push_back({.first_row = unit.first_row,
                            .kv_head = unit.kv_head,
                            .first_vector = unit.first_vector,
                            .vectors = unit.vectors,
                            .partial = plan.partials,
                            .partials = unit.chunks});
      for (int c = 0; c < unit.chunks; ++c) {
        AttentionUnit part = unit;
        part.first_chunk = unit.first_chunk + c;
        part.chunks = 1;
        part.partial = plan.partials;
        plan.partials += unit.vectors;
        split.push_back(part);
      }
    }
    plan.units = std::move(split);
  }
  std::stable_sort(plan.units.begin(), plan.units.end(), longer);
  return plan;
}

}  // namespace pagoda::kernels::cuda
