#include "router/request_trace.h"

namespace pagoda::router {
namespace {

double SecondsBetween(MonotonicNs begin, MonotonicNs end) {
  return static_cast<double>(end - begin) / static_cast<double>(kNsPerSecond);
}

const char* NameOf(FinishReason reason) {
  switch (reason) {
    case FinishReason::kLength:
      return "length";
    case FinishReason::kCancelled:
      return "cancelled";
    case FinishReason::kError:
      return "error";
    default:
      return "stop";
  }
}

}  // namespace

RequestTrace::RequestTrace(Tracer* tracer, std::string_view traceparent, std::string_view tracestate,
                           std::string_view operation, MonotonicNs received_ns) {
  if (tracer == nullptr) return;
  uint64_t parent = 0;
  const TraceContext context = tracer->Begin(traceparent, &parent);
  if (!context.sampled()) return;
  state_ = std::make_unique<State>();
  state_->tracer = tracer;
  Span& span = state_->span;
  span.self = context;
  span.parent = parent;
  if (parent != 0) span.trace_state = tracestate.substr(0, 512);
  span.name = operation;
  span.kind = SpanKind::kServer;
  span.start_ns = received_ns;
  span.attributes = {{"gen_ai.operation.name", std::string(operation)}, {"gen_ai.provider.name", std::string("pagoda")}};
}

void RequestTrace::Asked(const GenerationRequest& request, bool stream, size_t prompts) {
  if (state_ == nullptr) return;
  Span& span = state_->span;
  span.name += " " + request.model;
  const SettledSampling& sampling = request.sampling;
  auto& a = span.attributes;
  a.emplace_back("gen_ai.request.model", request.model);
  a.emplace_back("gen_ai.request.max_tokens", int64_t{sampling.max_tokens});
  a.emplace_back("gen_ai.request.temperature", sampling.temperature);
  a.emplace_back("gen_ai.request.top_p", sampling.top_p);
  if (sampling.top_k > 0) a.emplace_back("gen_ai.request.top_k", int64_t{sampling.top_k});
  a.emplace_back("gen_ai.request.frequency_penalty", sampling.frequency_penalty);
  a.emplace_back("gen_ai.request.presence_penalty", sampling.presence_penalty);
  a.emplace_back("gen_ai.request.seed", static_cast<int64_t>(sampling.seed));
  if (!request.stop.empty()) a.emplace_back("gen_ai.request.stop_sequences", request.stop);
  a.emplace_back("gen_ai.request.choice.count", int64_t{request.choices});
  a.emplace_back("gen_ai.request.stream", stream);
  a.emplace_back("pagoda.request_id", request.client_request_id);
  a.emplace_back("pagoda.prompts", static_cast<int64_t>(prompts));
}

void RequestTrace::FirstToken() {
  if (state_ == nullptr || state_->first_token) return;
  state_->first_token = true;
  state_->span.attributes.emplace_back("gen_ai.response.time_to_first_chunk", SecondsBetween(state_->span.start_ns, NowNs()));
}

void RequestTrace::Finished(FinishReason reason) {
  if (state_ != nullptr && reason != FinishReason::kNone) state_->finish_reasons.emplace_back(NameOf(reason));
}

void RequestTrace::End(const Result& result) {
  if (state_ == nullptr) return;
  Span& span = state_->span;
  span.end_ns = NowNs();
  auto& a = span.attributes;
  if (!result.response_id.empty()) a.emplace_back("gen_ai.response.id", result.response_id);
  if (!state_->finish_reasons.empty()) a.emplace_back("gen_ai.response.finish_reasons", std::move(state_->finish_reasons));
  a.emplace_back("gen_ai.usage.input_tokens", result.prompt_tokens);
  a.emplace_back("gen_ai.usage.output_tokens", result.output_tokens);
  a.emplace_back("gen_ai.usage.cache_read.input_tokens", result.cached_tokens);
  a.emplace_back("http.response.status_code", int64_t{result.http_status});
  if (!result.error.empty()) {
    a.emplace_back("error.type", std::to_string(result.http_status));
    span.error = result.error;
  }
  state_->tracer->Record(std::move(span));
  state_.reset();
}

}  // namespace pagoda::router
