// One peer of a UCX transport in one epoch: the handshake, the sends waiting for it and the
// messages coming from it. Internal to ucx_transport.cc, and of its thread. UCX calls back only
// while that thread makes progress.
//
// Handshake: hello -> answer proves both directions; then each side flushes, so that nothing of
// UCX's own wiring is left that needs the other, and says ready. A link is up when it has been told
// ready and has said so.
#pragma once

#include <deque>
#include <memory>
#include <optional>
#include <string>

#include "worker/comm/packet.h"
#include "worker/comm/packet_seal.h"
#include "worker/comm/ucx_endpoint.h"
#include "worker/comm/ucx_inbox.h"
#include "worker/comm/ucx_transfer.h"

namespace pagoda::worker {

class UcxLink {
 public:
  struct Ends {
    Epoch epoch;
    LinkSecret secret;
    PeerId self;
    PeerId peer;
  };
  UcxLink(UcxShared& shared, const Ends& ends, std::string address);
  // As Close(kAborted).
  ~UcxLink();
  UcxLink(const UcxLink&) = delete;
  UcxLink& operator=(const UcxLink&) = delete;

  PeerId peer() const { return peer_; }
  // Takes or makes the endpoint and sends a hello; again, with another endpoint, while connecting
  // does not work.
  absl::Status Open();
  bool answered() const { return answered_; }
  bool up() const {
    return ready_heard_ && ready_said_ && endpoint_ != nullptr && !endpoint_->busy();
  }
  // What broke the link; OK while it works.
  const absl::Status& failure() const { return failure_; }
  // Ends all transfers with `status` and gives up the endpoint. Blocks at most a moment.
  void Close(const absl::Status& status);

  std::unique_ptr<UcxTransfer> Send(MessageTag tag, std::span<const std::byte> data);
  std::unique_ptr<UcxTransfer> Receive(MessageTag tag, std::span<std::byte> into);
  void Forget(UcxTransfer* transfer);

  // The bytes of a packet that says it is of this epoch and from this peer; valid until the next call. Nothing when it is not, or
  // was here before.
  std::optional<std::span<const std::byte>> Open(const PacketHeader& header, std::span<const std::byte> data);
  // Whether a hello that came before this link was made is its peer's.
  bool IsProven(const PacketHeader& hello);
  // A packet that was opened. Called from within UCX's callbacks: closes nothing.
  void Arrived(const PacketHeader& header, std::span<const std::byte> data);
  // Its hello of this epoch came before this link was made.
  void AnswerHello() { Say(PacketKind::kHelloAnswer); }
  // After shared.ready: sends on, or takes note of a broken endpoint. Not from within callbacks.
  void Proceed();

 private:
  struct Outgoing {
    MessageTag tag;
    size_t size = 0;
    size_t sent = 0;                  // handed to the endpoint
    const std::byte* rest = nullptr;  // what is not: size - sent bytes
    UcxTransfer* transfer = nullptr;  // null: dropped by its caller, the rest is sent all the same
    std::unique_ptr<std::byte[]> kept;  // and lies here then
  };

  void Say(PacketKind kind);
  void Pump();
  void SendNextPacket();
  PacketHeader Header(PacketKind kind) const;
  void SendPacket(PacketHeader header, std::span<const std::byte> data);
  void Fail(absl::Status status);
  void FinishAll(const absl::Status& status);
  void GiveUpEndpoint();

  UcxShared& shared_;
  const Epoch epoch_;
  const LinkToken token_;
  const PeerId self_;
  const PeerId peer_;
  const std::string address_;
  std::unique_ptr<PacketSeal> seal_, peers_seal_;  // null: packets carry the token
  std::vector<std::byte> sealed_;                  // the packet in flight
  std::vector<std::byte> opened_;
  std::unique_ptr<UcxEndpoint> endpoint_;
  absl::Status refusal_;  // why this side wants to cut the link
  absl::Status failure_;
  bool answered_ = false;
  bool flushing_ = false;
  bool ready_said_ = false;
  bool ready_heard_ = false;

  std::deque<PacketKind> words_;  // of the handshake; before everything else
  std::deque<Outgoing> sends_;    // in order; the first may be on its way
  bool data_in_flight_ = false;   // the packet in flight is of sends_.front()
  UcxInbox inbox_;
};

}  // namespace pagoda::worker
