// One UCX context and worker, configured for Pagoda, with its event descriptor. Owned by the
// transport and its thread.
#pragma once

#include <ucp/api/ucp.h>

#include <memory>
#include <string>

#include "worker/comm/ucx_transport.h"

namespace pagoda::worker {

absl::Status UcxError(ucs_status_t status, std::string_view doing);

// What UCX takes, out of a peer's UcxContext::address().
absl::StatusOr<std::string> RawUcxAddress(std::string_view address);

class UcxContext {
 public:
  static absl::StatusOr<std::unique_ptr<UcxContext>> Create(const UcxOptions& options);
  ~UcxContext();
  UcxContext(const UcxContext&) = delete;
  UcxContext& operator=(const UcxContext&) = delete;

  ucp_worker_h worker() const { return worker_; }
  const std::string& address() const { return address_; }
  // Sleeps until the worker has something to do, `wake_descriptor` is readable or `timeout` is
  // over. Returns at once when there is progress to be made.
  // True when `wake_descriptor` is readable.
  bool Sleep(int wake_descriptor, absl::Duration timeout);

 private:
  UcxContext() = default;
  absl::Status Start(const UcxOptions& options);

  ucp_context_h context_ = nullptr;
  ucp_worker_h worker_ = nullptr;
  int descriptor_ = -1;  // the worker's own
  std::string address_;
};

}  // namespace pagoda::worker
