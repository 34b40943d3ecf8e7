// What one API key may still use: two token buckets, of requests and of tokens, each filled at its quota per minute and
// holding at most one minute's worth. Pure: the time is given. Thread rule: none of its own.
#pragma once

#include <cstdint>

#include "common/clock.h"

namespace pagoda::router {

// A quota of 0 is none: everything fits.
class Bucket {
 public:
  Bucket(int64_t per_minute, MonotonicNs now);

  // Takes `amount` if it is there. An amount larger than the bucket takes a full bucket.
  bool TryTake(int64_t amount, MonotonicNs now);
  // What was taken and not used comes back; a negative amount is used beyond what was taken, and may leave a debt.
  void Return(int64_t amount, MonotonicNs now);
  // Until `amount` would be there.
  int64_t MsUntil(int64_t amount, MonotonicNs now) const;
  // A changed quota keeps what is in the bucket, up to its new size.
  void SetRate(int64_t per_minute, MonotonicNs now);

  bool unlimited() const { return per_minute_ == 0; }
  int64_t limit() const { return per_minute_; }
  int64_t Remaining(MonotonicNs now) const;      // 0 when in debt
  int64_t MsUntilFull(MonotonicNs now) const;

 private:
  double LevelAt(MonotonicNs now) const;
  void Fill(MonotonicNs now);

  int64_t per_minute_;
  double level_;  // below 0: a debt
  MonotonicNs filled_ns_;
};

// Both buckets of a key.
struct Quota {
  Quota(int64_t requests_per_minute, int64_t tokens_per_minute, MonotonicNs now)
      : requests(requests_per_minute, now), tokens(tokens_per_minute, now) {}
  Bucket requests;
  Bucket tokens;
};

}  // namespace pagoda::router
