#include "worker/comm/ucx_transport.h"

#include <errno.h>
#include <sched.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <map>
#include <utility>

#include "worker/comm/packet.h"
#include "worker/comm/transport_text.h"
#include "worker/comm/ucx_context.h"
#include "worker/comm/ucx_link.h"

namespace pagoda::worker {
namespace {

using Clock = std::chrono::steady_clock;

// Spinning gives the core away that often: with more ranks than cores, the one waited for may need
// it (measured on one core: 2 us for a small message against 30 without).
constexpr unsigned kRoundsPerYield = 16;
// Between two tries to reach a peer that refuses.
constexpr auto kReconnectEvery = std::chrono::milliseconds(50);
// Every so many tries, a peer that is merely silent gets a new endpoint too. Beyond the coordinator's lease (3 s): a stopped
// peer must not, since over TCP UCX 1.13 does not find its way back to one that has two endpoints here and one there. After the
// lease who is still awaited is alive, and it is UCX that has lost it.
constexpr int kTriesPerRenewal = 120;

Clock::time_point After(absl::Duration timeout) {
  constexpr absl::Duration kLongest = absl::Hours(24 * 365);
  return Clock::now() +
         absl::ToChronoNanoseconds(std::clamp(timeout, absl::ZeroDuration(), kLongest));
}

std::unique_ptr<Transfer> Failed(PeerId peer, MessageTag tag, bool sending, absl::Status status) {
  auto transfer = std::make_unique<UcxTransfer>(peer, tag, sending);
  transfer->Finish(std::move(status), 0);
  return transfer;
}

absl::Duration Until(Clock::time_point deadline) {
  return absl::FromChrono(deadline - Clock::now());
}

class UcxTransport final : public Transport {
 public:
  UcxTransport(const UcxOptions& options, std::unique_ptr<UcxContext> context, int wake_descriptor)
      : spin_(absl::ToChronoNanoseconds(options.spin)),
        context_(std::move(context)),
        wake_descriptor_(wake_descriptor) {
    shared_.worker = context_->worker();
    shared_.packet_bytes = options.packet_bytes;
    shared_.max_unexpected_bytes = options.max_unexpected_bytes;
  }
  ~UcxTransport() override {
    Abort();
    shared_.kept.clear();
    shared_.parked.clear();
    close(wake_descriptor_);
  }
  absl::Status Listen();

  std::string address() const override { return context_->address(); }
  absl::Status Connect(Epoch epoch, PeerId self, const std::vector<PeerAddress>& peers,
                       absl::Duration timeout, const LinkSecret& secret, const std::atomic<bool>* stop) override;
  void Abort() override;
  std::unique_ptr<Transfer> Send(PeerId to, MessageTag tag,
                                 std::span<const std::byte> data) override;
  std::unique_ptr<Transfer> Receive(PeerId from, MessageTag tag,
                                    std::span<std::byte> into) override;
  absl::Status Wait(std::span<Transfer* const> transfers, absl::Duration timeout,
                    const std::atomic<bool>* stop) override;
  void Idle(absl::Duration timeout) override;
  void Wake() override {
    const uint64_t one = 1;
    [[maybe_unused]] const ssize_t written = write(wake_descriptor_, &one, sizeof(one));
  }
  Counters counters() const override { return shared_.counters; }

 private:
  static ucs_status_t OnPacket(void* self, const void* header, size_t header_length, void* data,
                               size_t length, const ucp_am_recv_param_t* param);
  void Take(const PacketHeader& header, std::span<const std::byte> data);
  absl::Status OpenLink(UcxLink& link);
  absl::Status ShakeHands(absl::Duration timeout, const std::atomic<bool>* stop);
  absl::Status NameSilent(absl::Duration timeout) const;
  // Moves what can be moved. True if something did.
  bool Progress();
  // Until something may have moved, a Wake() or the deadline. True when woken.
  bool Sleep(Clock::time_point deadline);

  const Clock::duration spin_;
  UcxShared shared_;
  std::unique_ptr<UcxContext> context_;
  const int wake_descriptor_;
  bool connected_ = false;
  Epoch epoch_;
  PeerId self_;
  std::map<PeerId, std::unique_ptr<UcxLink>> links_;
  std::map<PeerId, PacketHeader> heard_hellos_;  // the last from each, also of peers not yet linked
};

absl::Status UcxTransport::Listen() {
  ucp_am_handler_param_t param = {};
  param.field_mask = UCP_AM_HANDLER_PARAM_FIELD_ID | UCP_AM_HANDLER_PARAM_FIELD_CB |
                     UCP_AM_HANDLER_PARAM_FIELD_ARG;
  param.id = kPagodaActiveMessage;
  param.cb = &UcxTransport::OnPacket;
  param.arg = this;
  const ucs_status_t status = ucp_worker_set_am_recv_handler(shared_.worker, &param);
  return status == UCS_OK ? absl::OkStatus() : UcxError(status, "setting the handler of packets");
}

ucs_status_t UcxTransport::OnPacket(void* self, const void* header, size_t header_length,
                                    void* data, size_t length, const ucp_am_recv_param_t* param) {
  // Whatever is not one of our packets is dropped; UCX frees it.
  if (header_length != sizeof(PacketHeader) || (param->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV) != 0)
    return UCS_OK;
  PacketHeader packet;
  std::memcpy(&packet, header, sizeof(packet));
  if (packet.magic == kPacketMagic) {
    static_cast<UcxTransport*>(self)->Take(packet, {static_cast<const std::byte*>(data), length});
  }
  return UCS_OK;
}

void UcxTransport::Take(const PacketHeader& header, std::span<const std::byte> data) {
  ++shared_.packets_received;
  const PeerId sender = SenderOf(header);
  if (sender.stage >= limits::kMaxStages || sender.rank >= limits::kMaxTensorParallel) return;
  if (!connected_ || header.epoch != epoch_.value()) {
    // A hello may come before this rank knows of the epoch: then it is kept, with the proof that it brought.
    if (header.kind == PacketKind::kHello) heard_hellos_[sender] = header;
    return;
  }
  const auto link = links_.find(sender);
  if (link == links_.end()) return;
  const std::optional<std::span<const std::byte>> plain = link->second->Open(header, data);
  if (!plain) return;
  if (header.kind == PacketKind::kHello) heard_hellos_[sender] = header;
  link->second->Arrived(header, *plain);
}

absl::Status UcxTransport::Connect(Epoch epoch, PeerId self, const std::vector<PeerAddress>& peers,
                                   absl::Duration timeout, const LinkSecret& secret, const std::atomic<bool>* stop) {
  Abort();
  epoch_ = epoch;
  self_ = self;
  for (const PeerAddress& peer : peers) {
    if (peer.peer == self) continue;
    absl::StatusOr<std::string> address = RawUcxAddress(peer.address);
    if (!address.ok()) {
      Abort();
      return Annotate(address.status(), PeerName(peer.peer));
    }
    links_[peer.peer] =
        std::make_unique<UcxLink>(
            shared_, UcxLink::Ends{.epoch = epoch, .secret = secret, .self = self, .peer = peer.peer},
            *std::move(address));
  }
  connected_ = true;
  const absl::Status status = ShakeHands(timeout, stop);
  if (!status.ok()) Abort();
  return status;
}

absl::Status UcxTransport::OpenLink(UcxLink& link) {
  PAGODA_RETURN_IF_ERROR(link.Open());
  // Its hello may have come before we were in this epoch.
  const auto heard = heard_hellos_.find(link.peer());
  if (heard != heard_hellos_.end() && heard->second.epoch == epoch_.value() &&
      link.IsProven(heard->second)) {
    link.AnswerHello();
  }
  return absl::OkStatus();
}

absl::Status UcxTransport::ShakeHands(absl::Duration timeout, const std::atomic<bool>* stop) {
  const Clock::time_point deadline = After(timeout);
  for (const auto& [peer, link] : links_) {
    PAGODA_RETURN_IF_ERROR(OpenLink(*link));
  }
  int tries = 0;
  Clock::time_point next_try = Clock::now() + kReconnectEvery;
  while (true) {
    Progress();
    const bool all = std::all_of(links_.begin(), links_.end(),
                                 [](const auto& entry) { return entry.second->up(); });
    if (all) return absl::OkStatus();
    if (stop != nullptr && stop->load(std::memory_order_acquire)) {
      return absl::CancelledError("stopped while connecting to the peers");
    }
    const Clock::time_point now = Clock::now();
    if (now >= deadline) return NameSilent(timeout);
    if (now >= next_try) {
      // UCX may also lose a peer without a word.
      const bool renew = ++tries % kTriesPerRenewal == 0;
      for (const auto& [peer, link] : links_) {
        if (link->answered() || (link->failure().ok() && !renew)) continue;
        PAGODA_RETURN_IF_ERROR(OpenLink(*link));
      }
      next_try = now + kReconnectEvery;
      continue;
    }
    Sleep(std::min(deadline, next_try));
  }
}

absl::Status UcxTransport::NameSilent(absl::Duration timeout) const {
  std::vector<SilentPeer> silent;
  for (const auto& [peer, link] : links_) {
    if (link->up()) continue;
    std::string detail(AsStd(link->failure().message()));
    const auto heard = heard_hellos_.find(peer);
    if (detail.empty() && heard != heard_hellos_.end() && heard->second.epoch != epoch_.value()) {
      detail = absl::StrCat("its last hello was of epoch ", heard->second.epoch);
    }
    silent.push_back({.peer = peer, .detail = std::move(detail)});
  }
  return PeersSilent(epoch_, silent, timeout);
}

void UcxTransport::Abort() {
  connected_ = false;
  for (const auto& [peer, link] : links_) {
    link->Close(absl::AbortedError(absl::StrCat("epoch ", epoch_.value(), " was aborted")));
  }
  links_.clear();
}

std::unique_ptr<Transfer> UcxTransport::Send(PeerId to, MessageTag tag,
                                             std::span<const std::byte> data) {
  const auto link = links_.find(to);
  if (link != links_.end()) return link->second->Send(tag, data);
  return Failed(to, tag, true,
                absl::UnavailableError(absl::StrCat("not connected to ", PeerName(to))));
}

std::unique_ptr<Transfer> UcxTransport::Receive(PeerId from, MessageTag tag,
                                                std::span<std::byte> into) {
  const auto link = links_.find(from);
  if (link != links_.end()) return link->second->Receive(tag, into);
  return Failed(from, tag, false,
                absl::UnavailableError(absl::StrCat("not connected to ", PeerName(from))));
}

bool UcxTransport::Progress() {
  const uint64_t before = shared_.packets_received;
  bool moved = ucp_worker_progress(shared_.worker) != 0;
  // What UCX itself counts does not tell: an event that leads nowhere counts too.
  if (!shared_.ready.empty() || shared_.packets_received != before) context_->Moved();
  while (!shared_.ready.empty()) {
    std::vector<UcxLink*> ready;
    ready.swap(shared_.ready);
    for (UcxLink* link : ready) link->Proceed();
    moved = true;
  }
  if (std::exchange(shared_.needs_sweep, false)) shared_.Sweep();
  return moved || shared_.packets_received != before;
}

bool UcxTransport::Sleep(Clock::time_point deadline) {
  if (!context_->Sleep(wake_descriptor_, Until(deadline))) return false;
  uint64_t wakes = 0;
  return read(wake_descriptor_, &wakes, sizeof(wakes)) == sizeof(wakes);
}

absl::Status UcxTransport::Wait(std::span<Transfer* const> transfers, absl::Duration timeout,
                                const std::atomic<bool>* stop) {
  const Clock::time_point deadline = After(timeout);
  Clock::time_point spin_until = Clock::now() + spin_;
  size_t done = 0;  // the first that is not
  unsigned rounds = 0;
  while (true) {
    const bool moved = Progress();
    bool failed = false;
    for (const Transfer* transfer : transfers.subspan(done)) {
      failed |= transfer->done() && !static_cast<const UcxTransfer*>(transfer)->ok();
    }
    while (!failed && done < transfers.size() && transfers[done]->done()) ++done;
    if (failed) {
      for (const Transfer* transfer : transfers) {
        if (transfer->done()) PAGODA_RETURN_IF_ERROR(transfer->status());
      }
    }
    if (done == transfers.size()) return absl::OkStatus();
    if (stop != nullptr && stop->load(std::memory_order_acquire)) {
      return absl::CancelledError("stopped while waiting for peers");
    }
    const Clock::time_point now = Clock::now();
    if (moved) spin_until = now + spin_;
    if (now >= deadline) break;
    if (now >= spin_until) {
      Sleep(deadline);
    } else if (!moved && ++rounds % kRoundsPerYield == 0) {
      sched_yield();
    }
  }
  std::vector<PendingTransfer> pending;
  for (const Transfer* transfer : transfers) {
    const auto* late = static_cast<const UcxTransfer*>(transfer);
    if (!late->done())
      pending.push_back({.peer = late->peer(), .tag = late->tag(), .sending = late->sending()});
  }
  return DeadlineOver(pending, timeout);
}

void UcxTransport::Idle(absl::Duration timeout) {
  const Clock::time_point deadline = After(timeout);
  const uint64_t before = shared_.packets_received;
  while (true) {
    Progress();
    if (shared_.packets_received != before || Clock::now() >= deadline) return;
    if (Sleep(deadline)) return;
  }
}

}  // namespace

absl::StatusOr<std::unique_ptr<Transport>> MakeUcxTransport(const UcxOptions& options) {
  if (options.packet_bytes == 0)
    return absl::InvalidArgumentError("a packet of 0 bytes carries nothing");
  PAGODA_ASSIGN_OR_RETURN(std::unique_ptr<UcxContext> context, UcxContext::Create(options));
  const int wake_descriptor = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  if (wake_descriptor < 0) {
    return absl::ResourceExhaustedError(
        absl::StrCat("no event descriptor for the data plane: ", strerror(errno)));
  }
  auto transport = std::make_unique<UcxTransport>(options, std::move(context), wake_descriptor);
  PAGODA_RETURN_IF_ERROR(transport->Listen());
  return transport;
}

}  // namespace pagoda::worker
