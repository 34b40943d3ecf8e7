// pagoda.v1.Inference over gRPC's callback API, with grpc.health.v1 and (by flag) reflection.
// gRPC's threads read and check requests; generations run on the event loop, which calls the
// reactors back. gRPC stays inside the .cc.
#pragma once

#include <memory>

#include "common/config.h"
#include "common/limits.h"
#include "router/access/gate.h"
#include "router/dispatcher.h"
#include "router/event_loop.h"
#include "router/model_registry.h"
#include "security/cluster_tls.h"

namespace pagoda::router {

class InferenceServer {
 public:
  struct Options {
    HostPort listen;
    security::ServerFiles tls;  // plain when empty
    bool reflection = true;
    bool access_log = true;  // a line per Generate
    int64_t request_timeout_ms = limits::kMaxRequestMs;
  };
  struct Parts {
    EventLoop* loop;
    Dispatcher* dispatcher;  // used on the loop's thread only
    Metrics* metrics;
    Tracer* tracer = nullptr;  // null: off
    Gate* gate;
  };
  // kUnavailable when the address cannot be bound.
  static absl::StatusOr<std::unique_ptr<InferenceServer>> Start(Options options, Parts parts);
  ~InferenceServer();  // Shutdown was called, or no call is open

  int port() const;
  // From the loop: the models of new calls.
  void SetModels(std::shared_ptr<const ServedModels> models);
  // grpc.health.v1, of the whole server and of pagoda.v1.Inference.
  void SetServing(bool serving);
  // New generations are refused with UNAVAILABLE.
  void Drain();
  // Ends all calls; blocks; the loop must still be running, or hold no call.
  void Shutdown(int64_t grace_ms);

  struct State;

 private:
  explicit InferenceServer(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace pagoda::router
