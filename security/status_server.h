// The small HTTP port of a process that has no other: GET /livez (the process answers) and /readyz for anybody, GET /metrics
// for who has a key, when keys are configured. HTTPS with the process's own certificate, when it has one.
// Thread rule: a thread of its own; the callbacks are called on it.
#pragma once

#include <prometheus/registry.h>

#include <functional>
#include <memory>
#include <string>

#include "common/status.h"

namespace pagoda::security {

struct StatusServerOptions {
  std::string listen;                              // host:port
  std::shared_ptr<prometheus::Registry> registry;
  std::function<bool()> ready = nullptr;           // none: as /livez
  std::string tls;                                 // folder with tls.crt and tls.key; empty: plain HTTP
  std::string api_key_file;                        // empty: /metrics is open; read again when it changes
  std::string certificate = {};                    // of the process inside the cluster: its end is a metric; empty: none
};

class StatusServer {
 public:
  static absl::StatusOr<std::unique_ptr<StatusServer>> Start(StatusServerOptions options);
  ~StatusServer();
  int port() const;
  void ReloadKeys();  // from any thread

  struct State;

 private:
  explicit StatusServer(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace pagoda::security
