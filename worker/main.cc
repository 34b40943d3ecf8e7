// pagoda-worker: holds a shard of a model, runs its rank's part of every step. Speaks to coordinators (gRPC) and to other ranks
// (worker/comm).
#include <CLI/CLI.hpp>

#include <csignal>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <random>
#include <semaphore>
#include <sstream>
#include <thread>

#include "common/config.h"
#include "common/log.h"
#include "common/metrics.h"
#include "common/reload.h"
#include "common/trace.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/factory.h"
#include "security/certificate_files.h"
#include "security/cluster_tls.h"
#include "security/grpc_log.h"
#include "security/key_ring.h"
#include "security/status_server.h"
#include "worker/blob/blob_service.h"
#include "worker/blob/kv_puller.h"
#include "worker/comm/ucx_transport.h"
#include "worker/control/coordinator_client.h"
#include "worker/control/machine.h"
#include "worker/control/model_opener.h"

namespace pagoda::worker {
namespace {

constexpr uint32_t kProtocol = 1;
constexpr int64_t kMostReplayBytes = int64_t{256} << 20;
constexpr int kExitDeviceLost = 70;

struct WorkerOptions {
  std::string tls;
  std::string api_key_file;
  bool metrics_tls = true;
  std::string coordinators = "127.0.0.1:7070";
  std::string name;
  std::string advertise = "127.0.0.1";
  int threads = 0;
  int64_t memory_bytes = 0;
  int64_t kv_cache_bytes = 0;
  int64_t replay_bytes = -1;
  std::string cache_dir;
  std::string device = "auto";
  double gpu_memory_utilization = 0.9;
  std::string numerics = "invariant";
  std::string isa = "auto";
  bool pin_threads = false;
  std::string transports = "auto";
  std::string net_devices;
  std::string tcp_port_range;
  std::string blob_listen = "127.0.0.1:0";
  std::string metrics_listen = "127.0.0.1:0";
  std::string ready_file;
  std::string log_level = "info";
  std::string log_format = "json";
  int shutdown_timeout_ms = 30000;
  bool check_config = false;
  std::string otlp_endpoint;
};

absl::Status CheckIsa(const std::string& text) {
  PAGODA_ASSIGN_OR_RETURN(const kernels::Isa isa, kernels::ParseIsa(text));
  if (kernels::IsaSupported(isa)) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("this machine does not have ", text, "; use auto"));
}

void AddOptions(CLI::App& app, WorkerOptions& options) {
  app.set_version_flag("--version", PAGODA_VERSION);
  app.add_option("--coordinators", options.coordinators, "HOST:PORT[,HOST:PORT]")->check(IsHostPortList())->capture_default_str();
  app.add_option("--tls", options.tls, "folder with tls.crt, tls.key and ca.crt: mutual TLS inside the cluster; empty: plain");
  app.add_option("--api-key-file", options.api_key_file,
                 "API keys (pagoda keys): /metrics wants one of scope metrics; empty: open");
  app.add_option("--name", options.name, "stable over restarts; default: worker-<pid>");
  app.add_option("--advertise", options.advertise, "host at which peers reach this worker")->capture_default_str();
  app.add_option("--threads", options.threads, "0: the cores of the CPU quota")->check(CLI::Range(0, 1024));
  app.add_option("--memory-bytes", options.memory_bytes, "for weights, KV and workspace; 0: 80% of what is available")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 50));
  app.add_option("--kv-cache-bytes", options.kv_cache_bytes, "refuse a larger KV cache; 0: no bound")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 50));
  app.add_option("--replay-bytes", options.replay_bytes,
                 "host memory for what was sent to the next stage, so that a lost stage's KV is replayed and not recomputed; "
                 "-1: a sixteenth of the memory, at most 256 MiB; 0: none")
      ->check(CLI::Range(int64_t{-1}, int64_t{1} << 50));
  app.add_option("--cache-dir", options.cache_dir, "where models are; default: the user's cache folder");
  app.add_option("--device", options.device, "auto (cuda where there is a device)|cpu|cuda|cuda:N")
      ->check(Checked([](const std::string& text) { return kernels::ParseDevice(text).status(); }))
      ->capture_default_str();
  app.add_option("--gpu-memory-utilization", options.gpu_memory_utilization,
                 "part of a GPU's free memory for weights, KV and workspace, unless --memory-bytes says how much")
      ->check(CLI::Range(0.01, 1.0))
      ->capture_default_str();
  app.add_option("--numerics", options.numerics, "CUDA: invariant (same bits in any batch)|fast")
      ->check(CLI::IsMember({"invariant", "fast"}))
      ->capture_default_str();
  app.add_option("--isa", options.isa, "auto|scalar|avx2|avx512|amx")
      ->check(CLI::IsMember({"auto", "scalar", "avx2", "avx512", "amx"}))
      ->check(Checked(CheckIsa))
      ->capture_default_str();
  app.add_flag("--pin-threads", options.pin_threads, "bind each compute thread to a core");
  app.add_option("--transports", options.transports, "UCX_TLS")->capture_default_str();
  app.add_option("--net-devices", options.net_devices, "UCX_NET_DEVICES, such as eth0; empty: all");
  app.add_option("--tcp-port-range", options.tcp_port_range, "ports of the data plane, such as 13500-13600; empty: any")
      ->check(IsPortRange());
  app.add_option("--blob-listen", options.blob_listen, "HOST:PORT of the Blob service")->check(IsHostPort())->capture_default_str();
  app.add_option("--metrics-listen", options.metrics_listen, "HOST:PORT of /metrics")->check(IsHostPort())->capture_default_str();
  app.add_option("--metrics-tls", options.metrics_tls, "HTTPS for /metrics and health too, when there is --tls")
      ->capture_default_str();
  app.add_option("--ready-file", options.ready_file, "written when registered");
  app.add_option("--shutdown-timeout-ms", options.shutdown_timeout_ms, "grace after SIGTERM")
      ->check(CLI::Range(0, 3'600'000))
      ->capture_default_str();
  app.add_option("--log-level", options.log_level, "debug|info|warning|error")->check(IsLogLevel())->capture_default_str();
  app.add_option("--log-format", options.log_format, "json|plain")->check(CLI::IsMember({"json", "plain"}))->capture_default_str();
  app.add_option("--otlp-endpoint", options.otlp_endpoint,
                 "http://host:port of an OpenTelemetry collector that takes traces; empty: no traces")
      ->check(IsTraceEndpoint());
  app.add_flag("--check-config", options.check_config, "parse and validate, then exit");
}

absl::StatusOr<std::vector<std::string>> SplitAddresses(const std::string& text) {
  std::vector<std::string> addresses;
  std::stringstream stream(text);
  for (std::string item; std::getline(stream, item, ',');) {
    PAGODA_ASSIGN_OR_RETURN(const HostPort address, ParseHostPort(item));
    addresses.push_back(address.ToString());
  }
  if (addresses.empty()) return absl::InvalidArgumentError("--coordinators is empty: give HOST:PORT[,HOST:PORT]");
  return addresses;
}

absl::Status Validate(const WorkerOptions& options) {
  PAGODA_RETURN_IF_ERROR(SplitAddresses(options.coordinators).status());
  if (!options.api_key_file.empty()) {
    PAGODA_RETURN_IF_ERROR(Annotate(security::KeyRing::Load(options.api_key_file).status(), "--api-key-file"));
  }
  if (options.tls.empty()) return absl::OkStatus();
  return Annotate(security::CheckClusterFolder(options.tls, security::Role::kWorker), "--tls");
}

// Signals are taken by a thread of their own; the second one ends the process at once.
class ShutdownSignal {
 public:
  ShutdownSignal() {
    sigemptyset(&set_);
    sigaddset(&set_, SIGTERM);
    sigaddset(&set_, SIGINT);
    sigaddset(&set_, SIGHUP);
    pthread_sigmask(SIG_BLOCK, &set_, nullptr);  // inherited by every thread made later
    signal(SIGPIPE, SIG_IGN);
  }
  // Until it is time to end; `reload` is called at each SIGHUP before.
  void Wait(const std::function<void()>& reload) {
    int number = 0;
    while (sigwait(&set_, &number) == 0 && number == SIGHUP) reload();
    LogInfo("stopping", {{"signal", number}});
  }
  // From now on: another signal, or `grace_ms` gone by, ends the process.
  void ExitOnNext(int grace_ms) {
    sigdelset(&set_, SIGHUP);
    std::thread([set = set_, grace_ms] {
      const timespec grace{.tv_sec = grace_ms / 1000, .tv_nsec = (grace_ms % 1000) * 1'000'000L};
      const int number = sigtimedwait(&set, nullptr, &grace);
      _exit(number > 0 ? 130 : 1);
    }).detach();
  }

 private:
  sigset_t set_;
};

void WriteReadyFile(const std::string& path, const std::string& text) {
  if (path.empty()) return;
  const std::string beside = path + ".new";
  std::ofstream(beside) << text;
  std::rename(beside.c_str(), path.c_str());
}

int64_t MemoryFor(const WorkerOptions& options, const kernels::Backend& backend) {
  if (options.memory_bytes > 0) return options.memory_bytes;
  if (const int64_t device = backend.FreeMemoryBytes(); device > 0) {
    return static_cast<int64_t>(static_cast<double>(device) * options.gpu_memory_utilization);
  }
  return AvailableMemoryBytes() / 10 * 8;
}

wire::Register Identity(const WorkerOptions& options, kernels::Backend& backend, int threads) {
  wire::Register identity;
  identity.set_name(options.name.empty() ? absl::StrCat("worker-", getpid()) : options.name);
  std::random_device device;
  identity.set_incarnation((static_cast<uint64_t>(device()) << 32) | device());
  identity.set_protocol(kProtocol);
  identity.set_version(PAGODA_VERSION);
  identity.set_host(options.advertise);
  const std::string_view profile = backend.numerics_profile();
  identity.set_numerics_profile(profile.data(), profile.size());
  const std::string_view implementation = backend.implementation();
  identity.set_implementation(implementation.data(), implementation.size());
  identity.set_threads(threads);
  identity.set_memory_bytes(MemoryFor(options, backend));
  const MachineRates rates = MeasureRates(backend, threads);
  identity.set_memory_bandwidth(rates.memory_bandwidth);
  identity.set_compute_rate(rates.compute_rate);
  identity.set_kv_cache_bytes(options.kv_cache_bytes);
  identity.set_kv_moves(backend.host_memory() ? 1 : 0);
  return identity;
}

// Serves this worker's model files and KV blocks to others.
struct BlobServer {
  std::shared_ptr<BlobCatalog> catalog = std::make_shared<BlobCatalog>();
  std::shared_ptr<KvWindow> kv = std::make_shared<KvWindow>();
  std::unique_ptr<grpc::Service> service = MakeBlobService(catalog, kv);
  std::unique_ptr<grpc::Server> server;
  int port = 0;

  absl::Status Start(const std::string& listen, const security::SharedTls& tls) {
    grpc::ServerBuilder builder;
    const std::vector<security::MethodRule> rules = {{"/pagoda.internal.v1.Blob/", {security::Role::kWorker}}};
    builder.AddListeningPort(listen, security::ServerCredentialsWith(tls, rules), &port);
    builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
    builder.RegisterService(service.get());
    server = builder.BuildAndStart();
    if (server != nullptr && port != 0) return absl::OkStatus();
    return absl::UnavailableError(absl::StrCat("cannot listen on ", listen, " (--blob-listen)"));
  }
  ~BlobServer() {
    if (server != nullptr) server->Shutdown(std::chrono::system_clock::now() + std::chrono::milliseconds(200));
  }
};

absl::Status Serve(const WorkerOptions& options, const CLI::App& app) {
  ShutdownSignal shutdown;
  PAGODA_ASSIGN_OR_RETURN(const std::vector<std::string> coordinators, SplitAddresses(options.coordinators));
  PAGODA_ASSIGN_OR_RETURN(const kernels::Isa isa, kernels::ParseIsa(options.isa));
  PAGODA_ASSIGN_OR_RETURN(const security::SharedTls tls, security::ClusterTls::Load(options.tls, security::Role::kWorker));
  const int threads = options.threads > 0 ? options.threads : AvailableThreads();
  PAGODA_ASSIGN_OR_RETURN(const kernels::DeviceChoice device, kernels::ParseDevice(options.device));
  PAGODA_ASSIGN_OR_RETURN(
      std::unique_ptr<kernels::Backend> backend,
      kernels::MakeBackend({.device = device, .fast = options.numerics == "fast", .cpu = {.threads = threads, .isa = isa, .pin = options.pin_threads}}));
  PAGODA_ASSIGN_OR_RETURN(std::unique_ptr<Transport> transport,
                          MakeUcxTransport({.transports = options.transports,
                                            .net_devices = options.net_devices,
                                            .tcp_port_range = options.tcp_port_range}));
  wire::Register identity = Identity(options, *backend, threads);
  identity.set_data_address(transport->address());
  BlobServer blobs;
  PAGODA_RETURN_IF_ERROR(blobs.Start(options.blob_listen, tls));
  identity.set_blob_address(HostPort{.host = options.advertise, .port = blobs.port}.ToString());

  WorkerMetrics metrics;
  std::unique_ptr<Tracer> tracer;
  const auto count_spans = SpanCounter(*metrics.registry(), "pagoda_worker");
  if (!options.otlp_endpoint.empty()) {
    PAGODA_ASSIGN_OR_RETURN(tracer, Tracer::Start({.endpoint = options.otlp_endpoint,
                                                   .service = "pagoda-worker",
                                                   .instance = identity.name(),
                                                   .version = PAGODA_VERSION,
                                                   .count = count_spans,
                                                   .transport = {}}));
  }
  PAGODA_ASSIGN_OR_RETURN(const std::unique_ptr<security::StatusServer> metrics_server,
                          security::StatusServer::Start({.listen = options.metrics_listen,
                                                         .registry = metrics.registry(),
                                                         .ready = [&metrics] { return metrics.Ready(); },
                                                         .tls = options.metrics_tls ? options.tls : "",
                                                         .api_key_file = options.api_key_file,
                                                         .certificate = security::CertificateIn(options.tls)}));
  LogInfo("started", {{"name", identity.name()},
                      {"implementation", identity.implementation()},
                      {"threads", threads},
                      {"memory_bytes", identity.memory_bytes()},
                      {"memory_bandwidth", identity.memory_bandwidth()},
                      {"compute_rate", identity.compute_rate()},
                      {"metrics_port", metrics_server->port()}});
  const int64_t replay_bytes =
      options.replay_bytes >= 0 ? options.replay_bytes : std::min(kMostReplayBytes, identity.memory_bytes() / 16);
  const std::string ready = absl::StrCat(identity.name(), "\nmetrics ", metrics_server->port(), "\n");
  CoordinatorClient client({.coordinators = coordinators,
                            .tls = tls,
                            .identity = std::move(identity),
                            .metrics = &metrics,
                            .on_registered = [&] { WriteReadyFile(options.ready_file, ready); },
                            .pulse_file = options.ready_file});
  auto puller = std::make_shared<KvPuller>(blobs.kv, tls);
  Engine engine({.backend = std::move(backend),
                 .transport = std::move(transport),
                 .open_model = MakeModelOpener({.cache_root = options.cache_dir, .catalog = blobs.catalog, .tls = tls}),
                 .kv_cache_bytes = options.kv_cache_bytes,
                 .replay_bytes = replay_bytes,
                 .sink = &client,
                 .kv_window = blobs.kv,
                 .pull_kv =
                     [pulling = std::weak_ptr(puller)](KvFill fill, KvPuller::Done done) {
                       if (const auto alive = pulling.lock()) alive->Pull(std::move(fill), std::move(done));
                     },
                 .tracer = tracer.get(),
                 .on_device_lost = [](const absl::Status& status) {
                   LogError("device_lost", {{"error", status.ToString()}});
                   _exit(kExitDeviceLost);  // its context is broken: only a new process can use the device again
                 }});
  client.Start(engine);
  shutdown.Wait([&] {
    ReloadLogLevel(app);
    metrics_server->ReloadKeys();
  });
  shutdown.ExitOnNext(options.shutdown_timeout_ms);
  client.Stop();   // the coordinator gives what ran here to others, with its KV where it can
  puller.reset();  // before the engine, which it tells
  return absl::OkStatus();
}

int Main(int argc, char** argv) {
  WorkerOptions options;
  CLI::App app("Pagoda worker: one rank of one pipeline stage");
  AddConfigFile(app);
  AddOptions(app, options);
  absl::Status status = ParseCommandLine(app, argc, argv);
  if (absl::IsCancelled(status) && status.message().empty()) return 0;
  if (status.ok()) status = Validate(options);
  if (!status.ok()) {
    std::cerr << "pagoda-worker: " << status.message() << "\n";
    return 2;
  }
  if (options.check_config) return 0;
  InitLog("worker", *ParseLogLevel(options.log_level), options.log_format == "plain");
  security::TakeGrpcLog();
  status = Serve(options, app);
  if (status.ok()) {
    LogInfo("stopped");
    return 0;
  }
  LogError("failed", {{"error", status.ToString()}});
  return 1;
}

}  // namespace
}  // namespace pagoda::worker

int main(int argc, char** argv) { return pagoda::worker::Main(argc, argv); }
