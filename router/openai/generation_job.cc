#include "router/openai/generation_job.h"

#include "router/openai/json_output.h"
#include "router/request_status.h"
#include "router/resumed_request.h"
#include "text/unicode.h"

namespace pagoda::router::openai {

// Hears about one prompt's generation.
class GenerationJob::Sink : public GenerationSink {
 public:
  Sink(std::shared_ptr<GenerationJob> job, int prompt) : job_(std::move(job)), prompt_(prompt) {}
  void OnDelta(const Session& session, ChoiceDelta delta) override {
    job_->OnDelta(prompt_, session, std::move(delta));
  }
  void OnStepEnd() override { job_->OnStepEnd(); }
  void OnDone(const Session& session) override { job_->OnDone(prompt_, session); }
  void OnError(const absl::Status& status) override { job_->OnError(status); }
  void OnHandOver(const absl::Status& status) override { job_->OnHandOver(status); }

 private:
  const std::shared_ptr<GenerationJob> job_;
  const int prompt_;
};

GenerationJob::GenerationJob(std::shared_ptr<Exchange> exchange, PreparedGeneration prepared,
                             Dispatcher* dispatcher, Metrics* metrics, Tracer* tracer,
                             int64_t created_unix_s)
    : exchange_(std::move(exchange)),
      prepared_(std::move(prepared)),
      dispatcher_(dispatcher),
      metrics_(metrics),
      created_unix_s_(created_unix_s) {
  const http::Request& request = exchange_->request();
  trace_ = RequestTrace(tracer, request.Header("traceparent"), request.Header("tracestate"),
                        chat() ? "chat" : "text_completion", request.received_ns);
  const std::string& given = prepared_.input.request_id;
  answer_id_ = absl::StrCat(chat() ? "chatcmpl-" : "cmpl-",
                            given.empty() ? first_id_.ToString() : given);
  model_ = prepared_.requests.front().model;
  text_ = prepared_.requests.front().text;
  per_prompt_ = prepared_.requests.front().choices;
  parts_.resize(prepared_.requests.size());
  choices_.resize(parts_.size() * static_cast<size_t>(per_prompt_));
  unfinished_ = parts_.size();
  chunk_head_ = ChunkHead();
}

std::string GenerationJob::ChunkHead() const {
  std::string head = "data: {\"id\":";
  AppendString(head, answer_id_);
  absl::StrAppend(&head, ",\"object\":\"", chat() ? "chat.completion.chunk" : "text_completion",
                  "\",\"created\":", created_unix_s_, ",\"model\":");
  AppendString(head, model_);
  return head;
}

LogprobStyle GenerationJob::style() const {
  return {*text_->tokenizer, prepared_.input.return_tokens_as_token_ids,
          static_cast<int>(prepared_.input.fields.logprobs.value_or(0))};
}

void GenerationJob::MakeResumable(Resumable resumable) {
  resumable_ = std::move(resumable);
  // The same for every router, whatever it knows.
  answer_id_ = absl::StrCat(chat() ? "chatcmpl-" : "cmpl-", exchange_->id());
  chunk_head_ = ChunkHead();
  position_.created_unix_s = created_unix_s_;
  position_.choices.resize(choices_.size());
  for (size_t i = 0; i < parts_.size(); ++i) {
    if (prepared_.input.fields.seed) continue;
    prepared_.requests[i].sampling.seed = SeedOfResumable(exchange_->id(), static_cast<int>(i));
  }
  if (resumable_->position) position_ = *resumable_->position;
}

void GenerationJob::FillKnown(int prompt, GenerationRequest& request) {
  request.resume_id = exchange_->id();
  request.resume_part = prompt;
  request.router_state = prompt == 0 ? resumable_->router_state : "";
  const FoundPart* found = nullptr;
  for (const FoundPart& part : resumable_->found.parts) {
    if (part.part == prompt) found = &part;
  }
  // The mark is of tokens: a prompt of which the client has none is free.
  bool has_some = false;
  for (int i = 0; i < per_prompt_ && resumable_->position; ++i) {
    has_some = has_some || position_.choices[static_cast<size_t>(prompt * per_prompt_ + i)].tokens > 0;
  }
  TakeUp(found, has_some ? &position_ : nullptr, request);
  if (!resumable_->position) return;
  Part& part = parts_[static_cast<size_t>(prompt)];
  // A choice that has not begun still needs the prompt's logprobs, which only a run from the beginning gives.
  const auto begun = [&](int i) { return position_.choices[static_cast<size_t>(prompt * per_prompt_ + i)].begun; };
  bool from_start = false;
  for (int i = 0; i < per_prompt_; ++i) from_start = from_start || (request.sampling.prompt_logprobs >= 0 && !begun(i));
  for (int i = 0; i < per_prompt_; ++i) {
    const int index = prompt * per_prompt_ + i;
    const StreamPosition::Choice& at = position_.choices[static_cast<size_t>(index)];
    const bool logged = found != nullptr && !from_start && static_cast<size_t>(i) < found->choices.size();
    KnownChoice known = KnownOf(at, logged ? &found->choices[static_cast<size_t>(i)] : nullptr);
    // Without a log a finished choice has nothing to compute again: its tokens count all the same.
    const auto counted = static_cast<int64_t>(at.finished ? at.tokens : static_cast<int>(known.tokens.size()));
    part.output_tokens += counted;
    Choice& choice = choices_[static_cast<size_t>(index)];
    choice.role_sent = at.begun;
    choice.ids_sent = at.begun;
    choice.tokens_done = static_cast<int>(counted);
    if (at.begun && prepared_.input.echo) SkipTokens(index, part.prompt);
    SkipTokens(index, known.tokens);
    request.known.push_back(std::move(known));
  }
}

// Their text was sent: offsets count it.
void GenerationJob::SkipTokens(int choice, const std::vector<TokenId>& tokens) {
  if (chat() || !prepared_.input.fields.logprobs) return;
  choices_[static_cast<size_t>(choice)].text_offset += CodePointsOf(style(), tokens);
}

void GenerationJob::Start(MonotonicNs deadline_ns) {
  exchange_->model = model_;
  const auto self = shared_from_this();
  for (size_t i = 0; i < parts_.size(); ++i) {
    GenerationRequest& request = prepared_.requests[i];
    request.id = i == 0 ? first_id_ : RequestId::Random();
    request.client_request_id = exchange_->id();
    request.received_ns = exchange_->request().received_ns;
    request.deadline_ns = deadline_ns;
    if (i == 0) trace_.Asked(request, prepared_.input.stream, parts_.size());
    request.trace = trace_.context();
    exchange_->prompt_tokens += static_cast<int64_t>(request.prompt.size());
    parts_[i].prompt = request.prompt;
    if (resumable_) FillKnown(static_cast<int>(i), request);
    parts_[i].id = request.id;
    parts_[i].cached_tokens = request.cached_tokens;
    const absl::Status status =
        dispatcher_->Start(std::move(request), std::make_shared<Sink>(self, static_cast<int>(i)));
    if (!status.ok()) {
      parts_.resize(i);
      return OnError(status);
    }
  }
  exchange_->response().OnClosed(
      [self](http::Response::CloseReason reason) { self->OnClientGone(reason); });
}

void GenerationJob::OnClientGone(http::Response::CloseReason reason) {
  if (over_) return;
  over_ = true;
  EndTrace(499, "the client went away, or read too slowly");
  metrics_->StreamCut(reason == http::Response::CloseReason::kClientGone ? "client_gone"
                                                                         : "slow_reader");
  CancelRest();
  exchange_->Abandon(499);
}

void GenerationJob::CancelRest() {
  for (const Part& part : parts_) {
    if (!part.done) dispatcher_->Cancel(part.id);
  }
}

void GenerationJob::EndTrace(int http_status, std::string error) {
  int64_t cached = 0;
  for (const Part& part : parts_) cached += part.cached_tokens;
  trace_.End({.response_id = answer_id_,
              .prompt_tokens = exchange_->prompt_tokens,
              .output_tokens = exchange_->output_tokens,
              .cached_tokens = cached,
              .http_status = http_status,
              .error = std::move(error)});
}

void GenerationJob::OnError(const absl::Status& status) {
  if (over_) return;
  over_ = true;
  EndTrace(HttpStatusOf(status), std::string(status.message()));
  CancelRest();
  if (!streaming_) return exchange_->SendError(status);
  absl::StrAppend(&pending_, "data: ", ErrorBody(status), "\n\ndata: [DONE]\n\n");
  exchange_->response().Write(pending_);
  exchange_->EndEventStream(500);
}

// The stream is cut where it is, without an end: the client comes back with its position to another router.
void GenerationJob::OnHandOver(const absl::Status& status) {
  if (over_) return;
  over_ = true;
  CancelRest();
  metrics_->StreamCut("handed_over");
  if (!streaming_) return exchange_->SendError(status);
  exchange_->response().Abort();
  exchange_->Abandon(503);
}

void GenerationJob::OnDelta(int prompt, const Session& session, ChoiceDelta delta) {
  if (over_) return;
  Part& part = parts_[prompt];
  const size_t index = static_cast<size_t>(prompt * per_prompt_ + delta.choice);
  if (exchange_->first_token_seconds < 0) {
    exchange_->first_token_seconds =
        static_cast<double>(NowNs() - exchange_->request().received_ns) /
        static_cast<double>(kNsPerSecond);
  }
  trace_.FirstToken();
  trace_.Finished(delta.finish);
  part.cached_tokens = session.cached_tokens();
  position_.Mark(session.mark());
  // Before its tokens are counted: what leads a stream (a role, an echo) carries none of them.
  if (prepared_.input.stream) StreamLead(prompt, session, static_cast<int>(index));
  const auto count = static_cast<int64_t>(delta.tokens.size());
  if (!prepared_.input.echo_only) {
    part.output_tokens += count + static_cast<int64_t>(delta.skipped.size());
    exchange_->output_tokens += count;
    choices_[index].tokens_done += static_cast<int>(count) + static_cast<int>(delta.skipped.size());
  }
  SkipTokens(static_cast<int>(index), delta.skipped);
  if (prepared_.input.stream) return StreamDelta(prompt, std::move(delta));
  Choice& choice = choices_[index];
  choice.text += delta.text;
  if (prepared_.input.return_token_ids || prepared_.input.fields.logprobs) {
    choice.tokens.insert(choice.tokens.end(), delta.tokens.begin(), delta.tokens.end());
  }
  for (PositionLogprobs& position : delta.logprobs) choice.logprobs.push_back(std::move(position));
  if (delta.finish == FinishReason::kNone) return;
  choice.finish = delta.finish;
  choice.stop_token = delta.stop_token;
  choice.stop_string = std::move(delta.stop_string);
}

void GenerationJob::OnStepEnd() {
  if (over_ || pending_.empty()) return;
  if (!streaming_) {
    streaming_ = true;
    exchange_->StartEventStream();
  }
  const std::string events = std::move(pending_);
  pending_.clear();
  exchange_->response().Write(events);
}

void GenerationJob::OnDone(int prompt, const Session& session) {
  if (over_) return;
  Part& part = parts_[prompt];
  part.done = true;
  part.cached_tokens = session.cached_tokens();
  part.prompt_logprobs = session.prompt_logprobs();
  if (--unfinished_ > 0) return OnStepEnd();
  EndTrace(200, "");
  if (!prepared_.input.stream) {
    over_ = true;
    return SendWhole();
  }
  SendTail();
}

void GenerationJob::SendTail() {
  if (prepared_.input.include_usage && !position_.usage_sent) {
    absl::StrAppend(&pending_, chunk_head_, ",\"choices\":[],\"usage\":");
    AppendUsage(pending_);
    position_.usage_sent = true;
    CloseEvent();
  }
  pending_ += "data: [DONE]\n\n";
  OnStepEnd();
  if (over_) return;  // the reader was cut by that write
  over_ = true;
  exchange_->EndEventStream(200);
}

// ---- streamed ----

void GenerationJob::OpenChunk(int choice) {
  absl::StrAppend(&pending_, chunk_head_, ",\"choices\":[{\"index\":", choice);
}

void GenerationJob::CloseChunk(bool with_usage) {
  pending_ += "}]";
  CloseChunkAfter(with_usage);
}

void GenerationJob::CloseChunkAfter(bool with_usage) {
  if (with_usage && prepared_.input.continuous_usage) {
    pending_ += ",\"usage\":";
    AppendUsage(pending_);
  } else if (prepared_.input.include_usage) {
    pending_ += ",\"usage\":null";
  }
  CloseEvent();
}

void GenerationJob::CloseEvent() {
  pending_ += '}';
  if (resumable_) absl::StrAppend(&pending_, "\nid: ", position_.ToString());
  pending_ += "\n\n";
}

void GenerationJob::StreamRole(int choice) {
  OpenChunk(choice);
  pending_ +=
      ",\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"logprobs\":null,\"finish_reason\":"
      "null";
  const Part& part = parts_[static_cast<size_t>(choice / per_prompt_)];
  if (!prepared_.input.return_token_ids) return CloseChunk(true);
  pending_ += ",\"token_ids\":[]}],\"prompt_token_ids\":";
  AppendIntegers(pending_, part.prompt);
  CloseChunkAfter(true);
}

void GenerationJob::StreamEcho(int prompt, int choice) {
  Choice& state = choices_[choice];
  OpenChunk(choice);
  pending_ += ",\"text\":";
  AppendString(pending_, prepared_.prompt_texts[prompt]);
  pending_ += ",\"logprobs\":";
  const auto& positions = parts_[prompt].prompt_logprobs;
  if (prepared_.input.fields.logprobs && !positions.empty()) {
    AppendCompletionLogprobs(pending_, style(), parts_[prompt].prompt, positions,
                             state.text_offset);
  } else {
    pending_ += "null";
  }
  pending_ += ",\"finish_reason\":null,\"stop_reason\":null";
  CloseChunk(true);
}

void GenerationJob::StreamLead(int prompt, const Session& session, int index) {
  Choice& choice = choices_[index];
  if (choice.role_sent) return;
  choice.role_sent = true;
  if (resumable_) position_.choices[static_cast<size_t>(index)].begun = true;
  if (chat()) StreamRole(index);
  parts_[prompt].prompt_logprobs = session.prompt_logprobs();
  if (prepared_.input.echo) StreamEcho(prompt, index);
}

void GenerationJob::StreamDelta(int prompt, ChoiceDelta delta) {
  const GenerationInput& input = prepared_.input;
  const int index = prompt * per_prompt_ + delta.choice;
  Choice& choice = choices_[index];
  if (input.echo_only) {
    delta.text.clear();
    delta.tokens.clear();
    delta.logprobs.clear();
    if (delta.finish != FinishReason::kNone) delta.finish = FinishReason::kLength;
    delta.stop_token.reset();
    delta.stop_string.reset();
  }
  const bool finished = delta.finish != FinishReason::kNone;
  const bool lists = !delta.tokens.empty() && (input.fields.logprobs || input.return_token_ids);
  const bool text_chunk = !delta.text.empty() || lists || (!chat() && finished);
  if (text_chunk) {
    if (resumable_) {
      StreamPosition::Choice& at = position_.choices[static_cast<size_t>(index)];
      at = {.begun = true, .tokens = choice.tokens_done, .text_ended = finished, .finished = finished && !chat()};
    }
    OpenChunk(index);
    pending_ += chat() ? ",\"delta\":{\"content\":" : ",\"text\":";
    AppendString(pending_, delta.text);
    if (chat()) pending_ += '}';
    pending_ += ",\"logprobs\":";
    if (input.fields.logprobs && !delta.logprobs.empty()) {
      if (chat()) {
        AppendChatLogprobs(pending_, style(), delta.logprobs);
      } else {
        AppendCompletionLogprobs(pending_, style(), delta.tokens, delta.logprobs,
                                 choice.text_offset);
      }
    } else {
      pending_ += "null";
    }
    pending_ += ",\"finish_reason\":";
    const bool here = finished && !chat();
    if (here)
      AppendString(pending_, FinishName(delta.finish));
    else
      pending_ += "null";
    if (here || !chat()) AppendStopReason(pending_, delta);
    if (input.return_token_ids) {
      pending_ += ",\"token_ids\":";
      AppendIntegers(pending_, delta.tokens);
      if (!chat() && !choice.ids_sent) {
        choice.ids_sent = true;
        pending_ += ",\"prompt_token_ids\":";
        AppendIntegers(pending_, parts_[prompt].prompt);
      }
    }
    CloseChunk(true);
  }
  if (!finished || !chat()) return;
  if (resumable_) {
    position_.choices[static_cast<size_t>(index)] = {
        .begun = true, .tokens = choice.tokens_done, .text_ended = true, .finished = true};
  }
  OpenChunk(index);
  pending_ += ",\"delta\":{},\"logprobs\":null,\"finish_reason\":";
  AppendString(pending_, FinishName(delta.finish));
  AppendStopReason(pending_, delta);
  CloseChunk(true);
}

void GenerationJob::AppendStopReason(std::string& out, const ChoiceDelta& delta) const {
  AppendStopReason(out, delta.stop_token, delta.stop_string);
}

void GenerationJob::AppendStopReason(std::string& out, const std::optional<TokenId>& token,
                                     const std::optional<std::string>& text) const {
  out += ",\"stop_reason\":";
  if (text) {
    AppendString(out, *text);
  } else if (token) {
    absl::StrAppend(&out, *token);
  } else {
    out += "null";
  }
}

// ---- whole ----

void GenerationJob::AppendUsage(std::string& out) const {
  int64_t prompt = 0, cached = 0, output = 0;
  for (const Part& part : parts_) {
    prompt += static_cast<int64_t>(part.prompt.size());
    cached += part.cached_tokens;
    output += part.output_tokens;
  }
  absl::StrAppend(&out, "{\"prompt_tokens\":", prompt, ",\"completion_tokens\":", output,
                  ",\"total_tokens\":", prompt + output,
                  ",\"prompt_tokens_details\":{\"cached_tokens\":", cached,
                  "},\"completion_tokens_details\":{\"reasoning_tokens\":0}}");
}

}  // namespace pagoda::router::openai
