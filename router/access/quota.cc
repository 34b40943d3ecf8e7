#include "router/access/quota.h"

#include <algorithm>
#include <cmath>

namespace pagoda::router {
namespace {

constexpr double kMinuteNs = 60.0 * kNsPerSecond;

int64_t ToMs(double ns) { return static_cast<int64_t>(std::ceil(ns / kNsPerMs)); }

}  // namespace

Bucket::Bucket(int64_t per_minute, MonotonicNs now)
    : per_minute_(per_minute), level_(static_cast<double>(per_minute)), filled_ns_(now) {}

double Bucket::LevelAt(MonotonicNs now) const {
  const double since = static_cast<double>(std::max<MonotonicNs>(0, now - filled_ns_));
  const double full = static_cast<double>(per_minute_);
  return std::min(full, level_ + full * since / kMinuteNs);
}

void Bucket::Fill(MonotonicNs now) {
  level_ = LevelAt(now);
  filled_ns_ = std::max(filled_ns_, now);
}

bool Bucket::TryTake(int64_t amount, MonotonicNs now) {
  if (unlimited()) return true;
  Fill(now);
  const double wanted = static_cast<double>(std::min(amount, per_minute_));
  // Rounding must not refuse what has just become whole.
  if (level_ + 1e-6 < wanted) return false;
  level_ -= wanted;
  return true;
}

void Bucket::Return(int64_t amount, MonotonicNs now) {
  if (unlimited()) return;
  Fill(now);
  const double full = static_cast<double>(per_minute_);
  // A debt is at most ten minutes' worth: one request is bounded anyway, and a key must not be shut out for days.
  level_ = std::clamp(level_ + static_cast<double>(amount), -10 * full, full);
}

int64_t Bucket::MsUntil(int64_t amount, MonotonicNs now) const {
  if (unlimited()) return 0;
  const double missing = static_cast<double>(std::min(amount, per_minute_)) - LevelAt(now);
  return missing <= 0 ? 0 : std::max<int64_t>(1, ToMs(missing * kMinuteNs / static_cast<double>(per_minute_)));
}

void Bucket::SetRate(int64_t per_minute, MonotonicNs now) {
  if (per_minute == per_minute_) return;
  const bool was_unlimited = unlimited();
  Fill(now);
  per_minute_ = per_minute;
  const double full = static_cast<double>(per_minute);
  level_ = was_unlimited ? full : std::min(level_, full);
}

int64_t Bucket::Remaining(MonotonicNs now) const { return static_cast<int64_t>(std::max(0.0, LevelAt(now))); }

int64_t Bucket::MsUntilFull(MonotonicNs now) const { return MsUntil(per_minute_, now); }

}  // namespace pagoda::router
