// Puts the packets of one peer together and gives each message to the receive that asks for it,
// whichever comes first. Internal to ucx_link.cc, of its thread. A message's packets come one after
// the other, never mixed with another's.
#pragma once

#include <list>
#include <memory>
#include <vector>

#include "worker/comm/packet.h"
#include "worker/comm/ucx_transfer.h"

namespace pagoda::worker {

class UcxInbox {
 public:
  // `unexpected_bytes` counts what lies in all inboxes of a transport; at most
  // `max_unexpected_bytes`.
  UcxInbox(PeerId peer, size_t& unexpected_bytes, size_t max_unexpected_bytes)
      : peer_(peer),
        unexpected_bytes_(unexpected_bytes),
        max_unexpected_bytes_(max_unexpected_bytes) {}
  ~UcxInbox() { Clear(); }
  UcxInbox(const UcxInbox&) = delete;
  UcxInbox& operator=(const UcxInbox&) = delete;

  // An error means that nothing sensible can follow on this link.
  absl::Status Arrived(const PacketHeader& header, std::span<const std::byte> data);
  // `broken`: why no more will come, or OK. What has come whole is still given out then.
  void Post(UcxTransfer* transfer, const absl::Status& broken);
  void Forget(const UcxTransfer* transfer);
  // Ends all posted receives; messages that came whole stay.
  void FinishAll(const absl::Status& status);
  void Clear();

 private:
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

  absl::Status Begin(const PacketHeader& header);
  UcxTransfer* TakePosted(const MessageTag& tag);
  void Free(std::list<Unexpected>::iterator message);
  absl::Status WrongSize(const MessageTag& tag, uint64_t came, size_t expected) const;

  const PeerId peer_;
  size_t& unexpected_bytes_;
  const size_t max_unexpected_bytes_;
  std::vector<UcxTransfer*> posted_;  // of which nothing has come, in order
  std::list<Unexpected> unexpected_;  // in order
  Incoming incoming_;
};

}  // namespace pagoda::worker
