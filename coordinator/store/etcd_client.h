// etcd v3 over gRPC, as much of it as the store needs: one call at a time over a list of endpoints, the next one when one
// cannot be reached or has no quorum. Errors: kUnavailable when no endpoint answered in time.
// Thread rule: any thread.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "common/status.h"

namespace etcdserverpb {
class TxnRequest;
class TxnResponse;
class RangeRequest;
class RangeResponse;
}  // namespace etcdserverpb

namespace pagoda::coordinator {

struct EtcdOptions {
  std::vector<std::string> endpoints;  // host:port
  std::string prefix = "/pagoda/";     // of all keys; ends in '/'
  absl::Duration lease = absl::Seconds(2);
  absl::Duration call_timeout = absl::Seconds(2);  // of one endpoint
  // PEM files. With any of them TLS is used; certificate and key are for etcd's client authentication.
  std::string ca_file;
  std::string certificate_file;
  std::string key_file;
  bool tls = false;
};

class EtcdClient {
 public:
  static absl::StatusOr<std::unique_ptr<EtcdClient>> Make(const EtcdOptions& options);
  ~EtcdClient();

  absl::StatusOr<etcdserverpb::RangeResponse> Range(const etcdserverpb::RangeRequest& request);
  absl::StatusOr<etcdserverpb::TxnResponse> Txn(const etcdserverpb::TxnRequest& request);
  absl::StatusOr<int64_t> GrantLease(int64_t ttl_s);
  // kNotFound: it has expired.
  absl::Status KeepLease(int64_t lease);
  absl::Status RevokeLease(int64_t lease);
  // Blocks until the key changes after `revision`, at most `timeout`; false when it cannot tell. Cancel ends it for good.
  bool WaitForEvent(const std::string& key, int64_t revision, absl::Duration timeout);
  void Cancel();

 private:
  struct State;
  explicit EtcdClient(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace pagoda::coordinator
