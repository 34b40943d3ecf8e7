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
  //
  // UCX 1.13 may say for as long as a peer is stopped that there is progress to be made where there
  // is none: with a packet waiting for room in the peer's shared memory it cannot be armed, and a
  // TCP connection the peer has not answered keeps the event descriptor readable. So after
  // some hundred returns at once without a Moved(), it naps for at most 10 ms each time (or until
  // `wake_descriptor` is readable), whatever UCX says.
  bool Sleep(int wake_descriptor, absl::Duration timeout);
  // A packet came or left since the last Sleep.
  void Moved() { vain_looks_ = 0; }

 private:
  UcxContext() = default;
  absl::Status Start(const UcxOptions& options);
  // Sleeps until `wake_descriptor` is readable or the next nap is over. True when readable.
  bool Nap(int wake_descriptor, absl::Duration timeout);

  ucp_context_h context_ = nullptr;
  ucp_worker_h worker_ = nullptr;
  int descriptor_ = -1;  // the worker's own
  int vain_looks_ = 0;   // returns of Sleep at once, one after the other, that moved nothing
  absl::Duration nap_;   // the last one
  std::string address_;
};

}  // namespace pagoda::worker
