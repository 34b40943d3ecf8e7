// Weighted fair queueing among tenants, by start tags: a request's tag is the virtual time at which its tenant's earlier
// requests would have been served at the tenant's fair share, and the queue goes by tag. A tenant that floods the queue
// waits behind its own requests; another one's first request goes next. With one tenant it is first come, first served.
// A plain state machine, owned by the scheduler. Tenants whose share is used up are forgotten, so that memory is bounded
// by those with something queued.
#pragma once

#include <algorithm>
#include <string>
#include <unordered_map>

#include "common/limits.h"

namespace pagoda::coordinator {

class FairShare {
 public:
  // Of a new request that costs `cost` (tokens); charges its tenant.
  double Charge(const std::string& tenant, double cost, double weight) {
    if (finish_tags_.size() >= static_cast<size_t>(limits::kMaxTenants)) Forget();
    double& finish = finish_tags_[tenant];
    const double start = std::max(now_, finish);
    finish = start + cost / std::max(weight, 1e-6);
    return start;
  }
  // What the tenant's next request would get.
  double Peek(const std::string& tenant) const {
    const auto found = finish_tags_.find(tenant);
    return found == finish_tags_.end() ? now_ : std::max(now_, found->second);
  }
  // The request cost less than it was charged.
  void Refund(const std::string& tenant, double cost, double weight) {
    const auto found = finish_tags_.find(tenant);
    if (found != finish_tags_.end()) found->second -= cost / std::max(weight, 1e-6);
  }
  // A request of that tag leaves the queue: virtual time goes on.
  void Served(double start_tag) { now_ = std::max(now_, start_tag); }
  // For what was accepted before and comes again: ahead of everything that waits for its share.
  double now() const { return now_; }
  size_t tenants() const { return finish_tags_.size(); }

 private:
  void Forget() {
    std::erase_if(finish_tags_, [this](const auto& entry) { return entry.second <= now_; });
    // More tenants than the limit have something queued: they share one clock from here.
    if (finish_tags_.size() >= static_cast<size_t>(limits::kMaxTenants)) finish_tags_.clear();
  }

  double now_ = 0;
  std::unordered_map<std::string, double> finish_tags_;
};

}  // namespace pagoda::coordinator
