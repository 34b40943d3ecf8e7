// The worker's line to its coordinator: one WorkerControl.Attach stream. Registers, beats, passes commands to the engine and what
// the engine says back. When another coordinator takes the lead it goes there; when the stream ends it tries the coordinators of its list in turn, with a growing pause, for ever;
// weights stay loaded meanwhile, and the next registration says which.
//
// Thread rule: two threads of its own (reader, heartbeats). The EngineSink side is called on the engine's thread; a message that
// finds no stream is dropped: the coordinator that was to read it has given the epoch up.
#pragma once

#include <grpcpp/grpcpp.h>

#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "common/mutex.h"
#include "pagoda/internal/v1/worker.grpc.pb.h"
#include "security/cluster_tls.h"
#include "worker/control/leader_watch.h"
#include "worker/control/wire.h"
#include "worker/control/worker_metrics.h"

namespace pagoda::worker {

struct CoordinatorClientOptions {
  std::vector<std::string> coordinators;   // host:port, tried in turn
  security::SharedTls tls;                 // null: plain
  wire::Register identity;                 // all but `held`
  WorkerMetrics* metrics = nullptr;        // outlives the client
  std::function<void()> on_registered;     // each time; on the reader's thread
  std::string pulse_file;                  // touched while this worker's loops go round; empty: none
};

class CoordinatorClient : public EngineSink {
 public:
  explicit CoordinatorClient(CoordinatorClientOptions options);
  ~CoordinatorClient() override;

  // `engine` outlives Stop().
  void Start(Engine& engine);
  // Says that this worker leaves and serves until the coordinator lets it go, at most as long as that one said; then ends the
  // stream and the threads. Nothing is sent after it.
  void Stop();

  void OnLoad(const LoadReport& report) override;
  void OnResult(StepResult result) override;
  void OnFault(const FaultReport& fault) override;
  void OnLeft(Epoch epoch) override;
  void OnKvFilled(const KvFilled& filled) override;
  void OnStep(const Assignment& assignment, const StepTimes& times, const Transport::Counters& counters) override;

 private:
  using Stream = grpc::ClientReaderWriter<wire::WorkerMessage, wire::WorkerCommand>;

  void ReadLoop();
  // One stream from beginning to end; true when the coordinator welcomed us.
  bool Attach(const std::string& address);
  bool KnowsLeader() const;
  std::string NextAddress();
  void HandleCommand(wire::WorkerCommand& command);
  void HandleAssignment(const wire::Assignment& message);
  void HandleFill(const wire::FillKv& message);
  wire::WorkerMessage RegisterMessage() const;
  void HeartbeatLoop();
  void Write(const wire::WorkerMessage& message);
  bool stopped() const;
  void SleepUnlessStopped(absl::Duration duration);
  void OnTookOver(const std::string& address);

  const CoordinatorClientOptions options_;
  size_t turn_ = 0;           // the reader's
  std::string unreachable_;   // the reader's; told already
  Engine* engine_ = nullptr;

  mutable Mutex mutex_;
  bool stop_ ABSL_GUARDED_BY(mutex_) = false;     // no further stream
  bool silent_ ABSL_GUARDED_BY(mutex_) = false;   // no further heartbeat: the last stream is over
  absl::Duration farewell_ ABSL_GUARDED_BY(mutex_);  // how long the coordinator may keep the stream after Leaving
  bool welcomed_ ABSL_GUARDED_BY(mutex_) = false;
  int heartbeat_ms_ ABSL_GUARDED_BY(mutex_) = 500;
  std::string leader_hint_ ABSL_GUARDED_BY(mutex_);  // who is said to lead; used once
  std::string attached_ ABSL_GUARDED_BY(mutex_);     // the address of the stream under way
  MonotonicNs attached_at_ns_ ABSL_GUARDED_BY(mutex_) = 0;
  grpc::ClientContext* context_ ABSL_GUARDED_BY(mutex_) = nullptr;  // of the stream under way, for cancelling

  Mutex write_mutex_;  // one writer at a time; not held while waiting for mutex_
  Stream* stream_ ABSL_GUARDED_BY(write_mutex_) = nullptr;

  std::thread reader_;
  std::thread heart_;
  std::unique_ptr<LeaderWatch> watch_;  // where there is more than one coordinator
};

}  // namespace pagoda::worker
