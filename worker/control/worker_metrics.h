// The worker's Prometheus metrics, by model, stage and rank. Thread-safe.
#pragma once

#include <prometheus/registry.h>

#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "worker/engine/engine.h"

namespace pagoda::worker {

class WorkerMetrics {
 public:
  WorkerMetrics();
  ~WorkerMetrics();
  std::shared_ptr<prometheus::Registry> registry() const;

  void OnStep(const Assignment& assignment, const StepTimes& times, const Transport::Counters& counters);
  void OnLoad(const LoadReport& report);
  void OnFault();
  void OnLeft();
  void SetConnected(bool connected);
  // Registered, and not on the way to a running pipeline: idle, or linked with the others of its pipeline.
  bool Ready() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace pagoda::worker
