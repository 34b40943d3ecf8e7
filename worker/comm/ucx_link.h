// One peer of a UCX transport: its endpoint, the sends waiting for it and the messages coming from
// it. Internal to ucx_transport.cc, and of its thread. UCX calls back only from within Progress of
// the same thread.
#pragma once

#include <ucp/api/ucp.h>

#include <deque>
#include <list>
#include <memory>
#include <string>
#include <vector>

#include "worker/comm/packet.h"
#include "worker/comm/transport.h"

namespace pagoda::worker {

class UcxLink;

class UcxTransfer final : public Transfer {
 public:
  ~UcxTransfer() override;
  bool done() const override { return done_; }
  absl::Status status() const override { return status_; }
  size_t bytes() const override { return moved_; }

  static std::unique_ptr<UcxTransfer> Failed(PeerId peer, MessageTag tag, absl::Status status);

  PeerId peer() const { return peer_; }
  MessageTag tag() const { return tag_; }
  bool sending() const { return sending_; }
  bool ok() const { return ok_; }

 private:
  friend class UcxLink;
  UcxTransfer(PeerId peer, MessageTag tag) : peer_(peer), tag_(tag) {}
  void Finish(absl::Status status);

  const PeerId peer_;
  const MessageTag tag_;
  bool sending_ = false;
  std::span<const std::byte> data_;  // of a send
  std::span<std::byte> into_;        // of a receive
  size_t moved_ = 0;                 // bytes handed to UCX, or arrived
  UcxLink* link_ = nullptr;          // while unfinished
  bool done_ = false;
  bool ok_ = true;
  absl::Status status_;
};

// What all links of one transport share. Outlives them.
struct UcxShared {
  ucp_worker_h worker = nullptr;
  size_t packet_bytes = 0;
  size_t max_unexpected_bytes = 0;
  size_t unexpected_bytes = 0;
  uint64_t packets_received = 0;
  Transport::Counters counters;
  std::vector<UcxLink*> ready;  // their packet in flight is done, or their endpoint broke
};

class UcxLink {
 public:
  UcxLink(UcxShared& shared, Epoch epoch, PeerId self, PeerId peer, std::string address);
  ~UcxLink();
  UcxLink(const UcxLink&) = delete;
  UcxLink& operator=(const UcxLink&) = delete;

  PeerId peer() const { return peer_; }
  // Makes the endpoint; again after a failure. Nothing may be under way.
  absl::Status Open();
  // Ends all transfers with `status` and closes the endpoint by force. Blocks at most a moment.
  void Close(const absl::Status& status);
  // What broke the link; OK while it works.
  const absl::Status& failure() const { return failure_; }

  // kHello or kHelloAnswer, with the next Proceed. Callable from within UCX's callbacks.
  void SendHello(PacketKind kind);
  bool answered() const { return answered_; }
  void set_answered() { answered_ = true; }

  std::unique_ptr<UcxTransfer> Send(MessageTag tag, std::span<const std::byte> data);
  std::unique_ptr<UcxTransfer> Receive(MessageTag tag, std::span<std::byte> into);
  // A data packet of this epoch from this peer. Called from within UCX's callbacks.
  void Arrived(const PacketHeader& header, std::span<const std::byte> data);
  // After a callback: sends on, or takes note of a broken endpoint.
  void Proceed();

 private:
  friend class UcxTransfer;
  // A packet that UCX has not finished with. Outlives the link if it must.
  struct Packet {
    PacketHeader header;
    UcxLink* link = nullptr;
    bool done = false;
  };
  // A message of which nobody has asked yet.
  struct Unexpected {
    MessageTag tag;
    size_t size = 0;
    size_t arrived = 0;
    std::unique_ptr<std::byte[]> data;
  };
  // The message whose packets come now.
  struct Incoming {
    MessageTag tag;
    uint64_t size = 0;
    uint64_t arrived = 0;
    UcxTransfer* transfer = nullptr;   // either
    Unexpected* unexpected = nullptr;  // or; neither: thrown away
  };

  void Forget(UcxTransfer* transfer);
  void Fail(absl::Status status);
  void FinishAll(const absl::Status& status);
  void CloseEndpoint();
  void Pump();
  // True when UCX took the packet whole; else it is in flight or the link failed.
  bool SendPacket(const PacketHeader& header, std::span<const std::byte> data);
  absl::Status BeginIncoming(const PacketHeader& header);
  UcxTransfer* Posted(const MessageTag& tag);
  void TakeUnexpected(std::list<Unexpected>::iterator message, UcxTransfer* transfer);
  void FreeUnexpected(std::list<Unexpected>::iterator message);
  PacketHeader Header(PacketKind kind) const;

  static void OnSent(void* request, ucs_status_t status, void* packet);
  static void OnError(void* link, ucp_ep_h endpoint, ucs_status_t status);

  UcxShared& shared_;
  const Epoch epoch_;
  const PeerId self_;
  const PeerId peer_;
  const std::string address_;
  ucp_ep_h endpoint_ = nullptr;
  ucs_status_t endpoint_error_ = UCS_OK;  // set by OnError
  absl::Status refusal_;                  // why this side cut the link, if it did
  absl::Status failure_;
  bool answered_ = false;

  std::deque<PacketKind> hellos_;   // to be sent, before everything else
  std::deque<UcxTransfer*> sends_;  // unfinished, in order
  std::unique_ptr<Packet> in_flight_;
  bool finishes_send_ = false;  // the packet in flight is the last of sends_.front()

  std::vector<UcxTransfer*> posted_;  // receives of which nothing has come, in order
  std::list<Unexpected> unexpected_;
  Incoming incoming_;
};

}  // namespace pagoda::worker
