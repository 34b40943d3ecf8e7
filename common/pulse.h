// A sign of life for whoever supervises this process: a file (its ready file) whose time moves on while the loop that calls
// Beat goes round. A stopped process falls silent by itself; one that hangs does so because its loop no longer beats, or
// because the loop asks those it answers for (Beat is then left out).
// Owner and thread: the loop that beats.
#pragma once

#include <string>

#include "common/clock.h"

namespace pagoda {

inline constexpr int kPulseMs = 1000;  // how often a file is touched
// Silence after which `pagoda serve` kills a process: far beyond a lease, so that a machine that is merely busy costs nothing.
inline constexpr int kHangTimeoutMs = 20'000;
static_assert(kHangTimeoutMs >= 10 * kPulseMs);

class Pulse {
 public:
  // An empty path: nobody looks, and beats do nothing.
  explicit Pulse(std::string path) : path_(std::move(path)) {}

  // Touches the file, at most each kPulseMs. A file that is not there is not made: it says that this process is ready.
  void Beat();

 private:
  const std::string path_;
  MonotonicNs last_ns_ = 0;
};

}  // namespace pagoda
