#include "worker/engine/slot_spans.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace pagoda::worker {
namespace {

constexpr int64_t kRestNs = kNsPerSecond;

}  // namespace

void SlotSpans::OnStep(const Rank& rank, const StepPlan& plan, MonotonicNs begin_ns, MonotonicNs end_ns,
                       const StepTimes& times) {
  if (tracer_ == nullptr) return;
  rank_ = rank;
  for (const StartSlot& start : plan.starts) {
    const auto earlier = slots_.find(start.slot);
    if (earlier != slots_.end()) Close(earlier->second);
    slots_.erase(start.slot);
    if (start.trace.sampled()) {
      slots_[start.slot] = {.trace = start.trace,
                            .choice = start.choice,
                            .known_tokens = static_cast<int>(start.history.size()),
                            .phase = {}};
    }
  }
  if (slots_.empty()) return;
  for (const PlanRows& rows : plan.rows) {
    const auto found = slots_.find(rows.slot);
    if (found == slots_.end()) continue;
    Slot& slot = found->second;
    const bool prefill = rows.first_position < slot.known_tokens;
    if (slot.phase.steps > 0 && slot.phase.prefill != prefill) Close(slot);
    Phase& phase = slot.phase;
    if (phase.steps == 0) phase.begin_ns = begin_ns;
    phase.prefill = prefill;
    phase.end_ns = end_ns;
    ++phase.steps;
    phase.rows += rows.count;
    phase.compute_ns += times.compute_ns;
    phase.wait_ns += times.wait_in_ns + times.group_wait_ns;
  }
  for (const int slot : plan.ends) {
    const auto found = slots_.find(slot);
    if (found == slots_.end()) continue;
    Close(found->second);
    slots_.erase(found);
  }
}

bool SlotSpans::open() const {
  return std::any_of(slots_.begin(), slots_.end(), [](const auto& entry) { return entry.second.phase.steps > 0; });
}

void SlotSpans::OnIdle(MonotonicNs now_ns) {
  for (auto& [number, slot] : slots_) {
    if (slot.phase.steps > 0 && now_ns - slot.phase.end_ns > kRestNs) Close(slot);
  }
}

void SlotSpans::EndEpoch() {
  for (auto& [number, slot] : slots_) Close(slot);
  slots_.clear();
}

void SlotSpans::Close(Slot& slot) {
  const Phase phase = slot.phase;
  slot.phase = {};
  if (phase.steps == 0) return;
  Span span;
  span.self = slot.trace;
  span.self.span = tracer_->NewSpanId();
  span.parent = slot.trace.span;
  span.name = absl::StrCat("stage ", rank_.self.stage, phase.prefill ? " prefill" : " decode");
  span.start_ns = phase.begin_ns;
  span.end_ns = phase.end_ns;
  span.attributes = {{"pagoda.pipeline", static_cast<int64_t>(rank_.pipeline.value())},
                     {"pagoda.epoch", static_cast<int64_t>(rank_.epoch.value())},
                     {"pagoda.stage", int64_t{rank_.self.stage}},
                     {"pagoda.rank", int64_t{rank_.self.rank}},
                     {"pagoda.choice", int64_t{slot.choice}},
                     {"pagoda.layers", absl::StrCat(rank_.layer_begin, "-", rank_.layer_end - 1)},
                     {"pagoda.steps", phase.steps},
                     {"pagoda.rows", phase.rows},
                     {"pagoda.compute_ms", static_cast<double>(phase.compute_ns) / 1e6},
                     {"pagoda.wait_ms", static_cast<double>(phase.wait_ns) / 1e6}};
  tracer_->Record(std::move(span));
}

}  // namespace pagoda::worker
