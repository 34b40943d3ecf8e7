// What the decoder needs of its tensor-parallel group: two gathers, with the step's deadline and the engine's stop flag, and
// how long they waited. Owned by the engine's thread. A group of one costs nothing.
#pragma once

#include <atomic>
#include <span>
#include <vector>

#include "absl/time/time.h"
#include "common/clock.h"
#include "common/status.h"
#include "worker/comm/collective.h"

namespace pagoda::worker {

class GroupExchange {
 public:
  // `collective` null: a group of one. `transport` null: no sends to keep moving.
  GroupExchange(Collective* collective, Transport* transport, absl::Duration timeout, const std::atomic<bool>* stop)
      : collective_(collective), transport_(transport), timeout_(timeout), stop_(stop) {}

  void BeginStep(StepNumber step) {
    if (collective_ != nullptr) collective_->BeginStep(step);
  }
  // Lets earlier sends to the next stage move on; called between layers. Never sleeps.
  void Poll() {
    if (transport_ != nullptr) transport_->Idle(absl::ZeroDuration());
  }
  bool alone() const { return collective_ == nullptr || collective_->size() == 1; }

  // See Collective. `mine` lies in parts[rank] already.
  absl::Status Gather(std::span<const std::span<std::byte>> parts, int rank, std::span<const int> members) {
    return Timed([&] { return collective_->Gather(parts[static_cast<size_t>(rank)], parts, members, timeout_, stop_); });
  }
  absl::Status GatherTo(int root, std::span<const std::byte> mine, std::span<const std::span<std::byte>> parts) {
    return Timed([&] { return collective_->GatherTo(root, mine, parts, timeout_, stop_); });
  }
  absl::Status Broadcast(int root, std::span<std::byte> data) {
    return Timed([&] { return collective_->Broadcast(root, data, timeout_, stop_); });
  }

  int64_t wait_ns() const { return wait_ns_; }  // in all calls so far

 private:
  template <typename Call>
  absl::Status Timed(Call&& call) {
    if (alone()) return absl::OkStatus();
    const MonotonicNs begin = NowNs();
    const absl::Status status = call();
    wait_ns_ += NowNs() - begin;
    return status;
  }

  Collective* collective_;
  Transport* transport_;
  absl::Duration timeout_;
  const std::atomic<bool>* stop_;
  int64_t wait_ns_ = 0;
};

}  // namespace pagoda::worker
