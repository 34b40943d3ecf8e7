// The Prometheus series of one pipeline; they exist, at zero, from its creation. Thread-safe (as the series are).
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "coordinator/request.h"
#include "coordinator/scheduler.h"

namespace prometheus {
class Registry;
}

namespace pagoda::coordinator {

class EngineMetrics {
 public:
  EngineMetrics(prometheus::Registry& registry, const std::string& deployment, PipelineId pipeline);
  ~EngineMetrics();

  void Observe(const ChoiceOutput& output);
  void ObserveStep(double seconds);
  void Set(const SchedulerStats& stats, int leaked_blocks);
  void CountEpoch();
  void CountRefusal();
  void CountKvMove(KvMoveEnd end);  // of the pipeline that was left
  void CountKvBytes(int64_t bytes);  // of the one that took them

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace pagoda::coordinator
