// The last things that happened in the cluster, for people who look at it: `pagoda.v1.Admin/GetCluster` and the status page.
// The log has them all; this keeps limits::kMaxKeptEvents. Owner and thread: the coordinator's control thread.
#pragma once

#include <cstdint>
#include <deque>
#include <string>
#include <string_view>
#include <utility>

#include "common/limits.h"

namespace pagoda::coordinator {

struct ClusterEvent {
  uint64_t number = 0;  // dense from 1
  int64_t unix_ms = 0;
  std::string kind;
  std::string text;
};

class EventLog {
 public:
  void Add(std::string_view kind, std::string text, int64_t unix_ms) {
    if (events_.size() == limits::kMaxKeptEvents) events_.pop_front();
    events_.push_back({++last_, unix_ms, std::string(kind), std::move(text)});
  }
  const std::deque<ClusterEvent>& events() const { return events_; }

 private:
  std::deque<ClusterEvent> events_;
  uint64_t last_ = 0;
};

}  // namespace pagoda::coordinator
