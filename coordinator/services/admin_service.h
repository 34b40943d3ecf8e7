// pagoda.v1.Admin: deployments and the view of the cluster.
#pragma once

#include "coordinator/coordinator.h"
#include "pagoda/v1/admin.grpc.pb.h"

namespace pagoda::coordinator {

class AdminService final : public ::pagoda::v1::Admin::CallbackService {
 public:
  explicit AdminService(Coordinator& coordinator) : coordinator_(coordinator) {}
  grpc::ServerUnaryReactor* ApplyDeployment(grpc::CallbackServerContext* context,
                                            const ::pagoda::v1::ApplyDeploymentRequest* request,
                                            ::pagoda::v1::Deployment* response) override;
  grpc::ServerUnaryReactor* ListDeployments(grpc::CallbackServerContext* context,
                                            const ::pagoda::v1::ListDeploymentsRequest* request,
                                            ::pagoda::v1::ListDeploymentsResponse* response) override;
  grpc::ServerUnaryReactor* ScaleDeployment(grpc::CallbackServerContext* context,
                                            const ::pagoda::v1::ScaleDeploymentRequest* request,
                                            ::pagoda::v1::Deployment* response) override;
  grpc::ServerUnaryReactor* DrainDeployment(grpc::CallbackServerContext* context,
                                            const ::pagoda::v1::DrainDeploymentRequest* request,
                                            ::pagoda::v1::Deployment* response) override;
  grpc::ServerUnaryReactor* DeleteDeployment(grpc::CallbackServerContext* context,
                                             const ::pagoda::v1::DeleteDeploymentRequest* request,
                                             ::pagoda::v1::DeleteDeploymentResponse* response) override;
  grpc::ServerUnaryReactor* GetCluster(grpc::CallbackServerContext* context,
                                       const ::pagoda::v1::GetClusterRequest* request,
                                       ::pagoda::v1::ClusterState* response) override;

 private:
  Coordinator::Done AnswerWith(grpc::ServerUnaryReactor* reactor, std::string name, ::pagoda::v1::Deployment* response);

  Coordinator& coordinator_;
};

}  // namespace pagoda::coordinator
