#include "router/router.h"

#include <atomic>
#include <thread>

#include "common/log.h"
#include "common/pulse.h"
#include "common/trace.h"
#include "pagoda/internal/v1/pipeline.pb.h"
#include "router/access/gate.h"
#include "router/event_loop.h"
#include "router/grpc/inference_service.h"
#include "router/openai/service.h"
#include "router/request_status.h"
#include "router/ui/status_page.h"

namespace pagoda::router {
namespace {

constexpr int64_t kTickMs = 50;
constexpr int64_t kFiguresEveryMs = 1000;
constexpr int64_t kKeyFileMs = 2000;  // between two looks at the key file
constexpr size_t kPoolQueue = 1024;

bool IsLoopback(const std::string& host) {
  return host == "localhost" || host == "::1" || host.starts_with("127.");
}

}  // namespace

// In the order of construction; destroyed from the last to the first.
struct Router::State {
  State(const Options& o, std::unique_ptr<Metrics> m, std::unique_ptr<Tracer> t, std::unique_ptr<Gate> g)
      : options(o),
        metrics_owned(std::move(m)),
        metrics(*metrics_owned),
        tracer(std::move(t)),
        gate(std::move(g)),
        pool(std::make_unique<WorkerPool>(o.pool_threads, kPoolQueue)),
        registry(
            {.fetch =
                 [this](int link, const std::string& digest, ModelRegistry::BundleCallback done) {
                   upstream->FetchTextBundle(link, digest, std::move(done));
                 },
             .post =
                 [this](std::function<void()> task) {
                   loop.Post([this, task = std::move(task)] {
                     task();
                     PublishModels();
                   });
                 },
             .pool = pool.get()}),
        dispatcher(o.dispatcher,
                   {.send =
                        [this](int link, std::unique_ptr<internal::v1::RouterMessage> message) {
                          return upstream->Send(link, std::move(message));
                        },
                    .add_coordinator =
                        [this](const std::string& address) { upstream->AddAddress(address); },
                    .now = [] { return NowNs(); }},
                   &registry, &metrics),
        service({.version = kVersion,
                 .request_timeout_ms = o.request_timeout_ms,
                 .hold_ms = o.dispatcher.hold_ms,
                 .access_log = o.access_log,
                 .refuse_public_names = o.api_key_file.empty() && IsLoopback(o.http_listen.host),
                 .allowed_hosts = o.allowed_hosts},
                {.loop = &loop,
                 .pool = pool.get(),
                 .dispatcher = &dispatcher,
                 .registry = &registry,
                 .metrics = &metrics,
                 .tracer = tracer.get(),
                 .gate = gate.get()}),
        page({.version = kVersion, .router_name = o.upstream.router_name},
             {.send =
                  [this](int link, std::unique_ptr<internal::v1::RouterMessage> message) {
                    return upstream->Send(link, std::move(message));
                  },
              .may_see_cluster =
                  [this](std::string_view authorization) { return gate->Admit(authorization, security::Scope::kAdmin).status(); }},
             &metrics) {}

  absl::Status Listen();
  void Attach();
  void OnTick();
  // gRPC's threads see the models through a copy of the pointer.
  void PublishModels() {
    if (grpc) grpc->SetModels(registry.models());
  }
  void CheckShutdown();

  const Options options;
  const std::unique_ptr<Metrics> metrics_owned;
  Metrics& metrics;
  const std::unique_ptr<Tracer> tracer;  // null: off
  const std::unique_ptr<Gate> gate;      // outlives every request
  EventLoop loop;  // what is still queued in it at the end may count something
  std::unique_ptr<WorkerPool> pool;
  std::unique_ptr<Upstream> upstream;
  ModelRegistry registry;
  Dispatcher dispatcher;
  openai::Service service;
  ui::StatusPage page;
  std::unique_ptr<http::Server> http;
  std::unique_ptr<InferenceServer> grpc;
  Pulse pulse{options.pulse_file};
  bool serving = false;
  MonotonicNs stop_at_ns = 0;  // of a shutdown; 0: none
  bool failed_rest = false;
  bool ending = false;
};

absl::Status Router::State::Listen() {
  metrics.WatchCertificates(options.cluster_certificate, options.tls.certificate);
  http::Events events;
  events.request = [this](std::shared_ptr<http::Request> request,
                          std::shared_ptr<http::Response> response) {
    if (ui::StatusPage::Owns(request->path)) return page.Handle(*request, std::move(response));
    service.Handle(std::move(request), std::move(response));
  };
  events.error_body = [](int status, std::string_view code, std::string_view message) {
    return openai::ErrorBody(status, message, "", code);
  };
  events.request_id = [](std::string_view given) { return openai::RequestIdFrom(given); };
  events.rejected = [this](std::string_view reason) { metrics.Rejected(reason); };
  events.is_probe = [](std::string_view path) { return openai::Service::IsProbe(path); };
  events.connections_changed = [this](int64_t count) { metrics.SetConnections(count); };
  std::unique_ptr<security::HttpsContext> https;
  if (const security::ServerFiles& files = options.tls; !files.certificate.empty()) {
    PAGODA_ASSIGN_OR_RETURN(
        https, security::HttpsContext::Load(files.certificate, files.key, files.client_authority));
  }
  PAGODA_ASSIGN_OR_RETURN(http,
                          http::Server::Listen(&loop, options.http_listen, options.http,
                                               std::move(events), std::move(https)));
  PAGODA_ASSIGN_OR_RETURN(
      grpc,
      InferenceServer::Start({.listen = options.grpc_listen,
                              .tls = options.tls,
                              .reflection = options.grpc_reflection,
                              .access_log = options.access_log,
                              .request_timeout_ms = options.request_timeout_ms},
                             {.loop = &loop,
                              .dispatcher = &dispatcher,
                              .metrics = &metrics,
                              .tracer = tracer.get(),
                              .gate = gate.get()}));
  return absl::OkStatus();
}

void Router::State::Attach() {
  Upstream::Options upstream_options = options.upstream;
  upstream_options.version = kVersion;
  upstream = std::make_unique<Upstream>(
      upstream_options,
      Upstream::Events{
          .message =
              [this](int link, std::unique_ptr<internal::v1::CoordinatorMessage> message) {
                loop.Post([this, link, held = std::shared_ptr(std::move(message))] {
                  page.OnMessage(link, *held);
                  if (held->has_cluster()) return;
                  dispatcher.OnMessage(link, *held);
                  PublishModels();
                });
              },
          .lost =
              [this](int link, const std::string&, const absl::Status&) {
                loop.Post([this, link] {
                  dispatcher.OnLinkLost(link);
                  page.OnLinkLost(link);
                });
              }});
  loop.Every(kTickMs, [this] { OnTick(); });
  loop.Every(kFiguresEveryMs, [this] {
    if (!ending) page.EverySecond();
  });
  loop.Every(kKeyFileMs, [this] {
    if (gate->ReloadIfChanged()) metrics.tenants().AddTenants(gate->Tenants());
  });
}

void Router::State::OnTick() {
  if (ending) return;
  pulse.Beat();
  dispatcher.Tick();
  PublishModels();
  const bool now_serving = service.TakesRequests() && stop_at_ns == 0;
  if (now_serving != serving) {
    serving = now_serving;
    grpc->SetServing(serving);
    LogInfo(serving ? "ready" : "not_ready");
  }
  if (stop_at_ns != 0) CheckShutdown();
}

void Router::State::CheckShutdown() {
  const bool busy = dispatcher.in_flight() > 0 || !http->Idle();
  if (busy && NowNs() < stop_at_ns) return;
  if (dispatcher.in_flight() > 0 && !failed_rest) {
    failed_rest = true;
    metrics.StreamCut("shutdown");
    dispatcher.FailAll(
        absl::UnavailableError("this router was shut down before the request was finished"));
    return;  // one more turn, so that the errors go out
  }
  loop.Stop();
}

Router::Router(std::unique_ptr<State> state) : state_(std::move(state)) {}

absl::StatusOr<std::unique_ptr<Router>> Router::Start(Options options) {
  auto metrics = std::make_unique<Metrics>();
  std::unique_ptr<Tracer> tracer;
  const auto count = metrics->span_counter();
  if (!options.otlp_endpoint.empty()) {
    PAGODA_ASSIGN_OR_RETURN(tracer, Tracer::Start({.endpoint = options.otlp_endpoint,
                                                   .sampling_ratio = options.trace_sampling_ratio,
                                                   .service = "pagoda-router",
                                                   .instance = options.upstream.router_name,
                                                   .version = kVersion,
                                                   .count = count,
                                                   .transport = {}}));
  }
  PAGODA_ASSIGN_OR_RETURN(std::unique_ptr<Gate> gate, Gate::Open(options.api_key_file));
  metrics->tenants().AddTenants(gate->Tenants());
  auto state = std::make_unique<State>(options, std::move(metrics), std::move(tracer), std::move(gate));
  if (absl::Status status = state->Listen(); !status.ok()) return status;
  state->Attach();
  return std::unique_ptr<Router>(new Router(std::move(state)));
}

Router::~Router() {
  state_->ending = true;  // nobody but the thread below stops the loop from here on
  // Nothing may post to the loop, or call a part of it, once parts begin to go. Open gRPC calls end
  // on the loop. Stop is posted: with no call open this thread may be done before Run begins, which would forget a Stop.
  std::thread end_calls([state = state_.get()] {
    state->grpc->Shutdown(/*grace_ms=*/100);
    state->loop.Post([state] { state->loop.Stop(); });
  });
  state_->loop.Run();
  end_calls.join();
  state_->upstream.reset();
  state_->pool.reset();
}

int Router::http_port() const { return state_->http->port(); }
int Router::grpc_port() const { return state_->grpc->port(); }
void Router::Run() { state_->loop.Run(); }

void Router::ReloadKeys() {
  if (const absl::Status status = state_->gate->Reload(); !status.ok())
    LogWarning("keys_not_loaded", {{"error", AsStd(status.message())}});
  state_->metrics.tenants().AddTenants(state_->gate->Tenants());
}

void Router::BeginShutdown(int64_t grace_ms) {
  state_->loop.Post([state = state_.get(), grace_ms] {
    state->service.Drain();
    state->grpc->Drain();
    state->page.Drain();
    state->http->Drain();
    state->dispatcher.HandOver(
        WithRetryAfter(absl::UnavailableError("this router is shutting down; come back to another"), 100));
    state->stop_at_ns = NowNs() + grace_ms * kNsPerMs + 1;
    state->OnTick();
  });
}

}  // namespace pagoda::router
