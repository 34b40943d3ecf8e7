// Fills KV blocks of this rank from another worker's Blob service (ReadKvBlocks), one move at a time, on a thread of its own. What
// comes is checked block by block against what was asked for; what the window does not expect any more is not written.
// Thread rule: Pull from any thread, returns at once; `done` is called on the puller's thread, once for each.
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <thread>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "common/mutex.h"
#include "security/cluster_tls.h"
#include "worker/kv/kv_window.h"

namespace grpc {
class ClientContext;
}

namespace pagoda::worker {

class KvPuller {
 public:
  using Done = std::function<void(KvFilled)>;

  KvPuller(std::shared_ptr<KvWindow> window, security::SharedTls tls);
  ~KvPuller();  // gives up what is under way

  void Pull(KvFill fill, Done done);

 private:
  void Run();
  KvFilled Fetch(const KvFill& fill);
  absl::Status Read(const KvFill& fill, const KvWindow::Facts& facts, int64_t& bytes);

  const std::shared_ptr<KvWindow> window_;
  const security::SharedTls tls_;
  Mutex mutex_;
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;
  std::deque<std::pair<KvFill, Done>> queue_ ABSL_GUARDED_BY(mutex_);
  grpc::ClientContext* context_ ABSL_GUARDED_BY(mutex_) = nullptr;  // of the call under way, for cancelling
  std::thread thread_;
};

}  // namespace pagoda::worker
