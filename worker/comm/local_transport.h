// Ranks as threads of one process, for tests of the engine: the same rules as UCX (epochs, hellos,
// deadlines, dead peers) without sockets. A LocalHub makes the transports and must outlive them.
//
// Thread rule: each transport belongs to one thread (Wake() aside); the hub's functions may be
// called from any.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "worker/comm/transport.h"

namespace pagoda::worker {

// What a test does to one message.
struct MessageFate {
  bool drop = false;
  absl::Duration delay =
      absl::ZeroDuration();  // the message lands, and its send is done, that much later
};

class LocalHub {
 public:
  LocalHub();
  ~LocalHub();
  LocalHub(const LocalHub&) = delete;
  LocalHub& operator=(const LocalHub&) = delete;

  std::unique_ptr<Transport> Make();

  // Asked for every message (hellos too) from now on, on the sender's thread; empty: all go at
  // once. A delayed message still keeps its place behind earlier ones of the same tag.
  using FateOf = std::function<MessageFate(PeerId from, PeerId to, MessageTag tag, size_t bytes)>;
  void SetFate(FateOf fate);
  // As if the process of `address` had been killed: its peers get kUnavailable.
  void Kill(const std::string& address);

  struct State;

 private:
  std::shared_ptr<State> state_;
};

}  // namespace pagoda::worker
