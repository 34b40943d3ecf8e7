#include "coordinator/request_log.h"

#include <algorithm>

#include "common/clock.h"
#include "common/log.h"

namespace pagoda::coordinator {

std::string_view NameOf(FinishReason reason) {
  switch (reason) {
    case FinishReason::kNone:
      return "none";
    case FinishReason::kStop:
      return "stop";
    case FinishReason::kLength:
      return "length";
    case FinishReason::kCancelled:
      return "cancelled";
    case FinishReason::kError:
      return "error";
  }
  return "none";
}

namespace {

int64_t ReplayedTokens(const Request& request) {
  int64_t replayed = 0;
  for (const ChoiceProgress& choice : request.choices) replayed += static_cast<int64_t>(choice.tokens.size());
  return replayed;
}

}  // namespace

void LogReceived(const Request& request, PipelineId pipeline) {
  LogInfo("request_received", {{"request_id", request.client_request_id},
                               {"request", request.id.ToString()},
                               {"attempt", request.attempt},
                               {"pipeline", pipeline.value()},
                               {"prompt_tokens", request.prompt.size()},
                               {"replayed_tokens", ReplayedTokens(request)},
                               {"choices", request.choices.size()}});
}

void RequestLog::Received(const Request& request) {
  const auto earlier = open_.find(request.id);
  if (earlier != open_.end() && request.attempt <= earlier->second.attempt) return;  // the scheduler ignores it, too
  const auto finished = std::count_if(request.choices.begin(), request.choices.end(),
                                      [](const ChoiceProgress& choice) { return choice.finished; });
  open_[request.id] = {.client_request_id = request.client_request_id,
                       .router = request.router,
                       .attempt = request.attempt,
                       .prompt_tokens = static_cast<int64_t>(request.prompt.size()),
                       .choices_left = static_cast<int>(request.choices.size()) - static_cast<int>(finished),
                       .replayed_tokens = ReplayedTokens(request),
                       .received_ns = NowNs(),
                       .trace = request.trace,
                       .trace_parent = request.trace_parent};
}

void RequestLog::Finish(const RequestId& id, const Entry& entry, std::string_view reason) const {
  Trace(id, entry, reason);
  LogInfo("request_finished", {{"request_id", entry.client_request_id},
                               {"request", id.ToString()},
                               {"attempt", entry.attempt},
                               {"pipeline", pipeline_.value()},
                               {"prompt_tokens", entry.prompt_tokens},
                               {"output_tokens", entry.output_tokens},
                               {"finish_reason", reason},
                               {"queue_us", entry.queue_ns / 1000},
                               {"prefill_us", entry.prefill_ns / 1000}});
}

void RequestLog::Trace(const RequestId& id, const Entry& entry, std::string_view reason) const {
  if (tracer_ == nullptr || !entry.trace.sampled()) return;
  Span whole;
  whole.self = entry.trace;
  whole.parent = entry.trace_parent;
  whole.name = "pipeline";
  whole.start_ns = entry.received_ns;
  whole.end_ns = NowNs();
  whole.attributes = {{"pagoda.pipeline", static_cast<int64_t>(pipeline_.value())},
                      {"pagoda.request", id.ToString()},
                      {"pagoda.request_id", entry.client_request_id},
                      {"pagoda.attempt", int64_t{entry.attempt}},
                      {"pagoda.replayed_tokens", entry.replayed_tokens},
                      {"pagoda.finish_reason", std::string(reason)},
                      {"gen_ai.usage.input_tokens", entry.prompt_tokens},
                      {"gen_ai.usage.output_tokens", entry.output_tokens},
                      {"gen_ai.usage.cache_read.input_tokens", entry.cached_tokens}};
  const auto part = [&](const char* name, int64_t start_ns, int64_t end_ns) {
    Span span;
    span.self = entry.trace;
    span.self.span = tracer_->NewSpanId();
    span.parent = entry.trace.span;
    span.name = name;
    span.start_ns = start_ns;
    span.end_ns = std::min(end_ns, whole.end_ns);
    tracer_->Record(std::move(span));
  };
  if (entry.timed) {
    const int64_t scheduled_ns = entry.received_ns + entry.queue_ns;
    const int64_t first_token_ns = scheduled_ns + entry.prefill_ns;
    part("queue", entry.received_ns, scheduled_ns);
    part("prefill", scheduled_ns, first_token_ns);
    part("decode", std::min(first_token_ns, whole.end_ns), whole.end_ns);
  } else {
    part("queue", entry.received_ns, whole.end_ns);
  }
  tracer_->Record(std::move(whole));
}

void RequestLog::Observe(const ChoiceOutput& output) {
  const bool ended = output.finish != FinishReason::kNone;
  const bool first = output.first_index == 0 && !output.tokens.empty();
  if (!ended && !first) return;
  const auto found = open_.find(output.request);
  if (found == open_.end() || found->second.attempt != output.attempt) return;
  Entry& entry = found->second;
  if (first && !entry.timed) {
    entry.timed = true;
    entry.queue_ns = output.queue_ns;
    entry.prefill_ns = output.prefill_ns;
    entry.cached_tokens = output.cached_tokens;
  }
  if (!ended) return;
  entry.output_tokens += output.output_tokens;
  if (--entry.choices_left > 0) return;
  Finish(output.request, entry, NameOf(output.finish));
  open_.erase(found);
}

void RequestLog::Refused(const Refusal& refusal) {
  const auto found = open_.find(refusal.request);
  if (found == open_.end() || found->second.attempt != refusal.attempt) return;
  Finish(refusal.request, found->second, "refused");
  open_.erase(found);
}

void RequestLog::DropRouter(RouterId router) {
  for (auto entry = open_.begin(); entry != open_.end();) {
    if (entry->second.router != router) {
      ++entry;
      continue;
    }
    Finish(entry->first, entry->second, "router_gone");
    entry = open_.erase(entry);
  }
}

void RequestLog::Idle() {
  for (const auto& [id, entry] : open_) Finish(id, entry, "nothing_left");
  open_.clear();
}

}  // namespace pagoda::coordinator
