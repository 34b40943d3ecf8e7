#include "tests/sim/network.h"

#include <algorithm>

namespace pagoda::sim {
namespace {

constexpr int64_t kWatchEvery = 100 * kMs;
constexpr int64_t kKeepaliveTimeout = 4 * kSecond;  // as the clients of the coordinator set it

}  // namespace

int64_t Network::Delay() { return world_.Uniform(20 * kUs, faults_.most_delay_ns); }

// What a stream would call or deliver owns it, or its neighbour that owns it.
Network::~Network() {
  for (const std::weak_ptr<Stream>& known : streams_) {
    const std::shared_ptr<Stream> stream = known.lock();
    if (stream == nullptr) continue;
    for (Stream::Side& side : stream->sides_) {
      side.held.clear();
      side.end.lost = nullptr;
    }
  }
}

std::shared_ptr<Stream> Network::Connect(End a, End b) {
  std::erase_if(streams_, [](const std::weak_ptr<Stream>& known) { return known.expired(); });
  std::shared_ptr<Stream> stream(new Stream(*this, std::move(a), std::move(b)));
  streams_.push_back(stream);
  stream->Watch();
  return stream;
}

void Network::SendPacket(Life from, Life to, std::function<void()> deliver) {
  if (!Connected(from.process, to.process)) return;
  if (world_.Chance(faults_.packet_loss)) {
    world_.Note("a packet from " + world_.NameOf(from.process) + " to " + world_.NameOf(to.process) + " is lost");
    return;
  }
  if (world_.Chance(faults_.packet_twice)) world_.After(to, Delay() + Delay(), deliver);
  world_.After(to, Delay(), std::move(deliver));
}

void Stream::Send(ProcessId from, std::function<void()> deliver) {
  if (!open_) return;
  Side& to = To(from);
  const bool cut = !network_.Connected(sides_[0].end.life.process, sides_[1].end.life.process);
  if (cut || !to.held.empty()) {  // TCP keeps it until it gets through or the stream is given up
    to.held.push_back(std::move(deliver));
    return;
  }
  Carry(to, std::move(deliver));
}

void Stream::Carry(Side& to, std::function<void()> deliver) {
  World& world = network_.world_;
  to.last_arrival_ns = std::max(to.last_arrival_ns + 1, world.now_ns() + network_.Delay());
  const auto self = shared_from_this();
  world.After(to.end.life, to.last_arrival_ns - world.now_ns(), [self, deliver = std::move(deliver)] {
    if (self->open_) deliver();
  });
}

void Stream::Close(ProcessId by) {
  if (!open_) return;
  open_ = false;
  Side& other = To(by);
  network_.world_.After(other.end.life, network_.Delay(), other.end.lost);
}

void Stream::Break() {
  if (!open_) return;
  open_ = false;
  for (Side& side : sides_) network_.world_.After(side.end.life, network_.Delay(), side.end.lost);
}

// What the kernels and keepalives of both ends notice.
void Stream::Watch() {
  if (!open_) return;
  World& world = network_.world_;
  const Life a = sides_[0].end.life;
  const Life b = sides_[1].end.life;
  const bool cut = !network_.Connected(a.process, b.process);
  const bool dead = !world.Lives(a) || !world.Lives(b);
  if (dead && !cut) return Break();  // the kernel of the dead one says so
  const bool silent = cut || dead || world.IsStopped(a.process) || world.IsStopped(b.process);
  if (!silent) {
    silent_since_ns_ = -1;
  } else if (silent_since_ns_ < 0) {
    silent_since_ns_ = world.now_ns();
  } else if (world.now_ns() - silent_since_ns_ > kKeepaliveTimeout) {
    return Break();
  }
  for (Side& side : sides_) {
    while (!cut && !side.held.empty()) {
      Carry(side, std::move(side.held.front()));
      side.held.pop_front();
    }
  }
  const auto self = shared_from_this();
  world.After(kWatchEvery, [self] { self->Watch(); });
}

}  // namespace pagoda::sim
