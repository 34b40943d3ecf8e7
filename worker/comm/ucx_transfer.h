// One send or receive over UCX, as its caller holds it. Internal to ucx_*.cc, of the transport's
// thread.
#pragma once

#include <utility>

#include "worker/comm/transport.h"

namespace pagoda::worker {

class UcxLink;

class UcxTransfer final : public Transfer {
 public:
  UcxTransfer(PeerId peer, MessageTag tag, bool sending)
      : peer_(peer), tag_(tag), sending_(sending) {}
  ~UcxTransfer() override;  // ucx_link.cc

  bool done() const override { return done_; }
  absl::Status status() const override { return status_; }
  size_t bytes() const override { return bytes_; }

  PeerId peer() const { return peer_; }
  const MessageTag& tag() const { return tag_; }
  bool sending() const { return sending_; }
  bool ok() const { return ok_; }  // without copying a status

  void Finish(absl::Status status, size_t bytes) {
    done_ = true;
    ok_ = status.ok();
    status_ = std::move(status);
    bytes_ = bytes;
    link = nullptr;
  }

  UcxLink* link = nullptr;    // told when this is dropped unfinished
  std::span<std::byte> into;  // of a receive

 private:
  const PeerId peer_;
  const MessageTag tag_;
  const bool sending_;
  bool done_ = false;
  bool ok_ = true;
  size_t bytes_ = 0;
  absl::Status status_;
};

}  // namespace pagoda::worker
