// The server span of one request: begun when it came, with what was asked, ended with what came of it; attributes are
// OpenTelemetry's for generative AI. Of a request that is not sampled it is empty, and every method does nothing.
// Owned by the request's job; its thread.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "common/trace.h"
#include "router/generation.h"

namespace pagoda::router {

class RequestTrace {
 public:
  RequestTrace() = default;
  // `tracer` may be null. `operation`: chat or text_completion.
  RequestTrace(Tracer* tracer, std::string_view traceparent, std::string_view tracestate,
               std::string_view operation, MonotonicNs received_ns);

  // What is submitted carries it on.
  TraceContext context() const { return state_ == nullptr ? TraceContext{} : state_->span.self; }

  void Asked(const GenerationRequest& request, bool stream, size_t prompts);
  void FirstToken();  // later ones do nothing
  void Finished(FinishReason reason);  // of one choice

  struct Result {
    std::string response_id;
    int64_t prompt_tokens = 0;
    int64_t output_tokens = 0;
    int64_t cached_tokens = 0;
    int http_status = 200;
    std::string error;  // empty: none
  };
  void End(const Result& result);  // once; later ones do nothing

 private:
  struct State {
    Tracer* tracer = nullptr;
    Span span;
    std::vector<std::string> finish_reasons;
    bool first_token = false;
  };
  std::unique_ptr<State> state_;
};

}  // namespace pagoda::router
