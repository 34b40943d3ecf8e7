// What this router did in each of the last limits::kFigureSeconds seconds, for the charts of the status page: counts, and
// quantiles of latencies within the second. Costs a few additions per event and nothing while nobody looks.
// Thread rule: any thread.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <mutex>
#include <optional>
#include <vector>

#include "common/limits.h"

namespace pagoda::router {

// Latencies of one second, in bins a fifth apart from 50 us to 10 minutes.
class LatencyBins {
 public:
  void Add(double seconds);
  std::optional<double> Quantile(double share) const;  // upper bound of its bin, in seconds; none: nothing was added
  void Clear();

 private:
  static constexpr int kBins = 90;
  std::array<uint32_t, kBins> bins_{};
  uint32_t count_ = 0;
};

struct FigureSample {
  int64_t unix_s = 0;
  int64_t in_flight = 0;
  int64_t prompt_tokens = 0;
  int64_t output_tokens = 0;
  int64_t requests = 0;  // ended
  int64_t errors = 0;    // of them, with 5xx
  int64_t rejected = 0;
  int64_t retries = 0;   // submissions after the first: failovers among them
  std::optional<double> first_token_p50, first_token_p95, inter_token_p50, inter_token_p95;  // seconds
};

class LiveFigures {
 public:
  void FirstToken(double seconds);
  void InterToken(double seconds);
  void Prompt(int64_t tokens);
  void Output(int64_t tokens);
  void Ended(int code);
  void Rejected();
  void Retried();
  void SetInFlight(int64_t requests);

  // Closes the second and begins the next. Call once a second.
  FigureSample EndSecond(int64_t unix_s);
  std::vector<FigureSample> History() const;  // oldest first

 private:
  mutable std::mutex mutex_;
  FigureSample now_;
  LatencyBins first_token_, inter_token_;
  std::deque<FigureSample> history_;
};

}  // namespace pagoda::router
