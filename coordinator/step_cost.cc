#include "coordinator/step_cost.h"

#include <algorithm>

namespace pagoda::coordinator {
namespace {

constexpr double kNew = 0.1;  // weight of a new measurement
// Until more rows than measured have run: what one more of a few rows adds, in parts of the time so far. Few rows wait for
// memory and hide each other's arithmetic.
constexpr double kRowOfFew = 0.06;
constexpr int kFewRows = 8;

void Blend(double& mean, double value) { mean = mean == 0 ? value : (1 - kNew) * mean + kNew * value; }

}  // namespace

// Each of the first eight numbers of rows, then four to a doubling.
int StepCost::BucketOf(int rows) {
  if (rows <= 8) return std::max(rows, 1) - 1;
  int low = 8;
  int first = 8;
  for (; rows >= 2 * low; low *= 2) first += 4;
  return std::min(first + (rows - low) * 4 / low, kBuckets - 1);
}

void StepCost::Observe(int decode_rows, int prompt_rows, int64_t compute_ns) {
  const double ns = static_cast<double>(compute_ns);
  if (ns <= 0) return;
  if (prompt_rows == 0) {
    Bucket& bucket = buckets_[static_cast<size_t>(BucketOf(decode_rows))];
    Blend(bucket.rows, decode_rows);
    Blend(bucket.ns, ns);
  } else if (prompt_rows >= 8) {
    Blend(prompt_row_ns_, std::max(ns - DecodeNs(decode_rows), ns / 4) / prompt_rows);
  }
}

void StepCost::ObserveRoundTrip(int64_t overhead_ns) {
  Blend(round_trip_ns_, static_cast<double>(std::max<int64_t>(overhead_ns, 0)));
}

double StepCost::DecodeNs(int rows) const {
  if (rows <= 0) return 0;
  const Bucket* below = nullptr;  // the nearest measured ones
  const Bucket* above = nullptr;
  double least = 0;
  for (const Bucket& bucket : buckets_) {
    if (bucket.ns == 0) continue;
    if (bucket.rows <= rows) {
      least = std::max(least, bucket.ns);
      below = &bucket;
    } else if (above == nullptr) {
      above = &bucket;
    }
  }
  if (below == nullptr) return above == nullptr ? 0 : above->ns;
  if (above != nullptr) {
    const double part = (rows - below->rows) / (above->rows - below->rows);
    return std::max(least, below->ns + part * (above->ns - below->ns));
  }
  const double few = std::clamp<double>(kFewRows, below->rows, rows);
  const double at_few = below->ns * (1 + kRowOfFew * (few - below->rows));
  return std::max(least, at_few * rows / few);
}

}  // namespace pagoda::coordinator
