// A circuit breaker per pipeline: one that fails several times in a row gets no work for a while, then one request to try it
// with, and work again once that gave a token. It is a preference: where nothing else is left, an open pipeline is better than
// an error. A plain state machine; the dispatcher's.
#pragma once

#include <algorithm>
#include <cstdint>

#include "absl/container/flat_hash_map.h"
#include "common/clock.h"
#include "router/cluster_view.h"

namespace pagoda::router {

class CircuitBreakers {
 public:
  struct Options {
    int failures = 3;  // in a row
    int64_t first_pause_ms = 1000;
    int64_t most_pause_ms = 30'000;
    int64_t probe_ms = 5'000;
  };
  CircuitBreakers() : CircuitBreakers(Options()) {}
  explicit CircuitBreakers(Options options) : options_(options) {}

  // True when this opens it.
  bool Failed(PipelineKey key, MonotonicNs now) {
    Breaker& breaker = breakers_[key];
    ++breaker.failures;
    if (breaker.failures < options_.failures) return false;
    const int doublings = std::min(breaker.failures - options_.failures, 16);
    breaker.open_until_ns = now + std::min(options_.most_pause_ms, options_.first_pause_ms << doublings) * kNsPerMs;
    return true;
  }
  void Succeeded(PipelineKey key) { breakers_.erase(key); }
  // Gets no work now.
  bool IsOpen(PipelineKey key, MonotonicNs now) const {
    const auto found = breakers_.find(key);
    if (found == breakers_.end() || found->second.failures < options_.failures) return false;
    return now < found->second.open_until_ns;
  }
  // A request goes there: the one that tries it, if it was open.
  void Chosen(PipelineKey key, MonotonicNs now) {
    const auto found = breakers_.find(key);
    if (found == breakers_.end() || found->second.failures < options_.failures) return;
    // Should it be cancelled, another one tries later.
    if (now >= found->second.open_until_ns) found->second.open_until_ns = now + options_.probe_ms * kNsPerMs;
  }
  void Forget(PipelineKey key) { breakers_.erase(key); }

 private:
  struct Breaker {
    int failures = 0;
    MonotonicNs open_until_ns = 0;
  };
  const Options options_;
  absl::flat_hash_map<PipelineKey, Breaker> breakers_;
};

}  // namespace pagoda::router
