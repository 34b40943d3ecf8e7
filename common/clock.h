// Time as the edges see it. Pure cores never call these: they take `now` as an argument.
#pragma once

#include <chrono>
#include <cstdint>

namespace pagoda {

// Monotonic nanoseconds since an arbitrary point of this process. Only differences within one process mean anything.
using MonotonicNs = int64_t;

inline MonotonicNs NowNs() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

inline constexpr int64_t kNsPerMs = 1'000'000;
inline constexpr int64_t kNsPerSecond = 1'000'000'000;

}  // namespace pagoda
