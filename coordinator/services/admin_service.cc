#include "coordinator/services/admin_service.h"

#include "coordinator/services/chunk_writer.h"
#include "coordinator/services/convert.h"
#include "coordinator/services/describe.h"

namespace pagoda::coordinator {

namespace v1 = ::pagoda::v1;

namespace {

absl::Status NotLeader(const ClusterView& view) {
  return absl::UnavailableError(view.leader_address.empty() ? "this coordinator does not lead, and no other one is known to"
                                                            : absl::StrCat("this coordinator does not lead; ask ",
                                                                           view.leader_address));
}

}  // namespace

// Finishes with the deployment as it is after the change.
Coordinator::Done AdminService::AnswerWith(grpc::ServerUnaryReactor* reactor, std::string name, v1::Deployment* response) {
  return [this, reactor, name = std::move(name), response](absl::Status status) {
    if (!status.ok()) {
      reactor->Finish(ToGrpc(status));
      return;
    }
    coordinator_.View([reactor, name, response](ClusterView view) {
      for (const DeploymentRecord& deployment : view.deployments) {
        if (deployment.spec.name == name) Describe(deployment, view, *response);
      }
      reactor->Finish(grpc::Status::OK);
    });
  };
}

grpc::ServerUnaryReactor* AdminService::ApplyDeployment(grpc::CallbackServerContext* context,
                                                        const v1::ApplyDeploymentRequest* request,
                                                        v1::Deployment* response) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  absl::StatusOr<DeploymentSpec> spec = FromWire(request->spec());
  if (!spec.ok()) {
    reactor->Finish(ToGrpc(spec.status()));
    return reactor;
  }
  const auto model = coordinator_.catalog().Open(spec->model);
  if (!model.ok()) {
    reactor->Finish(ToGrpc(Annotate(model.status(), absl::StrCat("opening model '", spec->model, "'"))));
    return reactor;
  }
  const std::string name = spec->name;
  coordinator_.Apply(*std::move(spec), {.digest = (*model)->digest(), .sizes = (*model)->sizes()},
                     AnswerWith(reactor, name, response));
  return reactor;
}

grpc::ServerUnaryReactor* AdminService::ListDeployments(grpc::CallbackServerContext* context,
                                                        const v1::ListDeploymentsRequest*,
                                                        v1::ListDeploymentsResponse* response) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  coordinator_.View([reactor, response](ClusterView view) {
    if (!view.leads) return reactor->Finish(ToGrpc(NotLeader(view)));
    for (const DeploymentRecord& deployment : view.deployments) Describe(deployment, view, *response->add_deployments());
    reactor->Finish(grpc::Status::OK);
  });
  return reactor;
}

grpc::ServerUnaryReactor* AdminService::ScaleDeployment(grpc::CallbackServerContext* context,
                                                        const v1::ScaleDeploymentRequest* request,
                                                        v1::Deployment* response) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  coordinator_.Scale(request->name(), request->replicas(), AnswerWith(reactor, request->name(), response));
  return reactor;
}

grpc::ServerUnaryReactor* AdminService::DrainDeployment(grpc::CallbackServerContext* context,
                                                        const v1::DrainDeploymentRequest* request,
                                                        v1::Deployment* response) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  if (request->timeout_ms() < 0) {
    reactor->Finish(grpc::Status(grpc::StatusCode::INVALID_ARGUMENT, "timeout_ms is below 0"));
    return reactor;
  }
  coordinator_.Drain(request->name(), request->timeout_ms(), AnswerWith(reactor, request->name(), response));
  return reactor;
}

grpc::ServerUnaryReactor* AdminService::DeleteDeployment(grpc::CallbackServerContext* context,
                                                         const v1::DeleteDeploymentRequest* request,
                                                         v1::DeleteDeploymentResponse*) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  coordinator_.Delete(request->name(), [reactor](absl::Status status) { reactor->Finish(ToGrpc(status)); });
  return reactor;
}

grpc::ServerUnaryReactor* AdminService::GetCluster(grpc::CallbackServerContext* context, const v1::GetClusterRequest*,
                                                   v1::ClusterState* response) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  coordinator_.View([this, reactor, response](ClusterView view) {
    if (!view.leads) return reactor->Finish(ToGrpc(NotLeader(view)));
    Describe(view, coordinator_.options(), *response);
    reactor->Finish(grpc::Status::OK);
  });
  return reactor;
}

}  // namespace pagoda::coordinator
