#include "worker/comm/transport.h"

#include "worker/comm/transport_text.h"

namespace pagoda::worker {
namespace {

constexpr size_t kNamedInMessage = 4;

}  // namespace

std::string_view ChannelName(Channel channel) {
  switch (channel) {
    case Channel::kHello:
      return "hello";
    case Channel::kHidden:
      return "hidden";
    case Channel::kTokens:
      return "tokens";
    case Channel::kGather:
      return "gather";
    case Channel::kBroadcast:
      return "broadcast";
    case Channel::kBlocks:
      return "blocks";
  }
  return "unknown channel";
}

std::string PeerName(PeerId peer) {
  return absl::StrCat("stage ", peer.stage, " rank ", peer.rank);
}

std::string MessageName(PeerId peer, MessageTag tag) {
  std::string name =
      absl::StrCat(PeerName(peer), " ", AsAbsl(ChannelName(tag.channel)), ", step ", tag.step);
  if (tag.sequence != 0) absl::StrAppend(&name, ", sequence ", tag.sequence);
  return name;
}

absl::Status DeadlineOver(std::span<const PendingTransfer> pending, absl::Duration timeout) {
  std::string text;
  for (size_t i = 0; i < pending.size() && i < kNamedInMessage; ++i) {
    absl::StrAppend(&text, i == 0 ? "" : "; ", pending[i].sending ? "send to " : "receive from ",
                    MessageName(pending[i].peer, pending[i].tag));
  }
  if (pending.size() > kNamedInMessage) {
    absl::StrAppend(&text, "; and ", pending.size() - kNamedInMessage, " more");
  }
  absl::StrAppend(&text, ": not done within ", absl::FormatDuration(timeout));
  return absl::DeadlineExceededError(text);
}

absl::Status PeersSilent(Epoch epoch, std::span<const SilentPeer> silent, absl::Duration timeout) {
  std::string text = absl::StrCat("connecting epoch ", epoch.value(), ": no hello within ",
                                  absl::FormatDuration(timeout), " from ");
  for (size_t i = 0; i < silent.size(); ++i) {
    absl::StrAppend(&text, i == 0 ? "" : ", ", PeerName(silent[i].peer));
    if (!silent[i].detail.empty()) absl::StrAppend(&text, " (", silent[i].detail, ")");
  }
  return absl::DeadlineExceededError(text);
}

}  // namespace pagoda::worker
