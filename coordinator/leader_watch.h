// A standby's eye on whoever leads. A process that was killed leaves a host that refuses connections for it: that is known at
// once, while its lease in the store runs on for seconds. Only a port that took connections before counts, and only when it refuses
// twice in a row; what is silent (a stopped process, a lost host) is left to the lease.
// Pure; one thread.
#pragma once

#include <string>

#include "coordinator/diagnosis.h"

namespace pagoda::coordinator {

class LeaderWatch {
 public:
  // What a connect to the leader at `address` found. True: its process is gone (said once).
  bool Found(const std::string& address, ProbeResult result) {
    if (address != address_) *this = LeaderWatch(address);
    if (result != ProbeResult::kRefused) {
      answered_ = answered_ || result == ProbeResult::kAnswered;
      refusals_ = 0;
      return false;
    }
    return answered_ && ++refusals_ == kRefusals;
  }

  LeaderWatch() = default;

 private:
  static constexpr int kRefusals = 2;

  explicit LeaderWatch(std::string address) : address_(std::move(address)) {}

  std::string address_;
  bool answered_ = false;
  int refusals_ = 0;
};

}  // namespace pagoda::coordinator
