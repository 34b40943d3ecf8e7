// A whole cluster as children of this process: coordinators, workers, routers. Knows their flags, the order in which
// they start and stop, and when they are ready. Owner and thread: the main thread.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "cli/admin_client.h"
#include "cli/certificates.h"
#include "cli/cluster_options.h"
#include "cli/supervisor.h"
#include "common/config.h"
#include "common/status.h"

namespace pagoda::cli {

class LocalCluster {
 public:
  struct RouterAddress {
    HostPort http;
    HostPort grpc;
  };

  // `options` are settled; `model_path` is a local file or folder.
  static absl::StatusOr<std::unique_ptr<LocalCluster>> Create(ClusterOptions options, std::string served_name,
                                                              std::string model_path);
  ~LocalCluster();

  // Until requests are answered. kCancelled when a signal came first.
  absl::Status Start();
  void SuperviseUntilStopped();
  // Routers first, then the coordinators, then the workers. False when any had to be killed.
  bool Stop();

  const std::vector<RouterAddress>& routers() const { return routers_; }
  std::string coordinators() const;  // HOST:PORT[,HOST:PORT]
  const std::vector<HostPort>& coordinator_metrics() const { return coordinator_metrics_; }
  // What an HTTPS client of these routers trusts: a file; empty without TLS.
  std::string authority() const { return options_.tls.empty() ? "" : ServerFolder(options_.tls) + "/ca.crt"; }
  const std::string& note() const { return note_; }  // of the deployment, what is not as asked; empty: all is
  int signals() const { return supervisor_->signals(); }

 private:
  LocalCluster(ClusterOptions options, std::string served_name, std::string model_path);
  absl::Status OpenStateFolder();
  absl::Status StartCoordinator(const std::string& name);
  std::vector<std::string> WorkerArguments(const std::string& metrics_port) const;
  absl::Status StartWorkers();
  absl::Status StartRouters();
  absl::Status Deploy();
  absl::Status WaitForRouters();
  ChildSpec Spec(const std::string& name, const std::string& binary, std::vector<std::string> arguments) const;
  std::vector<std::string> RouterArguments(const HostPort& http, const HostPort& grpc) const;
  // The folder of a role's certificate, empty without TLS.
  std::string Certificate(const std::string& role) const { return options_.tls.empty() ? "" : options_.tls + "/" + role; }
  std::string LoadProgress(const v1::ClusterState& state) const;

  const ClusterOptions options_;
  const std::string served_name_;
  const std::string model_path_;
  std::string note_;
  std::string state_folder_;
  int lock_ = -1;
  std::unique_ptr<Supervisor> supervisor_;
  std::vector<HostPort> coordinators_;
  std::vector<HostPort> coordinator_metrics_;
  std::vector<std::string> coordinator_names_;
  std::vector<RouterAddress> routers_;
  std::vector<std::string> worker_names_;
  std::vector<std::string> router_names_;
};

// A TCP port of 127.0.0.1 that is free now.
absl::StatusOr<int> FreePort();
// kAlreadyExists when something listens there already.
absl::Status CheckPortFree(const HostPort& address, const std::string& flag);

}  // namespace pagoda::cli
