// How a transport's errors name peers and messages. Pure functions.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "worker/comm/transport.h"

namespace pagoda::worker {

std::string_view ChannelName(Channel channel);

std::string PeerName(PeerId peer);  // "stage 0 rank 1"

// "stage 0 rank 1 hidden, step 17" (and ", sequence 3" when it is not 0).
std::string MessageName(PeerId peer, MessageTag tag);

// What a deadline says of the transfers that are not done, the first few by name.
struct PendingTransfer {
  PeerId peer;
  MessageTag tag;
  bool sending = false;
};
absl::Status DeadlineOver(std::span<const PendingTransfer> pending, absl::Duration timeout);

// What Connect says when some peers did not answer. `detail` may be empty.
struct SilentPeer {
  PeerId peer;
  std::string detail;
};
absl::Status PeersSilent(Epoch epoch, std::span<const SilentPeer> silent, absl::Duration timeout);

}  // namespace pagoda::worker
