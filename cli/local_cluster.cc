#include "cli/local_cluster.h"

#include <fcntl.h>
#include <netdb.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <iostream>
#include <sstream>

#include "absl/strings/ascii.h"
#include "absl/strings/str_split.h"
#include "cli/http_client.h"
#include "cli/terminal.h"
#include "common/clock.h"

namespace pagoda::cli {
namespace {

// Binds a listening socket there and lets go of it; the port it had.
absl::StatusOr<int> BindOnce(const HostPort& address) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  if (const int error = getaddrinfo(address.host.c_str(), std::to_string(address.port).c_str(), &hints, &found)) {
    return absl::InvalidArgumentError(absl::StrCat(address.host, ": ", gai_strerror(error)));
  }
  const int socket_fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const int on = 1;
  setsockopt(socket_fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  absl::StatusOr<int> port = address.port;
  if (bind(socket_fd, found->ai_addr, found->ai_addrlen) != 0 || listen(socket_fd, 1) != 0) {
    port = absl::AlreadyExistsError(std::strerror(errno));
  } else {
    sockaddr_storage bound{};
    socklen_t size = sizeof(bound);
    getsockname(socket_fd, reinterpret_cast<sockaddr*>(&bound), &size);
    port = ntohs(bound.ss_family == AF_INET6 ? reinterpret_cast<sockaddr_in6*>(&bound)->sin6_port
                                             : reinterpret_cast<sockaddr_in*>(&bound)->sin_port);
  }
  close(socket_fd);
  freeaddrinfo(found);
  return port;
}

std::string DefaultStateFolder(int port) {
  const char* state_home = std::getenv("XDG_STATE_HOME");
  const char* home = std::getenv("HOME");
  const std::string base = state_home != nullptr && *state_home != '\0'
                               ? state_home
                               : absl::StrCat(home != nullptr ? home : "/tmp", "/.local/state");
  return port == 0 ? absl::StrCat(base, "/pagoda/serve-", getpid()) : absl::StrCat(base, "/pagoda/serve-", port);
}

// "key rest" lines of a router's ready file.
absl::StatusOr<HostPort> AddressInReadyText(const std::string& text, const std::string& key) {
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    if (absl::StartsWith(line, key + " ")) return ParseHostPort(std::string(line.substr(key.size() + 1)));
  }
  return absl::InternalError(absl::StrCat("the router's ready file does not name its ", key, " address: ", text));
}

}  // namespace

absl::StatusOr<int> FreePort() { return BindOnce({"127.0.0.1", 0}); }

absl::Status CheckPortFree(const HostPort& address, const std::string& flag) {
  if (address.port == 0) return absl::OkStatus();
  const absl::Status bound = BindOnce(address).status();
  if (bound.ok()) return bound;
  return absl::AlreadyExistsError(absl::StrCat("cannot listen on ", address.ToString(), ": ", bound.message(),
                                               "; choose another with ", flag));
}

LocalCluster::LocalCluster(ClusterOptions options, std::string served_name, std::string model_path)
    : options_(std::move(options)), served_name_(std::move(served_name)), model_path_(std::move(model_path)) {}

LocalCluster::~LocalCluster() {
  supervisor_.reset();
  if (lock_ >= 0) close(lock_);
}

absl::StatusOr<std::unique_ptr<LocalCluster>> LocalCluster::Create(ClusterOptions options, std::string served_name,
                                                                   std::string model_path) {
  for (int i = 0; i < options.num_routers; ++i) {
    PAGODA_RETURN_IF_ERROR(
        CheckPortFree({options.host, options.port == 0 ? 0 : options.port + 2 * i}, "--port"));
    PAGODA_RETURN_IF_ERROR(
        CheckPortFree({options.host, *options.grpc_port == 0 ? 0 : *options.grpc_port + 2 * i}, "--grpc-port"));
  }
  std::unique_ptr<LocalCluster> cluster(
      new LocalCluster(std::move(options), std::move(served_name), std::move(model_path)));
  PAGODA_RETURN_IF_ERROR(cluster->OpenStateFolder());
  if (!cluster->options_.tls.empty()) {
    PAGODA_RETURN_IF_ERROR(
        MakeCertificateFolder({.folder = cluster->options_.tls, .hosts = {cluster->options_.host}}).status());
  }
  PAGODA_ASSIGN_OR_RETURN(cluster->supervisor_, Supervisor::Create(cluster->state_folder_ + "/run"));
  return cluster;
}

absl::Status LocalCluster::OpenStateFolder() {
  state_folder_ = options_.state_dir.empty() ? DefaultStateFolder(options_.port) : options_.state_dir;
  std::error_code error;
  std::filesystem::create_directories(state_folder_ + "/logs", error);
  if (error) return absl::UnavailableError(absl::StrCat("cannot make ", state_folder_, ": ", error.message()));
  const std::string lock_path = state_folder_ + "/lock";
  lock_ = open(lock_path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (lock_ < 0 || flock(lock_, LOCK_EX | LOCK_NB) != 0) {
    return absl::AlreadyExistsError(absl::StrCat("another `pagoda serve` uses ", state_folder_,
                                                 "; stop it, or choose another folder with --state-dir"));
  }
  // The command line alone says what is served: what an earlier cluster of this folder had deployed is not taken up.
  for (const char* suffix : {"", "-wal", "-shm", "-journal"}) {
    std::filesystem::remove(absl::StrCat(state_folder_, "/coordinator.db", suffix), error);
  }
  return absl::OkStatus();
}

ChildSpec LocalCluster::Spec(const std::string& name, const std::string& binary,
                             std::vector<std::string> arguments) const {
  ChildSpec spec;
  spec.name = name;
  spec.ready_file = absl::StrCat(state_folder_, "/run/", name);
  spec.command.log_path = absl::StrCat(state_folder_, "/logs/", name, ".log");
  const std::string folder = std::filesystem::read_symlink("/proc/self/exe").parent_path();
  spec.command.arguments = {absl::StrCat(folder, "/", binary),
                            "--name", name,
                            "--tls", Certificate(name.substr(0, name.find('-'))),
                            "--api-key-file", options_.api_key_file,
                            "--ready-file", spec.ready_file,
                            "--log-level", options_.log_level,
                            "--shutdown-timeout-ms", std::to_string(options_.shutdown_timeout_ms)};
  if (!options_.otlp_endpoint.empty()) {
    spec.command.arguments.insert(spec.command.arguments.end(), {"--otlp-endpoint", options_.otlp_endpoint});
  }
  for (std::string& argument : arguments) spec.command.arguments.push_back(std::move(argument));
  return spec;
}

std::string LocalCluster::coordinators() const {
  std::string text;
  for (const HostPort& address : coordinators_) absl::StrAppend(&text, text.empty() ? "" : ",", address.ToString());
  return text;
}

// One after the other, so that the first leads. All have one store.
absl::Status LocalCluster::StartCoordinator(const std::string& name) {
  PAGODA_ASSIGN_OR_RETURN(const int metrics_port, FreePort());
  coordinator_names_.push_back(name);
  coordinator_metrics_.push_back({"127.0.0.1", metrics_port});
  const auto spec = [&](const std::string& listen) {
    std::vector<std::string> arguments = {"--listen", listen, "--metrics-listen", coordinator_metrics_.back().ToString(),
                                          "--store", state_folder_ + "/coordinator.db"};
    if (!options_.cache_dir.empty()) arguments.insert(arguments.end(), {"--cache-dir", options_.cache_dir});
    return Spec(name, "pagoda-coordinator", arguments);
  };
  PAGODA_RETURN_IF_ERROR(supervisor_->Start(spec("127.0.0.1:0")));
  PAGODA_RETURN_IF_ERROR(supervisor_->WaitUntil([&] { return supervisor_->ReadyText(name).has_value(); }));
  const std::string text = *supervisor_->ReadyText(name);
  PAGODA_ASSIGN_OR_RETURN(const HostPort address, ParseHostPort(std::string(absl::StripAsciiWhitespace(text))));
  coordinators_.push_back(address);
  // Workers and routers know this address: a coordinator that is restarted must come back at it.
  supervisor_->ReplaceArguments(name, spec(address.ToString()).command.arguments);
  return absl::OkStatus();
}

std::vector<std::string> LocalCluster::WorkerArguments(const std::string& metrics_port) const {
  std::vector<std::string> arguments = {
      "--coordinators", coordinators(),
      "--threads", std::to_string(options_.worker_threads),
      "--memory-bytes", std::to_string(options_.worker_memory_bytes),
      "--isa", options_.isa,
      "--metrics-listen", absl::StrCat("127.0.0.1:", metrics_port)};
  if (options_.worker_kv_bytes > 0) {
    arguments.insert(arguments.end(), {"--kv-cache-bytes", std::to_string(options_.worker_kv_bytes)});
  }
  if (!options_.cache_dir.empty()) arguments.insert(arguments.end(), {"--cache-dir", options_.cache_dir});
  if (!options_.transports.empty()) arguments.insert(arguments.end(), {"--transports", options_.transports});
  if (options_.pin_threads) arguments.push_back("--pin-threads");
  return arguments;
}

absl::Status LocalCluster::StartWorkers() {
  const std::vector<std::string> arguments = WorkerArguments("0");
  for (int i = 0; i < options_.workers; ++i) {
    const std::string name = absl::StrCat("worker-", options_.workers > 10 && i < 10 ? "0" : "", i);
    worker_names_.push_back(name);
    PAGODA_RETURN_IF_ERROR(supervisor_->Start(Spec(name, "pagoda-worker", arguments)));
  }
  return absl::OkStatus();
}

std::vector<std::string> LocalCluster::RouterArguments(const HostPort& http, const HostPort& grpc) const {
  std::vector<std::string> arguments = {"--coordinators", coordinators(), "--listen", http.ToString(),
                                        "--grpc-listen", grpc.ToString()};
  if (!options_.tls.empty()) {
    const std::string server = ServerFolder(options_.tls);
    arguments.insert(arguments.end(), {"--ssl-certfile", server + "/tls.crt", "--ssl-keyfile", server + "/tls.key"});
  }
  return arguments;
}

absl::Status LocalCluster::StartRouters() {
  for (int i = 0; i < options_.num_routers; ++i) {
    const auto port = [&](int first) { return first == 0 ? 0 : first + 2 * i; };
    const std::string name = absl::StrCat("router-", i);
    router_names_.push_back(name);
    PAGODA_RETURN_IF_ERROR(supervisor_->Start(
        Spec(name, "pagoda-router",
             RouterArguments({options_.host, port(options_.port)}, {options_.host, port(*options_.grpc_port)}))));
  }
  return absl::OkStatus();
}

std::string LocalCluster::LoadProgress(const v1::ClusterState& state) const {
  std::string text = "loading weights:";
  for (const v1::WorkerState& worker : state.workers()) {
    absl::StrAppend(&text, "  ", worker.name(), " ",
                    worker.state() == "ready" ? 100 : static_cast<int>(worker.load_progress() * 100), "%");
  }
  return text;
}

absl::Status LocalCluster::Deploy() {
  v1::DeploymentSpec spec;
  spec.set_name(served_name_);
  spec.set_model(model_path_);
  spec.set_pipeline_parallel_size(static_cast<int>(options_.stages.size()));
  for (const int size : options_.stages) spec.add_tensor_parallel_size(size);
  spec.set_replicas(options_.data_parallel_size);
  spec.set_max_model_len(options_.max_model_len);
  spec.set_kv_cache_type(options_.kv_cache_dtype);
  spec.set_activation_bits(options_.activation_bits);
  spec.set_max_num_batched_tokens(options_.max_num_batched_tokens);
  spec.set_max_num_seqs(options_.max_num_seqs);
  spec.set_disable_prefix_caching(options_.no_prefix_caching);
  spec.set_disable_chunked_prefill(options_.no_chunked_prefill);
  spec.set_kv_cache_bytes(options_.worker_kv_bytes);
  spec.set_block_size(options_.block_size);
  spec.set_max_queued_requests(options_.max_queued_requests);
  for (const int layers : options_.layers_per_stage) spec.add_layers_per_stage(layers);

  AdminClient admin(coordinators(), Certificate("admin"));
  PAGODA_RETURN_IF_ERROR(admin.Apply(spec).status());
  Progress progress(2000);
  absl::Status failure;
  MonotonicNs refused_since = 0;  // all workers are there, and still it is not placed
  const auto deployed = [&] {
    const absl::StatusOr<v1::ClusterState> state = admin.GetCluster();
    if (!state.ok()) return false;  // the coordinator's death is noticed as such
    progress.Update(LoadProgress(*state));
    const bool all_joined = state->workers_size() >= static_cast<int>(worker_names_.size());
    for (const v1::Deployment& deployment : state->deployments()) {
      if (deployment.spec().name() != served_name_) continue;
      if (deployment.state() == v1::DEPLOYMENT_STATE_READY) {
        note_ = deployment.message();
        return true;
      }
      if (deployment.state() == v1::DEPLOYMENT_STATE_FAILED) {
        failure = absl::FailedPreconditionError(absl::StrCat("cannot serve ", model_path_, ": ", deployment.message()));
        return true;
      }
      if (deployment.state() != v1::DEPLOYMENT_STATE_PENDING || deployment.message().empty() || !all_joined) {
        refused_since = 0;
      } else if (refused_since == 0) {
        refused_since = NowNs();
      } else if (NowNs() - refused_since > 3 * kNsPerSecond) {
        failure = absl::ResourceExhaustedError(absl::StrCat("cannot serve ", model_path_, ": ", deployment.message()));
        return true;
      }
    }
    return false;
  };
  PAGODA_RETURN_IF_ERROR(supervisor_->WaitUntil(deployed, 100));
  return failure;
}

absl::Status LocalCluster::WaitForRouters() {
  const auto all_listen = [&] {
    for (const std::string& name : router_names_) {
      if (!supervisor_->ReadyText(name).has_value()) return false;
    }
    return true;
  };
  PAGODA_RETURN_IF_ERROR(supervisor_->WaitUntil(all_listen));
  for (const std::string& name : router_names_) {
    const std::string text = *supervisor_->ReadyText(name);
    RouterAddress address;
    PAGODA_ASSIGN_OR_RETURN(address.http, AddressInReadyText(text, "http"));
    PAGODA_ASSIGN_OR_RETURN(address.grpc, AddressInReadyText(text, "grpc"));
    routers_.push_back(address);
    supervisor_->ReplaceArguments(
        name, Spec(name, "pagoda-router", RouterArguments(address.http, address.grpc)).command.arguments);
  }
  const auto all_serve = [&] {
    for (const RouterAddress& router : routers_) {
      const auto answer = HttpCall(
          {.server = router.http, .target = "/readyz", .timeout_ms = 2000, .authority = authority()});
      if (!answer.ok() || answer->status != 200) return false;
    }
    return true;
  };
  return supervisor_->WaitUntil(all_serve, 50);
}

absl::Status LocalCluster::Start() {
  for (int i = 0; i < options_.num_coordinators; ++i) {
    PAGODA_RETURN_IF_ERROR(StartCoordinator(absl::StrCat("coordinator-", i)));
  }
  PAGODA_RETURN_IF_ERROR(StartWorkers());
  PAGODA_RETURN_IF_ERROR(StartRouters());
  const auto registered = [&] {
    for (const std::string& name : worker_names_) {
      if (!supervisor_->ReadyText(name).has_value()) return false;
    }
    return true;
  };
  PAGODA_RETURN_IF_ERROR(supervisor_->WaitUntil(registered));
  // Prometheus knows their ports: one that is restarted comes back at its own.
  for (const std::string& name : worker_names_) {
    const std::string text = *supervisor_->ReadyText(name);
    const std::vector<std::string> words = absl::StrSplit(text, absl::ByAnyChar(" \n"), absl::SkipEmpty());
    const auto key = std::find(words.begin(), words.end(), "metrics");
    if (key == words.end() || key + 1 == words.end()) {
      return absl::InternalError(absl::StrCat("the ready file of ", name, " names no metrics port: ", text));
    }
    supervisor_->ReplaceArguments(name, Spec(name, "pagoda-worker", WorkerArguments(*(key + 1))).command.arguments);
  }
  PAGODA_RETURN_IF_ERROR(Deploy());
  return WaitForRouters();
}

void LocalCluster::SuperviseUntilStopped() {
  supervisor_->SuperviseUntilStopped([](const std::string& line) { std::cerr << "pagoda: " << line << std::endl; },
                                     options_.hang_timeout_ms);
}

bool LocalCluster::Stop() {
  // Each waits for its own running work; a little more here, so that it is the child that gives up first and says why.
  const int grace_ms = options_.shutdown_timeout_ms + 2000;
  bool clean = supervisor_->Stop(router_names_, grace_ms);
  clean = supervisor_->Stop(coordinator_names_, grace_ms) && clean;
  return supervisor_->Stop(worker_names_, grace_ms) && clean;
}

}  // namespace pagoda::cli
