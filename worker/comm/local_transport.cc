#include "worker/comm/local_transport.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <list>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <tuple>

#include "worker/comm/transport_text.h"

namespace pagoda::worker {
namespace {

using Clock = std::chrono::steady_clock;

Clock::time_point DeadlineAfter(absl::Duration timeout) {
  constexpr absl::Duration kLongest = absl::Hours(24 * 365);
  return Clock::now() +
         absl::ToChronoNanoseconds(std::clamp(timeout, absl::ZeroDuration(), kLongest));
}

struct Key {
  Epoch epoch;
  PeerId from;
  Channel channel;
  uint64_t step;
  uint32_t sequence;
  auto operator<=>(const Key&) const = default;
};

struct Letter {
  std::vector<std::byte> data;
  Clock::time_point due;
};

// Of one transport: what others have sent to it. Lives as long as anybody holds its address.
struct Mailbox {
  std::mutex mutex;
  std::condition_variable changed;
  // Guarded by mutex.
  std::map<Key, std::list<Letter>> letters;
  bool woken = false;  // by Wake()
  bool moved = false;  // something landed or somebody died since the last look
  bool dead = false;
};

}  // namespace

struct LocalHub::State {
  std::mutex mutex;
  // Guarded by mutex.
  std::map<std::string, std::shared_ptr<Mailbox>> mailboxes;
  FateOf fate;
  int made = 0;

  std::shared_ptr<Mailbox> Find(const std::string& address) {
    std::lock_guard lock(mutex);
    const auto found = mailboxes.find(address);
    return found == mailboxes.end() ? nullptr : found->second;
  }
  MessageFate FateFor(PeerId from, PeerId to, MessageTag tag, size_t bytes) {
    FateOf ask;
    {
      std::lock_guard lock(mutex);
      ask = fate;
    }
    return ask ? ask(from, to, tag, bytes) : MessageFate{};
  }
  void Kill(const std::string& address) {
    std::lock_guard lock(mutex);
    for (auto& [name, mailbox] : mailboxes) {
      std::lock_guard inner(mailbox->mutex);
      if (name == address) mailbox->dead = true;
      mailbox->moved = true;
      mailbox->changed.notify_all();
    }
  }
};

namespace {

class LocalTransport;

class LocalTransfer final : public Transfer {
 public:
  LocalTransfer(LocalTransport* owner, PeerId peer, MessageTag tag, bool sending)
      : owner_(owner), peer_(peer), tag_(tag), sending_(sending) {}
  ~LocalTransfer() override;

  bool done() const override { return done_; }
  absl::Status status() const override { return status_; }
  size_t bytes() const override { return bytes_; }

  void Finish(absl::Status status, size_t bytes) {
    done_ = true;
    status_ = std::move(status);
    bytes_ = bytes;
  }

  LocalTransport* owner_;
  PeerId peer_;
  MessageTag tag_;
  bool sending_;
  std::span<std::byte> into_;  // of a receive
  Clock::time_point due_{};    // of a send

 private:
  bool done_ = false;
  absl::Status status_;
  size_t bytes_ = 0;
};

class LocalTransport final : public Transport {
 public:
  LocalTransport(std::shared_ptr<LocalHub::State> hub, std::string address,
                 std::shared_ptr<Mailbox> mailbox)
      : hub_(std::move(hub)), address_(std::move(address)), mailbox_(std::move(mailbox)) {}
  ~LocalTransport() override {
    Abort();
    hub_->Kill(address_);
    std::lock_guard lock(hub_->mutex);
    hub_->mailboxes.erase(address_);
  }

  std::string address() const override { return address_; }
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
    std::lock_guard lock(mailbox_->mutex);
    mailbox_->woken = true;
    mailbox_->changed.notify_all();
  }
  Counters counters() const override { return counters_; }

  void Forget(LocalTransfer* transfer) { unfinished_.remove(transfer); }

 private:
  absl::Status WaitForHellos(const std::vector<PeerAddress>& peers, absl::Duration timeout,
                             const std::atomic<bool>* stop);
  // Moves what has landed into posted receives and ends sends that are due. Requires
  // mailbox_->mutex.
  void Settle();
  // When the next delayed letter or send is due, if any. Requires mailbox_->mutex.
  std::optional<Clock::time_point> NextDue() const;
  // Sleeps until something moves, is due, or `until`. Requires the lock.
  void Sleep(std::unique_lock<std::mutex>& lock, Clock::time_point until);
  static bool Dead(Mailbox& mailbox) {
    std::lock_guard lock(mailbox.mutex);
    return mailbox.dead;
  }

  const std::shared_ptr<LocalHub::State> hub_;
  const std::string address_;
  const std::shared_ptr<Mailbox> mailbox_;
  bool connected_ = false;
  Epoch epoch_;
  PeerId self_;
  std::map<PeerId, std::shared_ptr<Mailbox>> peers_;
  std::set<PeerId> dead_;  // refreshed outside of the mailbox's lock
  std::list<LocalTransfer*> unfinished_;
  Counters counters_;
};

LocalTransfer::~LocalTransfer() {
  if (!done_) owner_->Forget(this);
}

absl::Status LocalTransport::Connect(Epoch epoch, PeerId self,
                                     const std::vector<PeerAddress>& peers,
                                     absl::Duration timeout, const LinkSecret&, const std::atomic<bool>* stop) {
  Abort();
  epoch_ = epoch;
  self_ = self;
  for (const PeerAddress& peer : peers) {
    if (peer.peer == self) continue;
    std::shared_ptr<Mailbox> mailbox = hub_->Find(peer.address);
    if (mailbox == nullptr || Dead(*mailbox)) {
      return absl::UnavailableError(absl::StrCat(PeerName(peer.peer), " is gone"));
    }
    peers_[peer.peer] = std::move(mailbox);
  }
  connected_ = true;
  {
    std::lock_guard lock(mailbox_->mutex);
    auto& letters = mailbox_->letters;
    letters.erase(letters.begin(),
                  letters.lower_bound(Key{epoch_, {-1, -1}, Channel::kHello, 0, 0}));
  }
  const absl::Status status = WaitForHellos(peers, timeout, stop);
  if (!status.ok()) Abort();
  return status;
}

absl::Status LocalTransport::WaitForHellos(const std::vector<PeerAddress>& peers,
                                           absl::Duration timeout, const std::atomic<bool>* stop) {
  std::vector<std::unique_ptr<Transfer>> transfers;
  std::vector<Transfer*> waited;
  std::vector<PeerId> order;
  const MessageTag hello{.channel = Channel::kHello};
  for (const PeerAddress& peer : peers) {
    if (peer.peer == self_) continue;
    transfers.push_back(Send(peer.peer, hello, {}));
    transfers.push_back(Receive(peer.peer, hello, {}));
    waited.push_back(transfers.back().get());
    order.push_back(peer.peer);
  }
  const absl::Status status = Wait(waited, timeout, stop);
  if (!absl::IsDeadlineExceeded(status)) return status;
  std::vector<SilentPeer> silent;
  for (size_t i = 0; i < waited.size(); ++i) {
    if (!waited[i]->done()) silent.push_back({.peer = order[i], .detail = ""});
  }
  return PeersSilent(epoch_, silent, timeout);
}

void LocalTransport::Abort() {
  for (LocalTransfer* transfer : unfinished_) {
    transfer->Finish(absl::AbortedError(absl::StrCat("epoch ", epoch_.value(), " was aborted")), 0);
  }
  unfinished_.clear();
  peers_.clear();
  dead_.clear();
  connected_ = false;
}

std::unique_ptr<Transfer> LocalTransport::Send(PeerId to, MessageTag tag,
                                               std::span<const std::byte> data) {
  auto transfer = std::make_unique<LocalTransfer>(this, to, tag, true);
  const auto peer = peers_.find(to);
  if (!connected_ || peer == peers_.end()) {
    transfer->Finish(absl::UnavailableError(absl::StrCat("not connected to ", PeerName(to))), 0);
    return transfer;
  }
  const MessageFate fate = hub_->FateFor(self_, to, tag, data.size());
  Mailbox& mailbox = *peer->second;
  std::unique_lock lock(mailbox.mutex);
  if (mailbox.dead) {
    transfer->Finish(absl::UnavailableError(absl::StrCat(PeerName(to), " is gone")), 0);
    return transfer;
  }
  const Clock::time_point due =
      fate.delay > absl::ZeroDuration() ? DeadlineAfter(fate.delay) : Clock::time_point{};
  if (!fate.drop) {
    const Key key{epoch_, self_, tag.channel, tag.step, tag.sequence};
    mailbox.letters[key].push_back(Letter{.data = {data.begin(), data.end()}, .due = due});
    mailbox.moved = true;
    mailbox.changed.notify_all();
  }
  lock.unlock();
  counters_.bytes_sent += data.size();
  ++counters_.messages_sent;
  if (due == Clock::time_point{}) {
    transfer->Finish(absl::OkStatus(), data.size());
  } else {
    transfer->due_ = due;
    transfer->into_ = {static_cast<std::byte*>(nullptr), data.size()};
    unfinished_.push_back(transfer.get());
  }
  return transfer;
}

std::unique_ptr<Transfer> LocalTransport::Receive(PeerId from, MessageTag tag,
                                                  std::span<std::byte> into) {
  auto transfer = std::make_unique<LocalTransfer>(this, from, tag, false);
  transfer->into_ = into;
  if (!connected_ || !peers_.contains(from)) {
    transfer->Finish(absl::UnavailableError(absl::StrCat("not connected to ", PeerName(from))), 0);
    return transfer;
  }
  unfinished_.push_back(transfer.get());
  return transfer;
}

void LocalTransport::Settle() {
  const Clock::time_point now = Clock::now();
  unfinished_.remove_if([&](LocalTransfer* transfer) {
    if (transfer->sending_) {
      if (transfer->due_ > now) return false;
      transfer->Finish(absl::OkStatus(), transfer->into_.size());
      return true;
    }
    const MessageTag& tag = transfer->tag_;
    const auto found =
        mailbox_->letters.find(Key{epoch_, transfer->peer_, tag.channel, tag.step, tag.sequence});
    if (found != mailbox_->letters.end()) {
      Letter& letter = found->second.front();
      if (letter.due > now) return false;
      const size_t size = letter.data.size();
      if (size == transfer->into_.size()) {
        if (size != 0) std::memcpy(transfer->into_.data(), letter.data.data(), size);
        transfer->Finish(absl::OkStatus(), size);
      } else {
        transfer->Finish(absl::InvalidArgumentError(absl::StrCat(
                             "receive from ", MessageName(transfer->peer_, tag), ": ", size,
                             " bytes came where ", transfer->into_.size(), " were expected")),
                         0);
      }
      counters_.bytes_received += size;
      found->second.pop_front();
      if (found->second.empty()) mailbox_->letters.erase(found);
      return true;
    }
    if (dead_.contains(transfer->peer_)) {
      transfer->Finish(
          absl::UnavailableError(absl::StrCat("receive from ", MessageName(transfer->peer_, tag),
                                              ": the peer is gone")),
          0);
      return true;
    }
    return false;
  });
}

std::optional<Clock::time_point> LocalTransport::NextDue() const {
  std::optional<Clock::time_point> next;
  const auto consider = [&](Clock::time_point due) {
    if (due > Clock::time_point{} && (!next || due < *next)) next = due;
  };
  for (const LocalTransfer* transfer : unfinished_) {
    if (transfer->sending_) {
      consider(transfer->due_);
      continue;
    }
    const MessageTag& tag = transfer->tag_;
    const auto found =
        mailbox_->letters.find(Key{epoch_, transfer->peer_, tag.channel, tag.step, tag.sequence});
    if (found != mailbox_->letters.end()) consider(found->second.front().due);
  }
  return next;
}

void LocalTransport::Sleep(std::unique_lock<std::mutex>& lock, Clock::time_point until) {
  if (const auto due = NextDue()) until = std::min(until, *due);
  mailbox_->changed.wait_until(lock, until, [&] { return mailbox_->moved || mailbox_->woken; });
}

absl::Status LocalTransport::Wait(std::span<Transfer* const> transfers, absl::Duration timeout,
                                  const std::atomic<bool>* stop) {
  const Clock::time_point deadline = DeadlineAfter(timeout);
  while (true) {
    {
      // Before looking at the others: a death after this look sets `moved` again.
      std::lock_guard lock(mailbox_->mutex);
      mailbox_->moved = false;
      mailbox_->woken = false;
    }
    for (const auto& [peer, mailbox] : peers_) {
      if (Dead(*mailbox)) dead_.insert(peer);
    }
    std::unique_lock lock(mailbox_->mutex);
    Settle();
    std::vector<PendingTransfer> pending;
    for (const Transfer* transfer : transfers) {
      const auto* local = static_cast<const LocalTransfer*>(transfer);
      if (!local->done()) {
        pending.push_back({.peer = local->peer_, .tag = local->tag_, .sending = local->sending_});
      } else if (!local->status().ok()) {
        return local->status();
      }
    }
    if (pending.empty()) return absl::OkStatus();
    if (stop != nullptr && stop->load())
      return absl::CancelledError("stopped while waiting for peers");
    if (Clock::now() >= deadline) return DeadlineOver(pending, timeout);
    Sleep(lock, deadline);
  }
}

void LocalTransport::Idle(absl::Duration timeout) {
  std::unique_lock lock(mailbox_->mutex);
  // Without time to wait the kernel is not asked: the decoder comes here between layers.
  if (timeout > absl::ZeroDuration()) Sleep(lock, DeadlineAfter(timeout));
  mailbox_->moved = false;
  mailbox_->woken = false;
  Settle();
}

}  // namespace

LocalHub::LocalHub() : state_(std::make_shared<State>()) {}
LocalHub::~LocalHub() = default;

std::unique_ptr<Transport> LocalHub::Make() {
  auto mailbox = std::make_shared<Mailbox>();
  std::string address;
  {
    std::lock_guard lock(state_->mutex);
    address = absl::StrCat("local-", state_->made++);
    state_->mailboxes[address] = mailbox;
  }
  return std::make_unique<LocalTransport>(state_, std::move(address), std::move(mailbox));
}

void LocalHub::SetFate(FateOf fate) {
  std::lock_guard lock(state_->mutex);
  state_->fate = std::move(fate);
}

void LocalHub::Kill(const std::string& address) { state_->Kill(address); }

}  // namespace pagoda::worker
