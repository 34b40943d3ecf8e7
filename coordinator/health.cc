#include "coordinator/health.h"

#include <grpcpp/health_check_service_interface.h>

#include "common/clock.h"
#include "coordinator/coordinator.h"

namespace pagoda::coordinator {
namespace {

constexpr absl::Duration kLookEvery = absl::Milliseconds(100);  // workers watch for a new leader
// It goes round four times a second; a store that does not answer may hold it up for its timeouts.
constexpr int64_t kHangsAfterNs = 15 * kNsPerSecond;

}  // namespace

HealthReporter::HealthReporter(const Coordinator& coordinator, grpc::HealthCheckServiceInterface& service)
    : coordinator_(coordinator), service_(service), thread_([this] { Run(); }) {}

HealthReporter::~HealthReporter() {
  {
    MutexLock lock(&mutex_);
    stop_ = true;
  }
  thread_.join();
  service_.SetServingStatus(false);
}

void HealthReporter::Run() {
  const int64_t begun_ns = NowNs();
  while (true) {
    const bool alive = NowNs() - std::max(begun_ns, coordinator_.last_tick_ns()) < kHangsAfterNs;
    service_.SetServingStatus("", alive);
    for (const char* name : {"pagoda.v1.Admin", "pagoda.internal.v1.Pipeline", "pagoda.internal.v1.WorkerControl"}) {
      service_.SetServingStatus(name, alive && coordinator_.leads());
    }
    MutexLock lock(&mutex_);
    if (mutex_.AwaitWithTimeout([this]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return stop_; }, kLookEvery)) return;
  }
}

}  // namespace pagoda::coordinator
