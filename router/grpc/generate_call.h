// One Generate call. Internal to grpc/; brings gRPC with it.
// Threads: gRPC's threads run the reactions, the event loop runs the sink's methods; what both
// touch is under the mutex.
#pragma once

#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <deque>
#include <memory>
#include <optional>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "common/mutex.h"
#include "pagoda/v1/inference.grpc.pb.h"
#include "router/access/gate.h"
#include "router/dispatcher.h"
#include "router/request_trace.h"
#include "router/event_loop.h"
#include "router/stream_position.h"

namespace pagoda::router {

class GenerateCall : public grpc::ServerWriteReactor<v1::GenerateResponse>,
                     public GenerationSink,
                     public std::enable_shared_from_this<GenerateCall> {
 public:
  GenerateCall(grpc::CallbackServerContext* context, EventLoop* loop, Dispatcher* dispatcher,
               Metrics* metrics, MonotonicNs received_ns, bool access_log);
  // Before End or Submit: what the log line says of a request that is refused.
  void Name(std::string_view request_id, std::string_view model);

  // Before Submit: the call ends when its client said, which is before this server's own limit.
  void EndsAtClientDeadline() { client_deadline_ = true; }
  // Who asks, for the log.
  void SetCaller(Caller caller) { caller_ = std::move(caller); }
  // Before Submit: what was set aside of the caller's quota.
  void Hold(std::shared_ptr<Gate::Reservation> reservation) { reservation_ = std::move(reservation); }

  // Fails at once; the request was never submitted. Also the way to end with success.
  void End(const absl::Status& status);
  // Hands the request to the event loop. `position`: its client comes back with it.
  void Submit(GenerationRequest request, std::optional<StreamPosition> position);
  // Before Submit.
  void Trace(RequestTrace trace) { trace_ = std::move(trace); }
  // Keeps the call alive until gRPC is done with it.
  void Hold() { self_ = shared_from_this(); }

  // grpc::ServerWriteReactor
  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

  // GenerationSink, on the loop.
  void OnDelta(const Session& session, ChoiceDelta delta) override;
  void OnStepEnd() override {}
  void OnDone(const Session& session) override;
  void OnError(const absl::Status& status) override;

 private:
  // On the loop.
  void Start(GenerationRequest request);
  void FillKnown(const FoundStream& found, GenerationRequest& request);
  void Write(v1::GenerateResponse response);
  void CancelGeneration();
  void WriteLog(const absl::Status& status) const;
  void FinishWhenWritten() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  grpc::CallbackServerContext* const context_;
  EventLoop* const loop_;
  Dispatcher* const dispatcher_;
  Metrics* const metrics_;
  const MonotonicNs received_ns_;
  const bool access_log_;
  std::shared_ptr<GenerateCall> self_;

  // The loop's, from Submit on.
  RequestId id_;
  std::string client_request_id_;
  std::string model_;
  bool client_deadline_ = false;
  Caller caller_;
  std::shared_ptr<Gate::Reservation> reservation_;  // until End
  int64_t prompt_tokens_ = 0;
  double first_token_seconds_ = -1;
  RequestTrace trace_;
  int64_t cached_tokens_ = 0;
  bool first_sent_ = false;
  bool submitted_ = false;
  bool over_ = false;
  std::vector<int> output_tokens_;  // by choice
  std::optional<StreamPosition> position_;  // of a resumable stream: what the next message brings the client to

  Mutex mutex_;
  std::deque<v1::GenerateResponse> unsent_ ABSL_GUARDED_BY(mutex_);  // the first is being written
  size_t unsent_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;     // no more will be written
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;  // Finish was called
  absl::Status status_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace pagoda::router
