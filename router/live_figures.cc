#include "router/live_figures.h"

#include <algorithm>
#include <cmath>

namespace pagoda::router {
namespace {

constexpr double kLeastSeconds = 50e-6;
constexpr double kRatio = 1.2;

}  // namespace

void LatencyBins::Add(double seconds) {
  const int bin =
      seconds <= kLeastSeconds
          ? 0
          : std::min(kBins - 1, static_cast<int>(std::log(seconds / kLeastSeconds) / std::log(kRatio)) + 1);
  ++bins_[static_cast<size_t>(bin)];
  ++count_;
}

std::optional<double> LatencyBins::Quantile(double share) const {
  if (count_ == 0) return std::nullopt;
  const auto wanted = static_cast<uint32_t>(std::ceil(share * count_));
  uint32_t seen = 0;
  for (size_t bin = 0; bin < bins_.size(); ++bin) {
    seen += bins_[bin];
    if (seen >= std::max(wanted, 1u)) return kLeastSeconds * std::pow(kRatio, static_cast<double>(bin));
  }
  return std::nullopt;
}

void LatencyBins::Clear() {
  bins_.fill(0);
  count_ = 0;
}

void LiveFigures::FirstToken(double seconds) {
  std::lock_guard lock(mutex_);
  first_token_.Add(seconds);
}
void LiveFigures::InterToken(double seconds) {
  std::lock_guard lock(mutex_);
  inter_token_.Add(seconds);
}
void LiveFigures::Prompt(int64_t tokens) {
  std::lock_guard lock(mutex_);
  now_.prompt_tokens += tokens;
}
void LiveFigures::Output(int64_t tokens) {
  std::lock_guard lock(mutex_);
  now_.output_tokens += tokens;
}
void LiveFigures::Ended(int code) {
  std::lock_guard lock(mutex_);
  ++now_.requests;
  if (code >= 500) ++now_.errors;
}
void LiveFigures::Rejected() {
  std::lock_guard lock(mutex_);
  ++now_.rejected;
}
void LiveFigures::Retried() {
  std::lock_guard lock(mutex_);
  ++now_.retries;
}
void LiveFigures::SetInFlight(int64_t requests) {
  std::lock_guard lock(mutex_);
  now_.in_flight = requests;
}

FigureSample LiveFigures::EndSecond(int64_t unix_s) {
  std::lock_guard lock(mutex_);
  now_.unix_s = unix_s;
  now_.first_token_p50 = first_token_.Quantile(0.5);
  now_.first_token_p95 = first_token_.Quantile(0.95);
  now_.inter_token_p50 = inter_token_.Quantile(0.5);
  now_.inter_token_p95 = inter_token_.Quantile(0.95);
  first_token_.Clear();
  inter_token_.Clear();
  const FigureSample closed = now_;
  if (history_.size() == limits::kFigureSeconds) history_.pop_front();
  history_.push_back(closed);
  now_ = FigureSample();
  now_.in_flight = closed.in_flight;
  return closed;
}

std::vector<FigureSample> LiveFigures::History() const {
  std::lock_guard lock(mutex_);
  return {history_.begin(), history_.end()};
}

}  // namespace pagoda::router
