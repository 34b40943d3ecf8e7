// Gather and broadcast inside a tensor-parallel group. Moves data only; who adds what is in kernels/reduction_tree.h.
// Owned by the engine's thread. A group of one does nothing and costs nothing.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "worker/comm/transport.h"

namespace pagoda::worker {

class Collective {
 public:
  Collective(Transport& transport, PeerId self, int size);
  ~Collective();

  int rank() const;
  int size() const;
  // Begins a step: sequence numbers of the calls below restart.
  void BeginStep(StepNumber step);

  // Every rank gives `mine`; afterwards parts[r] on every rank holds what rank r gave. parts[r].size() is known to all
  // (parts[rank()] is where `mine` lies already or is copied to). `members`: the ranks that take part, ascending, this one
  // among them; empty: all.
  absl::Status Gather(std::span<const std::byte> mine, std::span<const std::span<std::byte>> parts,
                      std::span<const int> members, absl::Duration timeout, const std::atomic<bool>* stop);
  // Only `root` ends up with all parts.
  absl::Status GatherTo(int root, std::span<const std::byte> mine, std::span<const std::span<std::byte>> parts,
                        absl::Duration timeout, const std::atomic<bool>* stop);
  absl::Status Broadcast(int root, std::span<std::byte> data, absl::Duration timeout, const std::atomic<bool>* stop);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace pagoda::worker
