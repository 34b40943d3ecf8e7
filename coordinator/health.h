// gRPC health that means forward progress. "" (liveness): the control thread goes round. "pagoda.v1.Admin",
// "pagoda.internal.v1.Pipeline" and "pagoda.internal.v1.WorkerControl" (readiness): and this coordinator leads.
// One thread of its own that looks twice a second.
#pragma once

#include <thread>

#include "absl/base/thread_annotations.h"
#include "common/mutex.h"

namespace grpc {
class HealthCheckServiceInterface;
}

namespace pagoda::coordinator {

class Coordinator;

class HealthReporter {
 public:
  // Both outlive it.
  HealthReporter(const Coordinator& coordinator, grpc::HealthCheckServiceInterface& service);
  ~HealthReporter();  // says NOT_SERVING of all

 private:
  void Run();

  const Coordinator& coordinator_;
  grpc::HealthCheckServiceInterface& service_;
  Mutex mutex_;
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace pagoda::coordinator
