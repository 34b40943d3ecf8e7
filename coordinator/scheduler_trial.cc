// Requests that may be what kills their pipeline: counting deaths, running a suspect alone, quarantine.
//
// Blamed is who had rows in flight when the workers were lost. Two deaths make a suspect. A suspect runs alone: the others
// keep their blocks and get no rows until it has gone a few tokens past where it began, which a request that kills by what it
// holds does not survive; then it is cleared, so that random kills convict nobody. One that dies alone twice ends.
#include <algorithm>
#include <set>
#include <utility>

#include "coordinator/scheduler.h"

namespace pagoda::coordinator {

void Scheduler::CountDeaths() {
  std::set<std::shared_ptr<RequestState>> blamed;
  for (const PlanRecord& record : in_flight_) {
    for (const SequencePointer& sequence : record.users) {
      if (sequence->state != SequenceState::kFinished) blamed.insert(sequence->request);
    }
  }
  for (const std::shared_ptr<RequestState>& request : blamed) {
    ++(request == trial_ ? request->deaths_alone : request->deaths);
    death_notices_.push_back({request->router, request->id, request->deaths, request->deaths_alone});
    if (request->deaths_alone < 2) continue;
    ++totals_.quarantined;
    quarantine_.Add(request->prompt_fingerprint, now_ns_);
  }
}

// True: a suspect is first in the queue and can run, but something of others is still in flight. Starts its trial when
// nothing is.
bool Scheduler::MustDrainForTrial() {
  if (trial_ != nullptr) {
    // Whatever of it could run is gone back to the queue for want of blocks: the others go on, and it comes again.
    for (const SequencePointer& sequence : running_) {
      if (sequence->request == trial_) return false;
    }
    if (finished_in_flight_ > 0) return false;
    trial_.reset();
  }
  if (waiting_.empty() || !(*waiting_.begin())->request->suspect()) return false;
  const SequencePointer& suspect = *waiting_.begin();
  const int needed = (suspect->length() + settings_.block_tokens - 1) / settings_.block_tokens;
  // As TakeBlocksFor asks: a trial that could not begin would stand still with all the others.
  const int margin = running_.empty() ? 0 : std::max(1, settings_.blocks / 100);
  if (free_slots_.empty() || static_cast<int>(running_.size()) + finished_in_flight_ >= settings_.max_sequences ||
      Available() - needed < margin) {
    return false;  // those that run make room first
  }
  if (!in_flight_.empty()) return true;
  trial_ = suspect->request;
  ++totals_.trials;
  for (const SequencePointer& sequence : live_.at(trial_->id).sequences) {
    sequence->cleared_at = sequence->output_count() + limits::kTrialTokens;
  }
  return false;
}

void Scheduler::AfterTrialToken(const Sequence& sequence) {
  if (trial_ == nullptr || sequence.request != trial_) return;
  const auto live = live_.find(trial_->id);
  if (live != live_.end()) {
    for (const SequencePointer& sibling : live->second.sequences) {
      if (sibling->state == SequenceState::kRunning && sibling->output_count() < sibling->cleared_at) return;
    }
    trial_->deaths = trial_->deaths_alone = 0;
    death_notices_.push_back({trial_->router, trial_->id, 0, 0});
  }
  trial_.reset();
}

std::vector<DeathNotice> Scheduler::TakeDeathNotices() { return std::exchange(death_notices_, {}); }

}  // namespace pagoda::coordinator
