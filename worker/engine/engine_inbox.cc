#include "worker/engine/engine_inbox.h"

#include <algorithm>

namespace pagoda::worker {

void EngineInbox::Push(EngineEvent event) {
  {
    MutexLock lock(&mutex_);
    if (EndsEpoch(event)) {
      stop_.store(true);
      if (stop_since_ns_ == 0) stop_since_ns_ = NowNs();
    }
    plans_ += std::holds_alternative<StepPlan>(event);
    events_.push_back(std::move(event));
  }
  wake_();
}

bool EngineInbox::PushPlan(StepPlan plan, size_t limit) {
  {
    MutexLock lock(&mutex_);
    if (plans_ >= limit) return false;
    ++plans_;
    events_.emplace_back(std::move(plan));
  }
  wake_();
  return true;
}

std::optional<EngineEvent> EngineInbox::Take() {
  MutexLock lock(&mutex_);
  if (events_.empty()) return std::nullopt;
  EngineEvent event = std::move(events_.front());
  events_.pop_front();
  plans_ -= std::holds_alternative<StepPlan>(event);
  if (EndsEpoch(event)) {
    const bool more = std::any_of(events_.begin(), events_.end(), EndsEpoch);
    stop_.store(more);
    stop_since_ns_ = more ? NowNs() : 0;
  }
  return event;
}

std::vector<const StepPlan*> EngineInbox::Upcoming(size_t count) const {
  MutexLock lock(&mutex_);
  std::vector<const StepPlan*> plans;
  for (const EngineEvent& event : events_) {
    const StepPlan* plan = std::get_if<StepPlan>(&event);
    if (plan == nullptr || plans.size() >= count) break;
    plans.push_back(plan);
  }
  return plans;
}

int64_t EngineInbox::StopIgnoredNs(MonotonicNs now) const {
  MutexLock lock(&mutex_);
  return stop_since_ns_ == 0 ? 0 : now - stop_since_ns_;
}

bool EngineInbox::empty() const {
  MutexLock lock(&mutex_);
  return events_.empty();
}

}  // namespace pagoda::worker
