// The worker's one engine: a thread that takes events in order (assignment, link-up, plans, release), runs its rank's part of
// every plan and tells the sink what came of it. It holds the backend, the transport, the shard and the KV cache; nobody else
// touches them.
//
// States of an epoch: assigned -> loaded -> linked -> (plans) -> released or failed. What fails inside an epoch is one Fault;
// after it plans of that epoch are dropped until an assignment or a release comes. Weights and KV outlive an epoch unless the
// release says otherwise: the next assignment of the same shard starts at once, and says which KV blocks are still good.
//
// Thread rule: Post* and Held from any thread; the sink is called on the engine's thread (OnFault also on PostPlan's).
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>

#include "checkpoint/checkpoint.h"
#include "common/mutex.h"
#include "worker/engine/engine_inbox.h"
#include "worker/engine/slot_spans.h"
#include "worker/engine/step_executor.h"

namespace pagoda::worker {

enum class LoadPhase : uint8_t { kLoading, kLoaded, kLinked };
struct LoadReport {
  Epoch epoch;
  LoadPhase phase = LoadPhase::kLoading;
  double progress = 0;
  int64_t weights_bytes = 0;
  int64_t kv_bytes = 0;
  int64_t workspace_bytes = 0;
  std::string shard_digest;
  std::vector<KvRecord::Held> held;  // with kLoaded: what the KV cache still has of an earlier epoch
};
struct FaultReport {
  Epoch epoch;
  StepNumber step;
  PeerId self;
  std::string operation;
  std::string message;
};
struct HeldReport {
  std::string shard_digest;
  PipelineId pipeline;
  Epoch epoch;
  PeerId self;
};

class EngineSink {
 public:
  virtual ~EngineSink() = default;
  virtual void OnLoad(const LoadReport& report) = 0;
  virtual void OnResult(StepResult result) = 0;
  virtual void OnFault(const FaultReport& fault) = 0;
  virtual void OnLeft(Epoch epoch) = 0;
  virtual void OnKvFilled(const KvFilled&) {}
  virtual void OnStep(const Assignment& assignment, const StepTimes& times, const Transport::Counters& counters) = 0;
};

// Opens an assignment's model, from the local cache, the source or peers. Called on the engine's thread; `keep_going` false: stop.
using ModelOpener = std::function<absl::StatusOr<std::shared_ptr<const checkpoint::Checkpoint>>(
    const Assignment& assignment, const std::function<bool(double)>& keep_going)>;

struct EngineOptions {
  std::unique_ptr<kernels::Backend> backend;
  std::unique_ptr<Transport> transport;
  ModelOpener open_model;
  int64_t kv_cache_bytes = 0;  // refuse an assignment whose KV cache is larger; 0: no bound of its own
  int64_t replay_bytes = 0;    // host memory for outputs that the next stage may need again; 0: none are kept
  EngineSink* sink = nullptr;  // outlives the engine
  // Of the KV of the epoch under way; null: none is shown. `pull_kv` begins to fill blocks through it, and calls `done` once from
  // any thread, as long as the engine lives; null: no blocks can be filled.
  std::shared_ptr<KvWindow> kv_window = nullptr;
  std::function<void(KvFill fill, std::function<void(KvFilled)> done)> pull_kv = nullptr;
  Tracer* tracer = nullptr;    // null: no traces; outlives the engine
  // Called on the engine's thread after the fault was told, when the device is lost: the process should end.
  std::function<void(const absl::Status&)> on_device_lost = nullptr;
};

class Engine {
 public:
  explicit Engine(EngineOptions options);
  ~Engine();  // ends the epoch, joins the thread

  void Post(EngineEvent event) { inbox_.Push(std::move(event)); }
  // At most stages + 2 plans are unread; one more is dropped and a Fault of its epoch (told on the caller's thread).
  void PostPlan(StepPlan plan);

  const StepMonitor& monitor() const { return monitor_; }
  // For how long the engine has not taken notice of what ends its epoch, although everything it waits for gives up then: what
  // hangs is the engine itself.
  int64_t DeafForNs() const { return inbox_.StopIgnoredNs(NowNs()); }
  std::optional<HeldReport> Held() const;  // a loaded shard
  const std::string& data_address() const { return data_address_; }

 private:
  void Main();
  void Handle(Assignment assignment);
  void Handle(const LinkUp& link_up);
  void Handle(const StepPlan& plan);
  void Handle(const Release& release);
  void Handle(const Shutdown&) {}
  // engine_kv.cc
  void Handle(KvFill fill);
  void Handle(const KvFilled& filled);
  void Handle(const EndKvFill& end);
  void OpenKvWindow(const LinkUp& link_up);

  absl::Status Load(const Assignment& assignment);
  absl::Status RunPlan(const StepPlan& plan);
  absl::Status PostReceives(const StepPlan& plan);
  void EndEpoch();
  // `requests`: whose work it was, where that is known.
  void Fail(StepNumber step, const std::string& operation, const absl::Status& status, const std::string& requests = "");
  void SetHeld();
  absl::Status PrepareKv(const Assignment& assignment);

  const std::unique_ptr<kernels::Backend> backend_;
  const std::unique_ptr<Transport> transport_;
  const ModelOpener open_model_;
  const int64_t kv_cache_bytes_;
  const int64_t replay_bytes_;
  const std::function<void(const absl::Status&)> on_device_lost_;
  const std::shared_ptr<KvWindow> kv_window_;  // never null
  const std::function<void(KvFill, std::function<void(KvFilled)>)> pull_kv_;
  EngineSink& sink_;
  const std::string data_address_;
  EngineInbox inbox_;
  StepMonitor monitor_;
  std::atomic<int> plan_limit_{4};

  // The engine's thread only.
  std::optional<Assignment> assignment_;  // of the epoch under way; none: released or failed
  std::shared_ptr<const Shard> shard_;
  std::unique_ptr<Decoder> decoder_;      // with the KV cache; stays when an epoch ends
  std::unique_ptr<KvRecord> kv_record_;   // of that cache
  std::string kv_shape_;                  // of the assignment that it was made for
  std::unique_ptr<StepExecutor> executor_;
  SlotSpans spans_;
  StepNumber last_step_;
  std::string operation_;

  mutable Mutex mutex_;
  std::optional<HeldReport> held_ ABSL_GUARDED_BY(mutex_);

  std::thread thread_;  // last: everything is there when it starts
};

absl::StatusOr<kernels::KvType> ParseKvType(const std::string& text);  // f32|f16|bf16|i8; "auto" and "" are f16

}  // namespace pagoda::worker
