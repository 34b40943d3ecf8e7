// Hears at once when another coordinator begins to lead: one Health.Watch on each, of the service that only a leader serves.
// A leader that was stopped or cut off says nothing, and its stream would be held until its keepalive fails.
//
// Thread rule: one thread for each address, all of which end in Stop (or the destructor).
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "common/mutex.h"
#include "security/cluster_tls.h"

namespace grpc {
class ClientContext;
}

namespace pagoda::worker {

class LeaderWatch {
 public:
  // `took_over(address)` for each change from "does not lead" to "leads" that a watch sees; what leads already when the watch
  // begins is no change. On a watch's thread.
  LeaderWatch(std::vector<std::string> addresses, security::SharedTls tls, std::function<void(const std::string&)> took_over);
  ~LeaderWatch();
  void Stop();

 private:
  void Watch(size_t index);

  const std::vector<std::string> addresses_;
  const security::SharedTls tls_;
  const std::function<void(const std::string&)> took_over_;
  Mutex mutex_;
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<grpc::ClientContext*> contexts_ ABSL_GUARDED_BY(mutex_);  // of the calls under way, for cancelling
  std::vector<std::thread> threads_;
};

}  // namespace pagoda::worker
