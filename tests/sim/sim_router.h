// One router process of a simulated cluster (the real dispatcher, sessions and policy), and the clients behind it.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "router/dispatcher.h"
#include "router/metrics.h"
#include "router/model_registry.h"
#include "tests/sim/network.h"
#include "tests/sim/toy_model.h"

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

// One request and the person who waits for it: tries again when it is turned away, may leave in the middle, and knows what the
// answer has to be.
class SimClient : public router::GenerationSink {
 public:
  struct Plan {
    ToyRequest request;
    int choices = 1;
    int speculative_tokens = 0;  // as SettledSampling has it
    int priority = 0;
    int64_t arrives_ns = 0;
    int64_t cancels_after_ns = -1;  // of its arrival; -1: stays
    int router = 0;
  };
  SimClient(Cluster& cluster, int number, Plan plan);

  bool ended() const { return ended_; }
  bool refused() const { return refusals_ > 0; }
  const std::string& error() const { return error_; }

  void OnDelta(const router::Session& session, router::ChoiceDelta delta) override;
  void OnStepEnd() override {}
  void OnDone(const router::Session& session) override;
  void OnError(const absl::Status& status) override;

 private:
  void Ask();
  void Leave();
  void End(const char* how);

  Cluster& cluster_;
  World& world_;
  const int number_;
  const Plan plan_;
  RequestId id_;
  Life router_;
  bool asked_ = false;
  bool left_ = false;
  bool ended_ = false;
  int refusals_ = 0;
  int attempts_ = 0;
  std::string error_;
  std::vector<std::vector<TokenId>> expected_, got_;
  std::vector<bool> finished_;
};

}  // namespace pagoda::sim
