// What the control thread hands to the engine's thread: assignments, plans, releases, in order. Bounded: more unread plans than a
// pipeline may have is the coordinator's error. Anything that ends the epoch (another assignment, a release, the end of the
// process) raises `stop` at once, so that whatever the engine waits for is given up.
// Thread rule: Push* from any thread, Take and Upcoming from the engine's.
#pragma once

#include <atomic>
#include <deque>
#include <functional>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "common/clock.h"
#include "common/mutex.h"
#include "worker/comm/transport.h"
#include "worker/engine/step_plan.h"
#include "worker/kv/kv_window.h"

namespace pagoda::worker {

// See worker.proto's Assignment.
struct StageAssignment {
  int layer_begin = 0;
  int layer_end = 0;
  int tensor_parallel = 1;
};
struct Assignment {
  PipelineId pipeline;
  Epoch epoch;
  std::string deployment;  // its name, for metrics
  std::string model;
  std::string model_digest;
  PeerId self;
  std::vector<StageAssignment> stages;
  int64_t max_model_len = 0;
  int block_tokens = 0;
  int blocks = 0;
  std::string kv_cache_type;
  int activation_bits = 0;
  int max_step_rows = 0;
  int max_slots = 0;
  int max_sample_rows = 0;
  std::vector<std::string> model_peers;
  absl::Duration step_deadline;
};
struct LinkUp {
  Epoch epoch;
  std::vector<PeerAddress> peers;
  LinkSecret secret = {};
};
struct Release {
  Epoch epoch;
  bool keep_weights = false;
};
struct EndKvFill {
  Epoch epoch;
  uint64_t move = 0;
};
struct Shutdown {};

using EngineEvent = std::variant<Assignment, LinkUp, StepPlan, KvFill, KvFilled, EndKvFill, Release, Shutdown>;

class EngineInbox {
 public:
  // `wake` ends the engine's sleep; called without locks held.
  explicit EngineInbox(std::function<void()> wake) : wake_(std::move(wake)) {}

  void Push(EngineEvent event);
  // False when more than `limit` plans would be unread.
  bool PushPlan(StepPlan plan, size_t limit);

  std::optional<EngineEvent> Take();
  // The plans that come next, before anything else, at most `count`: for posting receives ahead. The pointers hold until Take.
  std::vector<const StepPlan*> Upcoming(size_t count) const;
  bool empty() const;

  // True while an event that ends the epoch is queued.
  const std::atomic<bool>* stop() const { return &stop_; }
  // For how long the engine has not come for such an event.
  int64_t StopIgnoredNs(MonotonicNs now) const;

 private:
  static bool EndsEpoch(const EngineEvent& event) {
    return std::holds_alternative<Assignment>(event) || std::holds_alternative<Release>(event) ||
           std::holds_alternative<Shutdown>(event);
  }

  const std::function<void()> wake_;
  std::atomic<bool> stop_{false};
  mutable Mutex mutex_;
  std::deque<EngineEvent> events_ ABSL_GUARDED_BY(mutex_);  // deque: pointers to queued events stay valid
  size_t plans_ ABSL_GUARDED_BY(mutex_) = 0;
  MonotonicNs stop_since_ns_ ABSL_GUARDED_BY(mutex_) = 0;  // 0: not raised
};

}  // namespace pagoda::worker
