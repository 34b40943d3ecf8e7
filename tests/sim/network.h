// The network of a simulated cluster. Streams are what gRPC gives: in order and whole, until they end; what was under way when
// one ends is lost. Packets are what the data plane has before its tags sort it: each with a delay of its own, so they overtake
// each other, and under faults some are lost or come twice. Hosts can be cut off from each other.
// Owner: the cluster; one thread.
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <set>
#include <utility>
#include <vector>

#include "tests/sim/world.h"

namespace pagoda::sim {

struct NetworkFaults {
  double packet_loss = 0;
  double packet_twice = 0;
  int64_t most_delay_ns = 400 * kUs;
};

class Stream;

class Network {
 public:
  explicit Network(World& world) : world_(world) {}
  ~Network();

  NetworkFaults& faults() { return faults_; }
  void Cut(int host_a, int host_b) { cut_.insert(std::minmax(host_a, host_b)); }
  void Mend(int host_a, int host_b) { cut_.erase(std::minmax(host_a, host_b)); }
  void MendAll() { cut_.clear(); }
  bool Connected(ProcessId a, ProcessId b) const {
    return !cut_.contains(std::minmax(world_.HostOf(a), world_.HostOf(b)));
  }

  // Both ends get `lost` called once when the stream ends for a reason other than their own Close.
  struct End {
    Life life;
    std::function<void()> lost;
  };
  std::shared_ptr<Stream> Connect(End a, End b);

  void SendPacket(Life from, Life to, std::function<void()> deliver);

  int64_t Delay();

 private:
  friend class Stream;
  World& world_;
  NetworkFaults faults_;
  std::set<std::pair<int, int>> cut_;
  std::vector<std::weak_ptr<Stream>> streams_;
};

class Stream : public std::enable_shared_from_this<Stream> {
 public:
  // `deliver` runs in the process of the other end.
  void Send(ProcessId from, std::function<void()> deliver);
  // The other end hears of it.
  void Close(ProcessId by);
  bool open() const { return open_; }

 private:
  friend class Network;
  struct Side {
    Network::End end;
    int64_t last_arrival_ns = 0;  // of what was sent to it
    std::deque<std::function<void()>> held;  // sent to it while it was cut off
  };
  Stream(Network& network, Network::End a, Network::End b) : network_(network), sides_{{.end = std::move(a), .held = {}}, {.end = std::move(b), .held = {}}} {}
  Side& To(ProcessId from) { return sides_[0].end.life.process == from ? sides_[1] : sides_[0]; }
  void Carry(Side& to, std::function<void()> deliver);
  void Watch();
  void Break();

  Network& network_;
  Side sides_[2];
  bool open_ = true;
  int64_t silent_since_ns_ = -1;  // an end does not answer: it is down without a word, stopped, or cut off
};

}  // namespace pagoda::sim
