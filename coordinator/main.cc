// pagoda-coordinator: membership, placement, and one scheduler per pipeline.
#include <atomic>
#include <csignal>
#include <fstream>
#include <iostream>

#include <prometheus/registry.h>

#include <CLI/CLI.hpp>
#include <filesystem>

#include "checkpoint/model_cache.h"
#include "common/config.h"
#include "common/log.h"
#include "common/metrics.h"
#include "common/reload.h"
#include "common/trace.h"
#include "coordinator/server.h"
#include "coordinator/store/etcd_store.h"
#include "security/certificate_files.h"
#include "security/grpc_log.h"
#include "security/key_ring.h"
#include "security/status_server.h"

namespace {

struct Flags {
  pagoda::coordinator::ServerOptions server;
  std::string tls;
  std::string api_key_file;
  bool metrics_tls = true;
  bool encrypt_data_plane = true;
  std::string metrics_listen = "127.0.0.1:7071";
  std::string cache_dir;
  std::string log_level = "info";
  std::string log_format = "json";
  std::string ready_file;
  int shutdown_timeout_ms = 30000;
  bool check_config = false;
  std::string otlp_endpoint;
};

void AddFlags(CLI::App& app, Flags& flags) {
  pagoda::AddConfigFile(app);
  app.set_version_flag("--version", "pagoda-coordinator " PAGODA_VERSION);
  app.add_option("--listen", flags.server.listen, "host:port of gRPC; port 0 takes a free one")->check(pagoda::IsHostPort())->capture_default_str();
  app.add_option("--metrics-listen", flags.metrics_listen, "host:port of /metrics; empty: none")
      ->check(pagoda::IsHostPortOrEmpty())
      ->capture_default_str();
  app.add_option("--advertise", flags.server.advertise, "host:port where workers, routers and standbys reach this coordinator")
      ->check(pagoda::IsHostPort());
  app.add_option("--store", flags.server.store, "what must not be forgotten: a sqlite file, shared by the coordinators of one host, or "
                 "etcd://host:port[,host:port][/prefix] (etcds:// with TLS) for several hosts; empty: in memory");
  app.add_option("--etcd-ca-file", flags.server.etcd_ca_file, "PEM file: who may have signed etcd's certificate")
      ->check(CLI::ExistingFile);
  app.add_option("--etcd-certificate-file", flags.server.etcd_certificate_file, "PEM file: this coordinator's certificate for etcd")
      ->check(CLI::ExistingFile);
  app.add_option("--etcd-key-file", flags.server.etcd_key_file, "PEM file: its key")->check(CLI::ExistingFile);
  app.add_option("--leader-lease-ms", flags.server.leader_lease_ms, "a leader that says nothing for so long is replaced")
      ->capture_default_str()
      ->check(CLI::Range(200, 600000));
  app.add_option("--metrics-tls", flags.metrics_tls, "HTTPS for /metrics and health too, when there is --tls")->capture_default_str();
  app.add_option("--tls", flags.tls, "folder with tls.crt, tls.key and ca.crt: mutual TLS inside the cluster; empty: plain");
  app.add_option("--encrypt-data-plane", flags.encrypt_data_plane,
                 "encrypt what workers send each other, when there is --tls (over which they are told the key)")
      ->capture_default_str();
  app.add_option("--api-key-file", flags.api_key_file, "API keys (pagoda keys): /metrics wants one of scope metrics; empty: open");
  app.add_option("--name", flags.server.coordinator.name, "name of this coordinator")->capture_default_str();
  app.add_option("--cache-dir", flags.cache_dir, "folder of downloaded models");
  app.add_option("--heartbeat-ms", flags.server.coordinator.heartbeat_ms, "how often workers report")
      ->capture_default_str()
      ->check(CLI::Range(10, 60000));
  app.add_option("--lease-ms", flags.server.coordinator.lease_ms, "a worker not heard of for so long is lost")
      ->capture_default_str()
      ->check(CLI::Range(50, 600000));
  app.add_option("--makeshift-after-ms", flags.server.coordinator.makeshift_after_ms,
                 "a model that no pipeline serves any more for want of workers is served by those that are left after so long, in fewer stages, "
                 "if it fits; 0: never")
      ->capture_default_str()
      ->check(CLI::Range(0, 3600000));
  app.add_option("--step-deadline-ms", flags.server.coordinator.step_deadline_ms,
                 "a step without result for so long ends the epoch (at least; more when steps are slow)")
      ->capture_default_str()
      ->check(CLI::Range(100, 3600000));
  app.add_option("--canary-every-ms", flags.server.coordinator.canary_every_ms,
                 "a step through an idle pipeline so often (more rarely when steps are slow); 0: none")
      ->capture_default_str()
      ->check(CLI::Range(0, 3600000));
  app.add_option("--shutdown-timeout-ms", flags.shutdown_timeout_ms, "what runs may finish within")
      ->capture_default_str()
      ->check(CLI::Range(0, 3600000));
  app.add_option("--announce-protocol", flags.server.coordinator.announced_protocol,
                 "protocol version told to routers, at most (for tests of two versions together)")
      ->group("");
  app.add_option("--log-level", flags.log_level, "debug, info, warning or error")->check(pagoda::IsLogLevel())->capture_default_str();
  app.add_option("--log-format", flags.log_format, "json or plain")
      ->capture_default_str()
      ->check(CLI::IsMember({"json", "plain"}));
  app.add_option("--ready-file", flags.ready_file, "written with host:port once serving");
  app.add_option("--otlp-endpoint", flags.otlp_endpoint,
                 "http://host:port of an OpenTelemetry collector that takes traces; empty: no traces")
      ->check(pagoda::IsTraceEndpoint());
  app.add_flag("--check-config", flags.check_config, "parse, validate and exit");
}

absl::Status Validate(const Flags& flags) {
  // A mistyped address must not become a file that each coordinator has for itself.
  if (!pagoda::coordinator::IsEtcdAddress(flags.server.store) &&
      (flags.server.store.starts_with("etcd:") || flags.server.store.find("://") != std::string::npos)) {
    return absl::InvalidArgumentError(absl::StrCat("--store is '", flags.server.store,
                                                   "': it must be a file, or begin with etcd:// or etcds://"));
  }
  if (pagoda::coordinator::IsEtcdAddress(flags.server.store)) {
    PAGODA_RETURN_IF_ERROR(pagoda::coordinator::ParseEtcdAddress(flags.server.store).status());
    const auto listen = pagoda::ParseHostPort(flags.server.listen);
    if (flags.server.advertise.empty() && listen.ok() && (listen->host == "0.0.0.0" || listen->host == "::")) {
      return absl::InvalidArgumentError("--listen is on every address: say with --advertise where the others reach this coordinator");
    }
  }
  if (flags.server.coordinator.lease_ms < 2 * flags.server.coordinator.heartbeat_ms) {
    return absl::InvalidArgumentError("--lease-ms is below twice --heartbeat-ms: one late heartbeat would lose a worker");
  }
  if (!flags.api_key_file.empty()) {
    PAGODA_RETURN_IF_ERROR(pagoda::Annotate(pagoda::security::KeyRing::Load(flags.api_key_file).status(), "--api-key-file"));
  }
  if (flags.tls.empty()) return absl::OkStatus();
  return pagoda::Annotate(pagoda::security::CheckClusterFolder(flags.tls, pagoda::security::Role::kCoordinator), "--tls");
}

absl::Status Run(Flags& flags, const CLI::App& app, sigset_t& signals) {
  auto registry = std::make_shared<prometheus::Registry>();
  std::unique_ptr<pagoda::Tracer> tracer;
  const auto count_spans = pagoda::SpanCounter(*registry, "pagoda_coordinator");
  if (!flags.otlp_endpoint.empty()) {
    PAGODA_ASSIGN_OR_RETURN(tracer, pagoda::Tracer::Start({.endpoint = flags.otlp_endpoint,
                                                           .service = "pagoda-coordinator",
                                                           .instance = flags.server.coordinator.name,
                                                           .version = PAGODA_VERSION,
                                                           .count = count_spans,
                                                           .transport = {}}));
    flags.server.coordinator.tracer = tracer.get();
  }
  if (flags.cache_dir.empty()) {
    PAGODA_ASSIGN_OR_RETURN(flags.cache_dir, pagoda::checkpoint::DefaultCacheFolder());
  }
  auto catalog = std::make_shared<pagoda::coordinator::ModelCatalog>(
      [cache = pagoda::checkpoint::ModelCache(flags.cache_dir)](const std::string& reference) {
        return cache.Resolve(reference);
      });
  PAGODA_ASSIGN_OR_RETURN(flags.server.tls,
                          pagoda::security::ClusterTls::Load(flags.tls, pagoda::security::Role::kCoordinator));
  flags.server.coordinator.encrypt_data_plane = flags.encrypt_data_plane && !flags.tls.empty();
  PAGODA_ASSIGN_OR_RETURN(auto server, pagoda::coordinator::Server::Start(flags.server, catalog, registry));
  std::unique_ptr<pagoda::security::StatusServer> status;
  std::atomic<bool> ready = true;
  if (!flags.metrics_listen.empty()) {
    PAGODA_ASSIGN_OR_RETURN(status, pagoda::security::StatusServer::Start({.listen = flags.metrics_listen,
                                                                           .registry = registry,
                                                                           .ready = [&ready] { return ready.load(); },
                                                                           .tls = flags.metrics_tls ? flags.tls : "",
                                                                           .api_key_file = flags.api_key_file,
                                                                           .certificate = pagoda::security::CertificateIn(flags.tls)}));
  }
  pagoda::LogInfo("serving", {{"address", server->address()}, {"store", flags.server.store}});
  if (!flags.ready_file.empty()) {
    const std::string partial = flags.ready_file + ".part";
    std::ofstream(partial) << server->address() << "\n";
    std::filesystem::rename(partial, flags.ready_file);
  }
  int signal = 0;
  while (sigwait(&signals, &signal) == 0 && signal == SIGHUP) {
    pagoda::ReloadLogLevel(app);
    if (status != nullptr) status->ReloadKeys();
  }
  pagoda::LogInfo("stopping", {{"signal", signal}});
  // A second signal ends the process at once.
  std::signal(SIGTERM, SIG_DFL);
  std::signal(SIGINT, SIG_DFL);
  std::signal(SIGHUP, SIG_IGN);
  pthread_sigmask(SIG_UNBLOCK, &signals, nullptr);
  ready = false;
  const bool finished = server->Stop(flags.shutdown_timeout_ms);
  pagoda::LogInfo("stopped", {{"all_finished", finished}});
  return absl::OkStatus();
}

}  // namespace

int main(int argc, char** argv) {
  Flags flags;
  CLI::App app("The coordinator of a Pagoda cluster: membership, placement, and one scheduler per pipeline.");
  AddFlags(app, flags);
  absl::Status status = pagoda::ParseCommandLine(app, argc, argv);
  if (absl::IsCancelled(status) && status.message().empty()) return 0;
  if (status.ok()) status = Validate(flags);
  if (!status.ok()) {
    std::cerr << "pagoda-coordinator: " << status.message() << "\n";
    return 2;
  }
  if (flags.check_config) return 0;
  flags.server.coordinator.pulse_file = flags.ready_file;
  // Before any thread starts, so that all of them have it.
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGHUP);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  std::signal(SIGPIPE, SIG_IGN);
  pagoda::InitLog("coordinator", *pagoda::ParseLogLevel(flags.log_level), flags.log_format == "plain");
  pagoda::security::TakeGrpcLog();
  status = Run(flags, app, signals);
  if (status.ok()) return 0;
  pagoda::LogError("failed", {{"error", pagoda::AsStd(status.message())}});
  return 1;
}
