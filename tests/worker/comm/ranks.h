// Ranks as threads, each with its own transport, for tests that hold for every transport.
#pragma once

#include <functional>
#include <memory>
#include <ostream>
#include <string>
#include <vector>

#include "worker/comm/local_transport.h"
#include "worker/comm/transport.h"

namespace pagoda::worker {

struct TransportKind {
  std::string name;        // of the test
  std::string transports;  // UCX_TLS; empty: in-process
};
inline std::ostream& operator<<(std::ostream& out, const TransportKind& kind) {
  return out << kind.name;
}
std::vector<TransportKind> AllTransportKinds();

class Ranks {
 public:
  // stages[s] ranks in stage s.
  Ranks(const TransportKind& kind, std::vector<int> stages);
  ~Ranks();

  const std::vector<PeerAddress>& addresses() const { return addresses_; }
  Transport& transport(size_t index) { return *transports_[index]; }
  LocalHub& hub() { return *hub_; }

  // Runs `body` on a thread per rank, after Connect(epoch); reports failures of Connect and waits
  // for all.
  using Body = std::function<void(PeerId self, Transport& transport)>;
  void Run(Epoch epoch, const Body& body);
  // Without Connect.
  void RunUnconnected(const Body& body);

 private:
  std::unique_ptr<LocalHub> hub_;
  std::vector<std::unique_ptr<Transport>> transports_;
  std::vector<PeerAddress> addresses_;
};

// Bytes that tell where they come from.
std::vector<std::byte> Pattern(size_t size, uint64_t seed);

}  // namespace pagoda::worker
