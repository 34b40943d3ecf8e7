#include "cli/admin_client.h"

#include <grpcpp/grpcpp.h>

#include <chrono>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_split.h"
#include "pagoda/v1/admin.grpc.pb.h"
#include "security/cluster_tls.h"

namespace pagoda::cli {
namespace {

constexpr int kCallTimeoutMs = 30'000;

absl::Status ToStatus(const grpc::Status& status, const std::string& server) {
  if (status.ok()) return absl::OkStatus();
  const auto code = static_cast<absl::StatusCode>(status.error_code());
  return absl::Status(code, absl::StrCat("coordinator ", server, ": ", status.error_message()));
}

}  // namespace

struct AdminClient::State {
  struct Server {
    std::string address;
    std::unique_ptr<v1::Admin::Stub> stub;
  };
  std::vector<Server> servers;
  absl::Status usable;

  // Tries the servers in turn while they are unreachable.
  template <typename Request, typename Response>
  absl::StatusOr<Response> Call(grpc::Status (v1::Admin::Stub::*method)(grpc::ClientContext*, const Request&,
                                                                        Response*),
                                const Request& request, int timeout_ms) {
    PAGODA_RETURN_IF_ERROR(usable);
    absl::Status last = absl::InvalidArgumentError("no coordinator named");
    for (Server& server : servers) {
      grpc::ClientContext context;
      context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(timeout_ms));
      Response response;
      last = ToStatus((server.stub.get()->*method)(&context, request, &response), server.address);
      if (last.ok()) return response;
      // One that cannot be reached, or follows another: the leader is among the rest.
      if (!absl::IsUnavailable(last)) return last;
    }
    return last;
  }
};

AdminClient::AdminClient(const std::string& coordinators, const std::string& tls) : state_(std::make_unique<State>()) {
  const auto loaded = security::ClusterTls::Load(tls, security::Role::kAdmin);
  state_->usable = loaded.status();
  if (!loaded.ok()) return;
  for (absl::string_view address : absl::StrSplit(coordinators, ',', absl::SkipWhitespace())) {
    const std::string text(absl::StripAsciiWhitespace(address));
    auto channel = security::ChannelTo(text, *loaded, {security::Role::kCoordinator});
    state_->servers.push_back({text, v1::Admin::NewStub(channel)});
  }
}

AdminClient::~AdminClient() = default;

absl::StatusOr<v1::Deployment> AdminClient::Apply(const v1::DeploymentSpec& spec) {
  v1::ApplyDeploymentRequest request;
  *request.mutable_spec() = spec;
  return state_->Call(&v1::Admin::Stub::ApplyDeployment, request, kCallTimeoutMs);
}

absl::StatusOr<v1::ListDeploymentsResponse> AdminClient::List() {
  return state_->Call(&v1::Admin::Stub::ListDeployments, v1::ListDeploymentsRequest(), kCallTimeoutMs);
}

absl::StatusOr<v1::Deployment> AdminClient::Scale(const std::string& name, int replicas) {
  v1::ScaleDeploymentRequest request;
  request.set_name(name);
  request.set_replicas(replicas);
  return state_->Call(&v1::Admin::Stub::ScaleDeployment, request, kCallTimeoutMs);
}

absl::StatusOr<v1::Deployment> AdminClient::Drain(const std::string& name, int timeout_ms) {
  v1::DrainDeploymentRequest request;
  request.set_name(name);
  request.set_timeout_ms(timeout_ms);
  const int wait_ms = timeout_ms == 0 ? 24 * 3'600'000 : timeout_ms + kCallTimeoutMs;
  return state_->Call(&v1::Admin::Stub::DrainDeployment, request, wait_ms);
}

absl::Status AdminClient::Delete(const std::string& name) {
  v1::DeleteDeploymentRequest request;
  request.set_name(name);
  return state_->Call(&v1::Admin::Stub::DeleteDeployment, request, kCallTimeoutMs).status();
}

absl::StatusOr<v1::ClusterState> AdminClient::GetCluster(int timeout_ms) {
  return state_->Call(&v1::Admin::Stub::GetCluster, v1::GetClusterRequest(), timeout_ms);
}

std::string NameOf(v1::DeploymentState state) {
  constexpr absl::string_view kPrefix = "DEPLOYMENT_STATE_";
  const std::string& name = v1::DeploymentState_Name(state);
  if (name.size() < kPrefix.size()) return absl::StrCat("state ", static_cast<int>(state));  // of a newer coordinator
  return absl::AsciiStrToLower(name.substr(kPrefix.size()));
}

}  // namespace pagoda::cli
