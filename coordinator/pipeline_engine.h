// The engine of one pipeline: one thread that receives, schedules, dispatches and publishes. Everything it decides is
// decided by the Scheduler; this gives it time, messages and a place to send to.
// Thread rule: every public method may be called from any thread and returns at once.
#pragma once

#include <atomic>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "common/bounded_queue.h"
#include "common/clock.h"
#include "common/ids.h"
#include "common/mutex.h"
#include "coordinator/engine_metrics.h"
#include "coordinator/links.h"
#include "coordinator/request.h"
#include "coordinator/request_log.h"
#include "coordinator/resume_table.h"
#include "coordinator/scheduler.h"
#include "coordinator/step_plan.h"

namespace pagoda::coordinator {

struct EngineOptions {
  PipelineId pipeline;
  std::string deployment;
  int max_queued_requests = 2048;
  int64_t step_deadline_ns = 30'000'000'000;
  Tracer* tracer = nullptr;  // null: no traces
  int64_t canary_every_ns = 10'000'000'000;  // a step through an idle pipeline, to see that it still works; 0: none
  std::shared_ptr<SharedResumeTable> resumable;  // logs of streams that may outlive their router; may be null
  // Both are called on the engine's thread.
  // The step that gave no result in time; 0: it failed for another reason.
  std::function<void(Epoch, StepNumber, const std::string&)> epoch_failed;
  std::function<void()> drained;
};

struct EngineStatus {
  SchedulerStats stats;
  Epoch epoch;
  bool open = false;
  bool idle = true;
};

class PipelineEngine {
 public:
  PipelineEngine(EngineOptions options, std::shared_ptr<RouterDirectory> routers, std::unique_ptr<EngineMetrics> metrics);
  ~PipelineEngine();  // as Stop

  // False when the inbox is full: refuse with RESOURCE_EXHAUSTED.
  bool TrySubmit(Request request);
  void Cancel(RequestId request, uint32_t attempt);
  void StopChoice(RequestId request, int choice, int count);
  void DropRouter(RouterId router);
  // Ends the request with an error, for its router too: another one goes on with it.
  void Abort(RequestId request, std::string message);

  void OpenEpoch(EpochSettings settings, std::unique_ptr<PlanTransport> transport);
  void CloseEpoch(Epoch epoch, EpochEnd why);
  void Deliver(StepResult result);

  // KV that moves between pipelines (kv_move.h). The callbacks are called on the engine's thread; of another epoch than `epoch`
  // nothing is offered or reserved.
  void OfferKv(uint64_t move, Epoch epoch, std::function<void(KvOffer)> done);
  void ReserveKv(uint64_t move, Epoch epoch, KvOffer offer, KvMoveCost cost, std::function<void(KvReservation)> done);
  void FinishKv(uint64_t move, bool arrived);
  void CountKvMove(KvMoveEnd end) { metrics_->CountKvMove(end); }
  void CountKvBytes(int64_t bytes) { metrics_->CountKvBytes(bytes); }

  void LimitQueue(int max_queued_requests);
  // No new request is taken any more, after a moment for those on their way; only streams that were accepted before. While nothing is
  // left options.drained is called again and again.
  void Drain();
  void Stop(const std::string& message);   // ends what is left with an error; the thread ends

  EngineStatus status() const;
  // The loop came round since then.
  bool TurnedSince(MonotonicNs then) const { return turned_ns_.load(std::memory_order_relaxed) >= then; }
  // Something is queued, waits or runs.
  bool busy() const { return queued_.load(std::memory_order_relaxed) > 0 || !status().idle; }
  const EngineOptions& options() const { return options_; }
  int max_queued_requests() const { return max_queued_requests_.load(std::memory_order_relaxed); }

 private:
  struct CancelEvent { RequestId request; uint32_t attempt; };
  struct StopChoiceEvent { RequestId request; int choice; int count; };
  struct DropRouterEvent { RouterId router; };
  struct AbortEvent { RequestId request; std::string message; };
  struct OpenEpochEvent { EpochSettings settings; std::unique_ptr<PlanTransport> transport; };
  struct CloseEpochEvent { Epoch epoch; EpochEnd why; };
  struct OfferKvEvent { uint64_t move; Epoch epoch; std::function<void(KvOffer)> done; };
  struct ReserveKvEvent {
    uint64_t move;
    Epoch epoch;
    KvOffer offer;
    KvMoveCost cost;
    std::function<void(KvReservation)> done;
  };
  struct FinishKvEvent { uint64_t move; bool arrived; };
  struct LimitQueueEvent { int max_queued_requests; };
  struct DrainEvent {};
  struct StopEvent { std::string message; };
  using Event = std::variant<Request, CancelEvent, StopChoiceEvent, DropRouterEvent, AbortEvent, OpenEpochEvent, CloseEpochEvent,
                             StepResult, OfferKvEvent, ReserveKvEvent, FinishKvEvent, LimitQueueEvent, DrainEvent, StopEvent>;

  void Run();
  void Receive();
  void Dispatch();
  void Publish();
  void PublishDeaths();
  void Handle(Event& event, int64_t now_ns);
  void Refuse(const Request& request, const std::string& why);
  void HandleResult(const StepResult& result, int64_t now_ns);
  void CheckStepDeadline(int64_t now_ns);
  void SendCanary(int64_t now_ns);
  void FailEpoch(const std::string& why);
  bool TakesNothingNew(int64_t now_ns) const;
  bool IsOpen(Epoch epoch) const { return transport_ != nullptr && !failed_ && epoch == epoch_; }
  int64_t WaitNs(int64_t now_ns) const;
  bool Push(Event event);

  const EngineOptions options_;
  const std::shared_ptr<RouterDirectory> routers_;
  const std::unique_ptr<EngineMetrics> metrics_;
  BoundedQueue<Event> inbox_;
  std::atomic<MonotonicNs> turned_ns_{NowNs()};
  std::atomic<int> queued_{0};  // requests in the inbox and waiting
  std::atomic<int> max_queued_requests_;

  // The engine thread's.
  Scheduler scheduler_;
  RequestLog requests_;
  std::unique_ptr<PlanTransport> transport_;
  Epoch epoch_;
  StepNumber last_step_;
  bool failed_ = false;   // the epoch's end was reported
  bool draining_ = false;
  bool stopping_ = false;
  int64_t drain_began_ns_ = 0;
  int64_t told_drained_ns_ = 0;
  std::deque<std::pair<uint64_t, int64_t>> dispatched_;  // step, when
  int64_t worked_ns_ = 0;       // when there was last something to do
  uint64_t canaries_ = 0;
  double slowest_step_ns_ = 0;  // of late; 0: none yet
  uint64_t stalled_step_ = 0;

  mutable Mutex status_mutex_;
  EngineStatus status_ ABSL_GUARDED_BY(status_mutex_);

  std::thread thread_;
};

}  // namespace pagoda::coordinator
