// The router's side of Pipeline.Attach: one stream per coordinator, kept up with backoff; names
// that resolve to several addresses give one stream each, and a standby's hint at its leader is
// followed. gRPC stays inside the .cc. Thread rule: every method from any thread; events come on
// gRPC's threads, in order for one link, never two at once for one link. A link number is never
// reused, so an event of a stream that is gone cannot be taken for another's.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "common/status.h"
#include "security/cluster_tls.h"

namespace pagoda::internal::v1 {
class CoordinatorMessage;
class RouterMessage;
}  // namespace pagoda::internal::v1

namespace pagoda::router {

class Upstream {
 public:
  struct Options {
    std::vector<std::string>
        coordinators;  // host:port each; a host may be a name with several addresses
    security::SharedTls tls;  // null: plain
    std::string router_name;
    std::string version;
    uint32_t announced_protocol = ~0u;  // at most; for tests of two versions together
    int64_t silence_timeout_ms =
        10'000;  // a stream without a word (snapshots come each second) is given up
    int64_t resolve_interval_ms = 5'000;
    int64_t min_backoff_ms = 50;
    int64_t max_backoff_ms = 2'000;
  };
  struct Events {
    // `link` is one life of one stream: a reconnect has a new number.
    std::function<void(int link, std::unique_ptr<internal::v1::CoordinatorMessage>)> message;
    std::function<void(int link, const std::string& address, const absl::Status& why)> lost;
  };
  Upstream(Options options, Events events);
  ~Upstream();  // ends all streams; no event comes after it has returned

  // False when the link is down or its unsent messages are past a bound.
  bool Send(int link, std::unique_ptr<internal::v1::RouterMessage> message);

  // One more coordinator, as a standby's hello named it; forgotten again when nobody names it any
  // more.
  void AddAddress(const std::string& address);

  using Bundle = std::vector<checkpoint::Checkpoint::BundleEntry>;
  // `done` is called once, on another thread.
  void FetchTextBundle(int link, const std::string& digest,
                       std::function<void(absl::StatusOr<Bundle>)> done);

 private:
  struct State;
  std::shared_ptr<State> state_;
};

}  // namespace pagoda::router
