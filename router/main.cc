// pagoda-router: the text side of a cluster. Reads flags, puts the parts together, runs the event
// loop until it is told to stop, then drains.
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <thread>

#include "common/config.h"
#include "common/log.h"
#include "common/reload.h"
#include "common/trace.h"
#include "router/router.h"
#include "security/certificate_files.h"
#include "security/grpc_log.h"
#include "security/https_context.h"
#include "security/key_ring.h"

namespace pagoda::router {
namespace {

struct Flags {
  Router::Options options;
  std::string listen = "127.0.0.1:8000";
  std::string grpc_listen = "127.0.0.1:8001";
  std::string tls;
  std::string ready_file;
  std::string log_level = "info";
  std::string log_format = "json";
  int64_t shutdown_timeout_ms = 30'000;
  bool check_config = false;
};

void Declare(CLI::App& app, Flags& flags) {
  Router::Options& o = flags.options;
  AddConfigFile(app);
  app.set_version_flag("--version", std::string("pagoda-router ") + kVersion);
  app.add_flag("--check-config", flags.check_config,
               "parse and check flags and configuration, then exit");
  app.add_option("--coordinators", o.upstream.coordinators,
                 "host:port of the coordinators; names may have several addresses")
      ->delimiter(',')
      ->check(IsHostPort())
      ->required();
  app.add_option("--listen", flags.listen, "host:port of the HTTP front end")
      ->check(IsHostPort())
      ->capture_default_str();
  app.add_option("--grpc-listen", flags.grpc_listen, "host:port of the gRPC front end")
      ->check(IsHostPort())
      ->capture_default_str();
  app.add_option("--tls", flags.tls,
                 "folder with tls.crt, tls.key and ca.crt: mutual TLS to the coordinators; empty: plain");
  app.add_option("--ssl-certfile", o.tls.certificate,
                 "PEM certificate shown to clients, HTTP and gRPC; empty: plain HTTP and gRPC");
  app.add_option("--ssl-keyfile", o.tls.key, "its PEM key");
  app.add_option("--ssl-ca-certs", o.tls.client_authority,
                 "PEM certificates of which one must have signed the client's; empty: clients need none");
  app.add_option("--api-key-file", o.api_key_file,
                 "API keys (pagoda keys); read again when it changes and on SIGHUP; empty: no key is needed");
  app.add_option("--allowed-hosts", o.allowed_hosts,
                 "names that clients may know this router by, where it listens on this machine alone and wants no key")
      ->delimiter(',');
  app.add_option("--name", o.upstream.router_name,
                 "name of this router in logs (default: host and process)");
  app.add_option("--ready-file", flags.ready_file,
                 "file to write the bound addresses to once listening");
  app.add_option("--log-level", flags.log_level, "debug, info, warning or error")
      ->check(IsLogLevel())
      ->capture_default_str();
  app.add_option("--log-format", flags.log_format, "json or plain")
      ->check(CLI::IsMember({"json", "plain"}))
      ->capture_default_str();
  app.add_option("--access-log", o.access_log, "one log line per request")->capture_default_str();
  app.add_option("--shutdown-timeout-ms", flags.shutdown_timeout_ms,
                 "grace for running streams after SIGTERM")
      ->check(CLI::Range(int64_t{0}, int64_t{86'400'000}))
      ->capture_default_str();
  app.add_option("--max-requests-in-flight", o.dispatcher.max_requests_in_flight,
                 "generations at once")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  app.add_option("--request-timeout-ms", o.request_timeout_ms, "longest life of a request")
      ->check(CLI::Range(int64_t{1}, int64_t{limits::kMaxRequestMs}))
      ->capture_default_str();
  app.add_option("--prefix-index-bytes", o.dispatcher.prefix_index_bytes,
                 "memory for prefix affinity")
      ->capture_default_str();
  app.add_option("--max-connections", o.http.connections, "open HTTP connections; at the limit idle ones are closed, and probes are still answered")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  app.add_option("--max-connections-per-address", o.http.connections_per_address,
                 "of them, from one client address; 0: no limit. Not behind a proxy, which is one address")
      ->check(CLI::Range(0, 1 << 20))
      ->capture_default_str();
  app.add_option("--max-body-bytes", o.http.body_bytes, "of one HTTP request")
      ->check(CLI::Range(size_t{1024}, size_t{limits::kMaxGrpcMessageBytes}))
      ->capture_default_str();
  app.add_option("--header-timeout-ms", o.http.header_timeout_ms, "for a whole request header")
      ->check(CLI::Range(int64_t{1}, int64_t{3'600'000}))
      ->capture_default_str();
  app.add_option("--body-timeout-ms", o.http.body_timeout_ms, "for a whole request body")
      ->check(CLI::Range(int64_t{1}, int64_t{3'600'000}))
      ->capture_default_str();
  app.add_option("--idle-timeout-ms", o.http.idle_timeout_ms, "of a connection between requests")
      ->check(CLI::Range(int64_t{1}, int64_t{3'600'000}))
      ->capture_default_str();
  app.add_option("--write-timeout-ms", o.http.write_timeout_ms, "for a reader that takes nothing")
      ->check(CLI::Range(int64_t{1}, int64_t{3'600'000}))
      ->capture_default_str();
  app.add_option("--coordinator-timeout-ms", o.upstream.silence_timeout_ms,
                 "silence after which a coordinator counts as lost")
      ->check(CLI::Range(int64_t{100}, int64_t{3'600'000}))
      ->capture_default_str();
  app.add_option("--announce-protocol", o.upstream.announced_protocol,
                 "protocol version told to coordinators, at most (for tests of two versions together)")
      ->group("");
  app.add_option("--hold-ms", o.dispatcher.hold_ms,
                 "new requests wait so long for a lost pipeline to come back")
      ->check(CLI::Range(int64_t{0}, int64_t{600'000}))
      ->capture_default_str();
  app.add_option("--grpc-reflection", o.grpc_reflection, "serve gRPC reflection")
      ->capture_default_str();
  app.add_option("--otlp-endpoint", o.otlp_endpoint,
                 "http://host:port of an OpenTelemetry collector that takes traces; empty: no traces")
      ->check(IsTraceEndpoint());
  app.add_option("--trace-sampling-ratio", o.trace_sampling_ratio,
                 "share of requests to trace; a caller's own decision (traceparent) comes first")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
  app.add_option("--threads", o.pool_threads, "threads for long prompts and tokenizer loading")
      ->check(CLI::Range(1, 256))
      ->capture_default_str();
}

absl::Status WriteReadyFile(const std::string& path, const Router& router, const HostPort& http,
                            const HostPort& grpc) {
  const std::string temporary = path + ".tmp";
  std::ofstream file(temporary, std::ios::trunc);
  file << "http " << HostPort{http.host, router.http_port()}.ToString() << "\n"
       << "grpc " << HostPort{grpc.host, router.grpc_port()}.ToString() << "\n";
  file.close();
  if (!file || std::rename(temporary.c_str(), path.c_str()) != 0) {
    return absl::UnavailableError("cannot write the ready file " + path);
  }
  return absl::OkStatus();
}

absl::Status Check(const Flags& flags) {
  if (const std::string& keys = flags.options.api_key_file; !keys.empty()) {
    PAGODA_RETURN_IF_ERROR(Annotate(security::KeyRing::Load(keys).status(), "--api-key-file"));
  }
  const security::ServerFiles& files = flags.options.tls;
  if (files.certificate.empty() != files.key.empty())
    return absl::InvalidArgumentError("--ssl-certfile and --ssl-keyfile go together");
  if (files.certificate.empty() && !files.client_authority.empty())
    return absl::InvalidArgumentError("--ssl-ca-certs needs --ssl-certfile and --ssl-keyfile");
  if (!files.certificate.empty()) {
    PAGODA_RETURN_IF_ERROR(
        Annotate(security::HttpsContext::Load(files.certificate, files.key, files.client_authority)
                     .status(),
                 "--ssl-certfile"));
  }
  if (!flags.tls.empty()) {
    PAGODA_RETURN_IF_ERROR(Annotate(
        security::CheckClusterFolder(flags.tls, security::Role::kRouter), "--tls"));
  }
  return absl::OkStatus();
}

absl::Status Run(Flags& flags, const CLI::App& app) {
  Router::Options& options = flags.options;
  PAGODA_ASSIGN_OR_RETURN(const HostPort http, ParseHostPort(flags.listen));
  PAGODA_ASSIGN_OR_RETURN(const HostPort grpc, ParseHostPort(flags.grpc_listen));
  PAGODA_ASSIGN_OR_RETURN(const LogLevel level, ParseLogLevel(flags.log_level));
  InitLog("router", level, flags.log_format == "plain");
  security::TakeGrpcLog();
  options.http_listen = http;
  options.grpc_listen = grpc;
  options.pulse_file = flags.ready_file;
  if (options.upstream.router_name.empty())
    options.upstream.router_name = absl::StrCat("router-", getpid());

  // Signals are taken by one thread; every other thread is started with them blocked.
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGHUP);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  signal(SIGPIPE, SIG_IGN);

  // It starts a thread that watches files.
  PAGODA_ASSIGN_OR_RETURN(options.upstream.tls,
                          security::ClusterTls::Load(flags.tls, security::Role::kRouter));
  options.cluster_certificate = security::CertificateIn(flags.tls);
  PAGODA_ASSIGN_OR_RETURN(std::unique_ptr<Router> router, Router::Start(options));
  LogInfo("listening", {{"http", HostPort{http.host, router->http_port()}.ToString()},
                        {"grpc", HostPort{grpc.host, router->grpc_port()}.ToString()}});
  if (!flags.ready_file.empty()) {
    if (absl::Status status = WriteReadyFile(flags.ready_file, *router, http, grpc); !status.ok())
      return status;
  }
  Router* running = router.get();
  std::thread([signals, running, &app, grace = flags.shutdown_timeout_ms] {
    int signal_number = 0;
    while (sigwait(&signals, &signal_number) == 0 && signal_number == SIGHUP) {
      ReloadLogLevel(app);
      running->ReloadKeys();
    }
    LogInfo("draining", {{"signal", signal_number}, {"grace_ms", grace}});
    running->BeginShutdown(grace);
    do {
      sigwait(&signals, &signal_number);
    } while (signal_number == SIGHUP);
    _exit(130);
  }).detach();
  router->Run();
  router.reset();
  LogInfo("stopped");
  // gRPC's threads may still be at work on what was closed; static destructors would race with
  // them.
  _exit(0);
}

int Main(int argc, char** argv) {
  Flags flags;
  CLI::App app("pagoda-router: OpenAI-compatible HTTP and gRPC in front of Pagoda's coordinators");
  Declare(app, flags);
  absl::Status status = ParseCommandLine(app, argc, argv);
  if (absl::IsCancelled(status)) return 0;
  if (status.ok()) status = Check(flags);
  if (!status.ok()) {
    std::cerr << "pagoda-router: " << status.message() << "\n";
    return 2;  // of the command line or the configuration, not of this machine
  }
  // Reflection tells strangers what there is: where keys are needed it has to be asked for, and then is refused.
  if (!flags.options.api_key_file.empty()) {
    if (app.get_option("--grpc-reflection")->count() > 0 && flags.options.grpc_reflection) {
      std::cerr << "pagoda-router: --grpc-reflection answers without a key; it cannot be on together with --api-key-file\n";
      return 2;
    }
    flags.options.grpc_reflection = false;
  }
  if (flags.check_config) return 0;
  status = Run(flags, app);
  if (status.ok()) return 0;
  std::cerr << "pagoda-router: " << status.message() << "\n";
  return 1;
}

}  // namespace
}  // namespace pagoda::router

int main(int argc, char** argv) { return pagoda::router::Main(argc, argv); }
