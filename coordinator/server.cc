#include "coordinator/server.h"

#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/health_check_service_interface.h>

#include "absl/time/clock.h"
#include "common/config.h"
#include "common/limits.h"
#include "coordinator/health.h"
#include "coordinator/services/admin_service.h"
#include "coordinator/services/blob_service.h"
#include "coordinator/services/pipeline_service.h"
#include "coordinator/services/worker_control_service.h"
#include "coordinator/store/etcd_store.h"
#include "coordinator/store/sqlite_store.h"

namespace pagoda::coordinator {
namespace {

using security::Role;

// Who may call what, when the cluster has certificates. Routers see the cluster and change nothing.
std::vector<security::MethodRule> AllowedMethods() {
  return {{"/pagoda.internal.v1.Pipeline/", {Role::kRouter}},
          {"/pagoda.internal.v1.WorkerControl/", {Role::kWorker}},
          {"/pagoda.internal.v1.Blob/", {Role::kWorker}},
          {"/pagoda.v1.Admin/", {Role::kAdmin}},
          {"/pagoda.v1.Admin/GetCluster", {Role::kAdmin, Role::kRouter}},
          {"/pagoda.v1.Admin/ListDeployments", {Role::kAdmin, Role::kRouter}},
          {"/grpc.health.v1.Health/", {Role::kAdmin, Role::kRouter, Role::kWorker, Role::kCoordinator}},
          {"/grpc.reflection.v1alpha.ServerReflection/", {Role::kAdmin}}};
}

}  // namespace

namespace {

constexpr int kHandOverMs = 250;

absl::StatusOr<std::unique_ptr<Store>> OpenStore(const ServerOptions& options) {
  const absl::Duration lease = absl::Milliseconds(options.leader_lease_ms);
  if (!IsEtcdAddress(options.store)) return OpenSqliteStore(options.store, lease);
  PAGODA_ASSIGN_OR_RETURN(EtcdOptions etcd, ParseEtcdAddress(options.store));
  etcd.lease = lease;
  etcd.ca_file = options.etcd_ca_file;
  etcd.certificate_file = options.etcd_certificate_file;
  etcd.key_file = options.etcd_key_file;
  return OpenEtcdStore(etcd);
}

}  // namespace

struct Server::State {
  std::shared_ptr<ModelCatalog> catalog;
  std::unique_ptr<Coordinator> coordinator;
  std::unique_ptr<PipelineService> pipeline;
  std::unique_ptr<WorkerControlService> worker_control;
  std::unique_ptr<AdminService> admin;
  std::unique_ptr<BlobService> blob;
  std::unique_ptr<grpc::Server> server;
  std::unique_ptr<HealthReporter> health;
  std::string address;
  bool stopped = false;
};

Server::Server(std::unique_ptr<State> state) : state_(std::move(state)) {}

Server::~Server() { Stop(0); }

absl::StatusOr<std::unique_ptr<Server>> Server::Start(ServerOptions options, std::shared_ptr<ModelCatalog> catalog,
                                                      std::shared_ptr<prometheus::Registry> registry) {
  PAGODA_ASSIGN_OR_RETURN(HostPort listen, ParseHostPort(options.listen));
  PAGODA_ASSIGN_OR_RETURN(std::unique_ptr<Store> store, OpenStore(options));
  auto state = std::make_unique<State>();
  state->catalog = catalog;
  state->coordinator = std::make_unique<Coordinator>(options.coordinator, std::move(store), catalog, std::move(registry));
  state->pipeline = std::make_unique<PipelineService>(*state->coordinator);
  state->worker_control = std::make_unique<WorkerControlService>(*state->coordinator);
  state->admin = std::make_unique<AdminService>(*state->coordinator);
  state->blob = std::make_unique<BlobService>(*catalog);

  grpc::EnableDefaultHealthCheckService(true);
  grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort(listen.ToString(), security::ServerCredentialsWith(options.tls, AllowedMethods()), &port);
  builder.RegisterService(state->pipeline.get());
  builder.RegisterService(state->worker_control.get());
  builder.RegisterService(state->admin.get());
  builder.RegisterService(state->blob.get());
  builder.SetMaxReceiveMessageSize(static_cast<int>(limits::kMaxGrpcMessageBytes));
  builder.SetMaxSendMessageSize(static_cast<int>(limits::kMaxGrpcMessageBytes));
  // Clients may ping each second, also without calls; we ping so that a vanished peer's stream ends.
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 1'000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, 20'000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 10'000);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  state->server = builder.BuildAndStart();
  if (state->server == nullptr || port == 0) {
    return absl::UnavailableError(
        absl::StrCat("cannot listen on ", options.listen, ": the port is taken, or the address is not of this machine"));
  }
  listen.port = port;
  state->address = listen.ToString();
  const std::string& advertised = options.advertise.empty() ? state->address : options.advertise;
  state->coordinator->SetBlobAddress(advertised);
  PAGODA_RETURN_IF_ERROR(state->coordinator->Start(advertised));
  if (auto* health = state->server->GetHealthCheckService()) {
    state->health = std::make_unique<HealthReporter>(*state->coordinator, *health);
  }
  return std::unique_ptr<Server>(new Server(std::move(state)));
}

std::string Server::address() const { return state_->address; }
Coordinator& Server::coordinator() { return *state_->coordinator; }

bool Server::Stop(int grace_ms) {
  if (state_->stopped) return true;
  state_->stopped = true;
  if (state_->server == nullptr) return true;
  state_->health.reset();
  // Routers take what runs here elsewhere as soon as they hear of it, or keep it until there is a successor: both go on
  // exactly. To wait for long streams to end would only keep new requests waiting.
  const bool finished = state_->coordinator->FinishRunning(std::min(grace_ms, kHandOverMs));
  state_->coordinator->Stop();
  // The streams were told to end; whoever does not is cut.
  state_->server->Shutdown(std::chrono::system_clock::now() + std::chrono::milliseconds(500));
  state_->server->Wait();
  return finished;
}

}  // namespace pagoda::coordinator
