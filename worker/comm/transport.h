// Tagged messages between the ranks of one pipeline. StageLink and Collective (beside this file) are built on it and are what
// the engine uses; a transport only moves bytes and never adds.
//
// Implementations: UCX (shared memory, TCP, RDMA; ucx_transport.h), in-process (tests; local_transport.h); NCCL comes with the
// CUDA backend.
// Thread rule: one thread (the engine's) calls everything but Wake(), which any thread may call.
// Waiting spins briefly, then sleeps on the transport's event descriptor: an idle worker takes no CPU.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "common/ids.h"
#include "common/status.h"

namespace pagoda::worker {

struct PeerId {
  int stage = 0;
  int rank = 0;
  auto operator<=>(const PeerId&) const = default;
};

struct PeerAddress {
  PeerId peer;
  std::string address;  // opaque, from Transport::address() of that peer
};

enum class Channel : uint8_t { kHello, kHidden, kTokens, kGather, kBroadcast, kBlocks };

// What a message is about; equal at sender and receiver. The epoch is the transport's own.
struct MessageTag {
  Channel channel = Channel::kHello;
  uint64_t step = 0;      // of the plan
  uint32_t sequence = 0;  // within the step and channel
};

// One send or receive under way. Destroying an unfinished handle cancels it (and waits until the buffer is free).
class Transfer {
 public:
  virtual ~Transfer() = default;
  virtual bool done() const = 0;
  // OK when done well. kAborted after Abort(), kUnavailable when the peer is gone, kInvalidArgument when the sizes differ.
  virtual absl::Status status() const = 0;
  virtual size_t bytes() const = 0;
};

// Random, of one epoch, told by the coordinator to the ranks of it alone, so that nobody else can speak into the epoch: what comes
// without a proof of it is dropped before anything in it is believed. With a key every packet is encrypted and authenticated;
// without, it carries the token, which hides nothing from who can read the wire.
using LinkToken = std::array<std::byte, 16>;
using LinkKey = std::array<std::byte, 32>;
struct LinkSecret {
  LinkToken token = {};
  std::optional<LinkKey> key = {};
};

class Transport {
 public:
  virtual ~Transport() = default;

  virtual std::string address() const = 0;
  // Begins an epoch: closes links of an older one, connects to the peers (self among them is skipped), exchanges a hello
  // with each. kDeadlineExceeded names the peers that did not answer; kCancelled when `stop` becomes true (checked after each
  // Wake()).
  virtual absl::Status Connect(Epoch epoch, PeerId self, const std::vector<PeerAddress>& peers, absl::Duration timeout,
                               const LinkSecret& secret, const std::atomic<bool>* stop) = 0;
  absl::Status Connect(Epoch epoch, PeerId self, const std::vector<PeerAddress>& peers, absl::Duration timeout,
                       const LinkSecret& secret = {}) {
    return Connect(epoch, self, peers, timeout, secret, nullptr);
  }
  // Fails everything under way with kAborted and closes the links. Safe when not connected.
  virtual void Abort() = 0;

  // The buffers must stay valid until the transfer is done or destroyed. Messages of one (peer, tag) are in order.
  virtual std::unique_ptr<Transfer> Send(PeerId to, MessageTag tag, std::span<const std::byte> data) = 0;
  virtual std::unique_ptr<Transfer> Receive(PeerId from, MessageTag tag, std::span<std::byte> into) = 0;

  // Until all are done or `timeout` has passed (kDeadlineExceeded: which peer, channel and step did not come). Returns
  // kCancelled when `stop` becomes true (checked after each Wake()); then nothing is lost and Wait can be called again.
  virtual absl::Status Wait(std::span<Transfer* const> transfers, absl::Duration timeout,
                            const std::atomic<bool>* stop) = 0;
  // Sleeps until a message moves, Wake() is called or `timeout` passes.
  virtual void Idle(absl::Duration timeout) = 0;
  virtual void Wake() = 0;

  struct Counters {
    uint64_t bytes_sent = 0;
    uint64_t bytes_received = 0;
    uint64_t messages_sent = 0;
  };
  virtual Counters counters() const = 0;
};

}  // namespace pagoda::worker
