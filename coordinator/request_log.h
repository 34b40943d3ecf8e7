// What is told of each request besides its tokens. The log's two lines, "request_received" as it comes and "request_finished" with the last of its choices, with
// the ids that a router's log has too; never a token of it. And, of a sampled request, its spans: "pipeline" from its arrival to
// its end, and under it "queue", "prefill" and "decode" (of several choices: the first's times).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>

#include "common/ids.h"
#include "common/trace.h"
#include "coordinator/request.h"

namespace pagoda::coordinator {

// From any thread: the engine's has better to do.
void LogReceived(const Request& request, PipelineId pipeline);

// Owned by the engine's thread; it does something when a request comes, has its first token or ends, and nothing per step.
class RequestLog {
 public:
  // `tracer` may be null.
  explicit RequestLog(PipelineId pipeline, Tracer* tracer = nullptr) : pipeline_(pipeline), tracer_(tracer) {}

  // A newer attempt of a request takes the place of the older one.
  void Received(const Request& request);
  // Counts what the request's choices tell; writes the line with the end of the last one.
  void Observe(const ChoiceOutput& output);
  void Refused(const Refusal& refusal);
  // Its router is gone: nobody is told of an end, the log is.
  void DropRouter(RouterId router);
  // Nothing waits or runs: whatever is still open ended without a word (a replay of what was finished).
  void Idle();

  size_t open() const { return open_.size(); }

 private:
  struct Entry {
    std::string client_request_id;
    RouterId router;
    uint32_t attempt = 0;
    int64_t prompt_tokens = 0;
    int64_t output_tokens = 0;
    int choices_left = 0;
    int64_t queue_ns = 0;    // of the first token of all choices
    int64_t prefill_ns = 0;
    bool timed = false;
    int64_t cached_tokens = 0;
    int64_t replayed_tokens = 0;
    int64_t received_ns = 0;
    TraceContext trace;
    uint64_t trace_parent = 0;
  };
  void Finish(const RequestId& id, const Entry& entry, std::string_view reason) const;

  void Trace(const RequestId& id, const Entry& entry, std::string_view reason) const;

  const PipelineId pipeline_;
  Tracer* const tracer_;
  std::unordered_map<RequestId, Entry> open_;
};

std::string_view NameOf(FinishReason reason);

}  // namespace pagoda::coordinator
