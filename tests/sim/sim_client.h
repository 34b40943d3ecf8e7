// One request of a simulated cluster and the person who waits for it: tries again when it is turned away, may leave in the
// middle, may come back to another router with what it has (a resumable stream), and knows what the answer has to be.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "router/found_stream.h"
#include "router/session.h"
#include "router/stream_position.h"
#include "tests/sim/toy_model.h"
#include "tests/sim/world.h"

namespace pagoda::sim {

class Cluster;
class SimRouter;

class SimClient {
 public:
  struct Plan {
    ToyRequest request;
    int choices = 1;
    int speculative_tokens = 0;  // as SettledSampling has it
    int priority = 0;
    int64_t arrives_ns = 0;
    int64_t cancels_after_ns = -1;  // of its arrival; -1: stays
    int router = 0;
    bool resumable = false;
    bool asks_without_its_request = false;     // when it comes back, first
    std::vector<int> breaks_at = {};  // having so many tokens its connection is cut, and no process died
  };
  SimClient(Cluster& cluster, int number, Plan plan);

  static std::string NameOf(int number);

  bool ended() const { return ended_; }

 private:
  class Connection;

  void Forget();
  void Ask();
  void AskLater();
  void Begin(SimRouter& router, router::GenerationRequest request, bool known);
  void ComeBack(SimRouter& router);
  void GoOn(const std::shared_ptr<Connection>& connection, const router::FoundStream& found);
  router::StreamPosition Position() const;
  router::GenerationRequest RequestFor(SimRouter& router) const;
  void Watch(const std::shared_ptr<Connection>& connection);
  void LetGo(int64_t noticed_after_ns);
  void Break();
  void Leave();
  void End(const char* how);
  void GiveUp();

  // From the connection that it has.
  void Hear(const router::Session& session);
  void OnDelta(router::ChoiceDelta delta);
  void OnDone();
  void OnError(const absl::Status& status);

  Cluster& cluster_;
  World& world_;
  const int number_;
  const std::string name_;
  const Plan plan_;
  std::shared_ptr<Connection> connection_;
  bool left_ = false;
  bool ended_ = false;
  bool turned_away_without_request_ = false;
  int attempts_ = 0;
  size_t breaks_ = 0;
  // By numerics, of which any may answer, but only one of them: those that no token has spoken against yet.
  struct Answer {
    int activation_bits = 0;
    std::vector<std::vector<TokenId>> choices;
  };
  std::vector<Answer> all_, possible_;
  std::string numerics_;     // by which its tokens were made, as its router says
  bool may_change_ = false;  // a router had to take others
  bool changed_ = false;     // and other tokens came: what comes is not known
  std::vector<std::vector<TokenId>> got_;
  std::vector<bool> finished_;
  uint32_t mark_ = 0;  // of its position
};

}  // namespace pagoda::sim
