// A whole router, put together: event loop, upstream, dispatcher, HTTP and gRPC front ends. Owner:
// main, or a test that wants one in its process.
#pragma once

#include <memory>

#include "common/config.h"
#include "common/status.h"
#include "router/dispatcher.h"
#include "router/http/server.h"
#include "router/upstream.h"
#include "security/cluster_tls.h"

namespace pagoda::router {

inline constexpr char kVersion[] = "0.1.0";

class Router {
 public:
  struct Options {
    std::string otlp_endpoint;  // empty: no traces
    double trace_sampling_ratio = 1;
    Upstream::Options upstream;
    Dispatcher::Options dispatcher;
    http::Limits http;
    HostPort http_listen{"127.0.0.1", 0};
    HostPort grpc_listen{"127.0.0.1", 0};
    security::ServerFiles tls;  // of both; plain when empty
    std::string cluster_certificate;  // PEM file, whose end is a metric; empty: none
    int64_t request_timeout_ms = limits::kMaxRequestMs;
    int pool_threads = 2;
    bool grpc_reflection = true;
    std::vector<std::string> allowed_hosts;  // names of this router, where only this machine may ask without a key
    std::string api_key_file;  // empty: open to everybody
    bool access_log = true;
    std::string pulse_file;  // touched while the event loop goes round; empty: none
  };
  // Both front ends listen when it returns.
  static absl::StatusOr<std::unique_ptr<Router>> Start(Options options);
  ~Router();

  int http_port() const;
  int grpc_port() const;
  // Blocks until a shutdown is complete.
  void Run();
  // From any thread: reads the key file again.
  void ReloadKeys();
  // From any thread: not ready from now on, new work is refused, Run returns when all streams have
  // ended or after the grace.
  void BeginShutdown(int64_t grace_ms);

 private:
  struct State;
  explicit Router(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace pagoda::router
