#include "worker/comm/collective.h"

#include <cstring>

namespace pagoda::worker {

// Sequence numbers count the messages of this step between this rank and one other, per channel and
// direction, so that both ends agree even when only some ranks take part in a call.
struct Collective::State {
  struct Counts {
    uint32_t gather_sent = 0;
    uint32_t gather_received = 0;
    uint32_t broadcast_sent = 0;
    uint32_t broadcast_received = 0;
  };

  Transport& transport;
  const PeerId self;
  const int size;
  StepNumber step;
  std::vector<Counts> counts;  // [rank]
  // Of the call under way; kept to spare allocations.
  std::vector<std::unique_ptr<Transfer>> transfers;
  std::vector<Transfer*> waited;

  void Send(Channel channel, int rank, std::span<const std::byte> data) {
    uint32_t& count =
        channel == Channel::kGather ? counts[rank].gather_sent : counts[rank].broadcast_sent;
    const MessageTag tag{.channel = channel, .step = step.value(), .sequence = count++};
    Add(transport.Send({.stage = self.stage, .rank = rank}, tag, data));
  }
  void Receive(Channel channel, int rank, std::span<std::byte> into) {
    uint32_t& count = channel == Channel::kGather ? counts[rank].gather_received
                                                  : counts[rank].broadcast_received;
    const MessageTag tag{.channel = channel, .step = step.value(), .sequence = count++};
    Add(transport.Receive({.stage = self.stage, .rank = rank}, tag, into));
  }
  void Add(std::unique_ptr<Transfer> transfer) {
    waited.push_back(transfer.get());
    transfers.push_back(std::move(transfer));
  }
  absl::Status WaitForAll(absl::Duration timeout, const std::atomic<bool>* stop) {
    const absl::Status status = transport.Wait(waited, timeout, stop);
    waited.clear();
    transfers.clear();
    return status;
  }
  void PlaceOwnPart(std::span<const std::byte> mine,
                    std::span<const std::span<std::byte>> parts) const {
    PAGODA_CHECK(parts.size() == static_cast<size_t>(size), "got ", parts.size(), " parts for ",
                 size, " ranks");
    const std::span<std::byte> place = parts[self.rank];
    PAGODA_CHECK(place.size() == mine.size(), "own part has ", mine.size(), " bytes, its place ",
                 place.size());
    if (place.data() != mine.data() && !mine.empty())
      std::memmove(place.data(), mine.data(), mine.size());
  }
};

Collective::Collective(Transport& transport, PeerId self, int size)
    : state_(new State{.transport = transport,
                       .self = self,
                       .size = size,
                       .step = {},
                       .counts = {},
                       .transfers = {},
                       .waited = {}}) {
  PAGODA_CHECK(size >= 1 && self.rank >= 0 && self.rank < size, "rank ", self.rank, " of ", size);
  state_->counts.resize(static_cast<size_t>(size));
}

Collective::~Collective() = default;

int Collective::rank() const { return state_->self.rank; }
int Collective::size() const { return state_->size; }

void Collective::BeginStep(StepNumber step) {
  state_->step = step;
  state_->counts.assign(state_->counts.size(), {});
}

absl::Status Collective::Gather(std::span<const std::byte> mine,
                                std::span<const std::span<std::byte>> parts,
                                std::span<const int> members, absl::Duration timeout,
                                const std::atomic<bool>* stop) {
  state_->PlaceOwnPart(mine, parts);
  if (size() == 1) return absl::OkStatus();
  const auto for_each_other = [&](auto&& body) {
    if (members.empty()) {
      for (int other = 0; other < size(); ++other) {
        if (other != rank()) body(other);
      }
      return;
    }
    for (const int other : members) {
      PAGODA_CHECK(other >= 0 && other < size(), "member ", other, " of a group of ", size());
      if (other != rank()) body(other);
    }
  };
  // Receives first: what arrives then needs no place in between.
  for_each_other([&](int other) { state_->Receive(Channel::kGather, other, parts[other]); });
  for_each_other([&](int other) { state_->Send(Channel::kGather, other, mine); });
  return state_->WaitForAll(timeout, stop);
}

absl::Status Collective::GatherTo(int root, std::span<const std::byte> mine,
                                  std::span<const std::span<std::byte>> parts,
                                  absl::Duration timeout, const std::atomic<bool>* stop) {
  PAGODA_CHECK(root >= 0 && root < size(), "root ", root, " of ", size());
  if (rank() != root) {
    state_->Send(Channel::kGather, root, mine);
    return state_->WaitForAll(timeout, stop);
  }
  state_->PlaceOwnPart(mine, parts);
  if (size() == 1) return absl::OkStatus();
  for (int other = 0; other < size(); ++other) {
    if (other != root) state_->Receive(Channel::kGather, other, parts[other]);
  }
  return state_->WaitForAll(timeout, stop);
}

absl::Status Collective::Broadcast(int root, std::span<std::byte> data, absl::Duration timeout,
                                   const std::atomic<bool>* stop) {
  PAGODA_CHECK(root >= 0 && root < size(), "root ", root, " of ", size());
  if (size() == 1) return absl::OkStatus();
  if (rank() != root) {
    state_->Receive(Channel::kBroadcast, root, data);
  } else {
    for (int other = 0; other < size(); ++other) {
      if (other != root) state_->Send(Channel::kBroadcast, other, data);
    }
  }
  return state_->WaitForAll(timeout, stop);
}

}  // namespace pagoda::worker
