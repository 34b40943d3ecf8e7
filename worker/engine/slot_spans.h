// Spans of a rank's work for sampled requests: one for the prefill and one for the decode of each slot, from the begin of its
// first step to the end of its last, with how much of that this rank computed and waited. Made when the phase ends; nothing is
// done for requests that are not sampled. Owner and thread: the engine's.
#pragma once

#include <string>
#include <unordered_map>

#include "common/trace.h"
#include "worker/comm/transport.h"
#include "worker/engine/step_monitor.h"
#include "worker/engine/step_plan.h"

namespace pagoda::worker {

class SlotSpans {
 public:
  explicit SlotSpans(Tracer* tracer) : tracer_(tracer) {}  // null: off

  struct Rank {
    PipelineId pipeline;
    Epoch epoch;
    PeerId self;
    int layer_begin = 0;
    int layer_end = 0;
  };
  void OnStep(const Rank& rank, const StepPlan& plan, MonotonicNs begin_ns, MonotonicNs end_ns, const StepTimes& times);
  // A slot's end comes with the next plan, and there may be none for long: what has rested for a while is told.
  void OnIdle(MonotonicNs now_ns);
  bool open() const;  // something is to be told
  void EndEpoch();  // what is open ends here

 private:
  struct Phase {
    bool prefill = true;
    MonotonicNs begin_ns = 0;
    MonotonicNs end_ns = 0;
    int64_t steps = 0;
    int64_t rows = 0;
    int64_t compute_ns = 0;
    int64_t wait_ns = 0;
  };
  struct Slot {
    TraceContext trace;
    int choice = 0;
    int known_tokens = 0;  // of the history: rows before it are prefill
    Phase phase;
  };
  void Close(Slot& slot);

  Tracer* const tracer_;
  Rank rank_;
  std::unordered_map<int, Slot> slots_;  // sampled ones
};

}  // namespace pagoda::worker
