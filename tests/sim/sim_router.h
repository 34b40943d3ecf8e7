// One router process of a simulated cluster: the real dispatcher, sessions and policy.
#pragma once

#include <map>
#include <memory>

#include "router/dispatcher.h"
#include "router/metrics.h"
#include "router/model_registry.h"
#include "tests/sim/network.h"

namespace pagoda::sim {

class Cluster;

class SimRouter {
 public:
  SimRouter(Cluster& cluster, Life life);

  Life life() const { return life_; }
  router::Dispatcher& dispatcher() { return *dispatcher_; }

  void Leave();  // SIGTERM
  bool leaving() const { return leave_by_ns_ != 0; }
  bool cut_the_rest() const { return cut_the_rest_; }  // what had not ended within its grace

  void OnMessage(int link, const internal::v1::CoordinatorMessage& message);

 private:
  struct Link {
    std::shared_ptr<Stream> stream;
    Life coordinator;
    int64_t last_word_ns = 0;
  };
  void Connect(int coordinator);
  void OnLost(int link);
  void CheckShutdown();
  void Tick();

  Cluster& cluster_;
  World& world_;
  const Life life_;
  router::Metrics metrics_;
  std::unique_ptr<router::ModelRegistry> registry_;
  std::unique_ptr<router::Dispatcher> dispatcher_;
  std::map<int, Link> links_;
  int next_link_ = 1;
  int64_t leave_by_ns_ = 0;
  bool cut_the_rest_ = false;
};

}  // namespace pagoda::sim
