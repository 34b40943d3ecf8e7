// The coordinator as a server: its services on one port. Used by main.cc and, in process, by tests.
#pragma once

#include <memory>
#include <string>

#include "common/status.h"
#include "coordinator/coordinator.h"
#include "security/cluster_tls.h"

namespace pagoda::coordinator {

struct ServerOptions {
  CoordinatorOptions coordinator;
  std::string listen = "127.0.0.1:7070";
  std::string advertise;       // host:port where workers, routers and operators reach it; empty: as listen, with the bound port
  std::string store;           // a sqlite file, or etcd://host:port[,...]; empty: in memory
  std::string etcd_ca_file;    // PEM, for etcds:// and for etcd's client authentication
  std::string etcd_certificate_file;
  std::string etcd_key_file;
  int leader_lease_ms = 2000;  // a leader that says nothing for so long is replaced
  security::SharedTls tls;     // null: plain
};

class Server {
 public:
  static absl::StatusOr<std::unique_ptr<Server>> Start(ServerOptions options, std::shared_ptr<ModelCatalog> catalog,
                                                       std::shared_ptr<prometheus::Registry> registry);
  ~Server();  // as Stop(0)

  std::string address() const;  // host:port
  Coordinator& coordinator();
  // Health says NOT_SERVING, new work is refused, what runs finishes within the time; then everything ends. True when all
  // of it did.
  bool Stop(int grace_ms);

 private:
  struct State;
  explicit Server(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace pagoda::coordinator
