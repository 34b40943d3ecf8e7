// pagoda.v1.Admin of one coordinator, with deadlines, errors as absl::Status. Thread rule: any thread.
#pragma once

#include <memory>
#include <string>

#include "common/status.h"
#include "pagoda/v1/admin.pb.h"

namespace pagoda::cli {

class AdminClient {
 public:
  // Does not connect yet. `coordinators`: "host:port[,host:port]"; the first that answers is used. `tls`: folder with the
  // certificate of an admin (security/cluster_tls.h); empty: plain. A folder that cannot be used is what every call returns.
  explicit AdminClient(const std::string& coordinators, const std::string& tls = "");
  ~AdminClient();

  absl::StatusOr<v1::Deployment> Apply(const v1::DeploymentSpec& spec);
  absl::StatusOr<v1::ListDeploymentsResponse> List();
  absl::StatusOr<v1::Deployment> Scale(const std::string& name, int replicas);
  absl::StatusOr<v1::Deployment> Drain(const std::string& name, int timeout_ms);
  absl::Status Delete(const std::string& name);
  absl::StatusOr<v1::ClusterState> GetCluster(int timeout_ms = 2000);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// "pending", "ready", ...
std::string NameOf(v1::DeploymentState state);

}  // namespace pagoda::cli
