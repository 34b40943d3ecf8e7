// The HTTP routes of a router: OpenAI's, vLLM's /tokenize, /detokenize, /load, health, version,
// metrics. Event loop's thread; long inputs are prepared on the pool.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "router/access/gate.h"
#include "router/dispatcher.h"
#include "router/event_loop.h"
#include "router/http/server.h"
#include "router/openai/exchange.h"
#include "router/openai/generation_job.h"
#include "router/openai/prepare.h"

namespace pagoda::router::openai {

class Service {
 public:
  struct Options {
    std::string version;
    int64_t request_timeout_ms = limits::kMaxRequestMs;
    int64_t hold_ms = limits::kHoldMs;
    size_t inline_bytes = 8u << 10;  // a longer body is prepared on the pool
    bool access_log = true;
    // Open to everybody on this machine alone: then pages of the browser on it must not get in by a name of their own.
    bool refuse_public_names = false;
    std::vector<std::string> allowed_hosts;  // public names that are taken all the same
  };
  struct Parts {
    EventLoop* loop;
    WorkerPool* pool;
    Dispatcher* dispatcher;
    ModelRegistry* registry;
    Metrics* metrics;
    Tracer* tracer = nullptr;  // null: off
    Gate* gate;
  };
  Service(Options options, Parts parts);

  // Open to everybody, cheap, and answered when there is no room for other connections.
  static bool IsProbe(std::string_view path);
  void Handle(std::shared_ptr<http::Request> request, std::shared_ptr<http::Response> response);
  // New generations are refused, /readyz says no.
  void Drain() { draining_ = true; }
  // A model can be asked now: attached to a coordinator, a pipeline is ready, its tokenizer is loaded. What /health says.
  bool ModelReady() const;
  // Clients should come here, which is /readyz and grpc.health.v1: a model could be asked once, a coordinator is attached or was a
  // hold time ago, and this router is not being stopped. A lost pipeline does not count: all routers lose it alike, requests wait for
  // it or get a named error with Retry-After here, and behind a Service without endpoints they would get neither.
  bool TakesRequests();

 private:
  using Handler = void (Service::*)(std::shared_ptr<Exchange>);
  struct Route {
    const char* method;
    const char* path;
    const char* endpoint;  // label of metrics
    Handler handler;
    std::optional<security::Scope> scope;  // of the key that is needed; none: open to everybody
  };
  static const Route kRoutes[];

  void Generate(std::shared_ptr<Exchange> exchange, Endpoint endpoint);
  // A client comes back for the rest of its stream.
  void Resume(std::shared_ptr<Exchange> exchange, Endpoint endpoint);
  void StartJob(std::shared_ptr<Exchange> exchange, Endpoint endpoint, int64_t created_unix_s,
                std::optional<GenerationJob::Resumable> resumable);
  void Completions(std::shared_ptr<Exchange> exchange) {
    Generate(std::move(exchange), Endpoint::kCompletions);
  }
  void Chat(std::shared_ptr<Exchange> exchange) { Generate(std::move(exchange), Endpoint::kChat); }
  void Tokenize(std::shared_ptr<Exchange> exchange);
  void Detokenize(std::shared_ptr<Exchange> exchange);
  void Models(std::shared_ptr<Exchange> exchange);
  void Model(std::shared_ptr<Exchange> exchange);
  void Health(std::shared_ptr<Exchange> exchange);
  void Live(std::shared_ptr<Exchange> exchange);
  void ReadyProbe(std::shared_ptr<Exchange> exchange);
  void Version(std::shared_ptr<Exchange> exchange);
  void MetricsText(std::shared_ptr<Exchange> exchange);
  void Load(std::shared_ptr<Exchange> exchange);

  // Runs `work` here or on the pool, by the size of the body, then `done` here.
  template <typename Result>
  void Prepare(
      std::shared_ptr<Exchange> exchange,
      std::function<absl::StatusOr<Result>(const http::Request&, const ServedModels&)> work,
      std::function<void(std::shared_ptr<Exchange>, Result)> done);
  // False when it was answered: no key, a wrong one, or a quota used up.
  bool Admit(const std::shared_ptr<Exchange>& exchange, security::Scope scope);
  // What the caller may see of the models.
  std::shared_ptr<const ServedModels> ModelsFor(const Caller& caller) const;
  bool HostIsGood(const http::Request& request) const;
  void Reject(std::shared_ptr<Exchange> exchange, const absl::Status& status);
  MonotonicNs DeadlineOf(const http::Request& request) const;

  const Options options_;
  const Parts parts_;
  bool draining_ = false;
  bool was_ready_ = false;
  MonotonicNs attached_ns_ = 0;  // when a coordinator was last seen to be attached
};

}  // namespace pagoda::router::openai
