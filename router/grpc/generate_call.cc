#include "router/grpc/generate_call.h"

#include <numeric>

#include "common/limits.h"
#include "router/access_log.h"
#include "router/grpc/call_status.h"
#include "router/grpc/fields.h"
#include "router/request_status.h"
#include "router/resumed_request.h"

namespace pagoda::router {
namespace {

double SecondsSince(MonotonicNs begin) {
  return static_cast<double>(NowNs() - begin) / static_cast<double>(kNsPerSecond);
}

}  // namespace

GenerateCall::GenerateCall(grpc::CallbackServerContext* context, EventLoop* loop,
                           Dispatcher* dispatcher, Metrics* metrics, MonotonicNs received_ns,
                           bool access_log)
    : context_(context),
      loop_(loop),
      dispatcher_(dispatcher),
      metrics_(metrics),
      received_ns_(received_ns),
      access_log_(access_log) {}

void GenerateCall::Name(std::string_view request_id, std::string_view model) {
  client_request_id_ = request_id;
  model_ = model;
}

void GenerateCall::Submit(GenerationRequest request, std::optional<StreamPosition> position) {
  Name(request.client_request_id, request.model);
  prompt_tokens_ = static_cast<int64_t>(request.prompt.size());
  trace_.Asked(request, /*stream=*/true, 1);
  request.trace = trace_.context();
  loop_->Post([self = shared_from_this(), held = std::make_shared<GenerationRequest>(std::move(request)),
               position = std::move(position)]() mutable {
    if (self->over_) return;  // cancelled meanwhile
    self->output_tokens_.resize(static_cast<size_t>(held->choices));
    if (!position) {
      if (!held->resume_id.empty()) {
        self->position_.emplace();
        self->position_->created_unix_s = held->created_unix_s;
        self->position_->choices.resize(static_cast<size_t>(held->choices));
      }
      return self->Start(std::move(*held));
    }
    self->position_ = std::move(position);
    self->dispatcher_->FindStream(held->tenant, held->resume_id, [self, held](const FoundStream& found) {
      if (self->over_) return;
      self->FillKnown(found, *held);
      self->Start(std::move(*held));
    });
  });
}

void GenerateCall::Start(GenerationRequest request) {
  id_ = request.id;
  submitted_ = true;
  const absl::Status status = dispatcher_->Start(std::move(request), shared_from_this());
  if (!status.ok()) OnError(status);
}

// Cut to what the client has; without a log it is made again from the beginning, and what the client has is left out.
void GenerateCall::FillKnown(const FoundStream& found, GenerationRequest& request) {
  const FoundPart* part = found.parts.empty() ? nullptr : &found.parts.front();
  TakeUp(part, &*position_, request);
  for (size_t i = 0; i < position_->choices.size(); ++i) {
    const StreamPosition::Choice& at = position_->choices[i];
    KnownChoice known = KnownOf(at, part != nullptr && i < part->choices.size() ? &part->choices[i] : nullptr);
    output_tokens_[i] = at.finished ? at.tokens : static_cast<int>(known.tokens.size());
    first_sent_ = first_sent_ || at.begun;
    request.known.push_back(std::move(known));
  }
}

void GenerateCall::OnDelta(const Session& session, ChoiceDelta delta) {
  if (over_) return;
  trace_.FirstToken();
  trace_.Finished(delta.finish);
  cached_tokens_ = session.cached_tokens();
  output_tokens_[static_cast<size_t>(delta.choice)] += static_cast<int>(delta.skipped.size());
  const bool ends = delta.finish != FinishReason::kNone;
  if (!delta.skipped.empty() && delta.tokens.empty() && delta.text.empty() && !ends) return;
  v1::GenerateResponse response;
  response.set_request_id(client_request_id_);
  response.set_index(delta.choice);
  response.set_text(std::move(delta.text));
  response.mutable_token_ids()->Add(delta.tokens.begin(), delta.tokens.end());
  output_tokens_[static_cast<size_t>(delta.choice)] += static_cast<int>(delta.tokens.size());
  if (first_token_seconds_ < 0) first_token_seconds_ = SecondsSince(received_ns_);
  for (const PositionLogprobs& position : delta.logprobs)
    FillLogprobs(position, response.add_logprobs());
  if (!first_sent_) {
    first_sent_ = true;
    v1::PromptInfo* info = response.mutable_prompt_info();
    const GenerationRequest& request = session.request();
    info->set_prompt_tokens(static_cast<int>(request.prompt.size()));
    info->set_cached_tokens(session.cached_tokens());
    info->mutable_token_ids()->Add(request.prompt.begin(), request.prompt.end());
    for (const PositionLogprobs& position : session.prompt_logprobs()) {
      FillLogprobs(position, info->add_prompt_logprobs());
    }
    info->set_seed(static_cast<int64_t>(request.sampling.seed));
  }
  if (position_) {
    position_->Mark(session.mark());
    position_->choices[static_cast<size_t>(delta.choice)] = {.begun = true,
                                                             .tokens = output_tokens_[static_cast<size_t>(delta.choice)],
                                                             .text_ended = ends,
                                                             .finished = ends};
    response.set_event_id(position_->ToString());
  }
  if (ends) {
    v1::Finish* finish = response.mutable_finish();
    finish->set_reason(ToProto(delta.finish));
    finish->set_output_tokens(output_tokens_[static_cast<size_t>(delta.choice)]);
    if (delta.stop_string) finish->set_stop_string(*delta.stop_string);
    if (delta.stop_token) finish->set_stop_token_id(*delta.stop_token);
  }
  Write(std::move(response));
}

void GenerateCall::OnDone(const Session&) {
  over_ = true;
  End(absl::OkStatus());
}

void GenerateCall::OnError(const absl::Status& status) {
  over_ = true;
  End(status);
}

void GenerateCall::CancelGeneration() {
  loop_->Post([self = shared_from_this()] {
    if (self->over_) return;
    self->over_ = true;
    // gRPC reports both in the same way. It rounds a deadline up on its way here (by up to a hundredth), so that the client's
    // cancel at its own comes a little before the one that is known here.
    const auto slack = std::chrono::milliseconds(20) + std::chrono::nanoseconds((NowNs() - self->received_ns_) / 50);
    const bool late = self->client_deadline_ && self->context_->deadline() - slack <= std::chrono::system_clock::now();
    if (!late) self->metrics_->StreamCut("client_gone");
    if (self->submitted_) self->dispatcher_->Cancel(self->id_);
    self->End(late ? absl::DeadlineExceededError("the deadline that the client set passed")
                   : absl::CancelledError("the client cancelled the call"));
  });
}

void GenerateCall::Write(v1::GenerateResponse response) {
  bool too_slow = false;
  {
    MutexLock lock(&mutex_);
    if (ended_) return;
    unsent_bytes_ += response.ByteSizeLong();
    too_slow = unsent_bytes_ > limits::kMaxUnreadStreamBytes;
    if (!too_slow) {
      unsent_.push_back(std::move(response));
      if (unsent_.size() == 1) StartWrite(&unsent_.front());
    }
  }
  if (!too_slow) return;
  over_ = true;
  metrics_->StreamCut("slow_reader");
  dispatcher_->Cancel(id_);
  context_->TryCancel();  // the write under way may never end
  End(absl::ResourceExhaustedError("the client reads too slowly"));
}

void GenerateCall::End(const absl::Status& status) {
  MutexLock lock(&mutex_);
  if (ended_) return;
  ended_ = true;
  status_ = status;
  if (client_deadline_ && absl::IsDeadlineExceeded(status)) metrics_->StreamCut("client_deadline");
  if (reservation_ != nullptr) {
    reservation_->SetUsed(prompt_tokens_ + std::accumulate(output_tokens_.begin(), output_tokens_.end(), int64_t{0}));
    reservation_.reset();
  }
  trace_.End({.response_id = client_request_id_,
              .prompt_tokens = prompt_tokens_,
              .output_tokens = std::accumulate(output_tokens_.begin(), output_tokens_.end(), int64_t{0}),
              .cached_tokens = cached_tokens_,
              .http_status = CountedCode(status, client_deadline_),
              .error = std::string(status.message())});
  if (access_log_) WriteLog(status);
  if (unsent_.empty()) FinishWhenWritten();
}

void GenerateCall::WriteLog(const absl::Status& status) const {
  const std::string code = absl::StatusCodeToString(status.code());
  LogRequest({.request_id = client_request_id_,
              .method = "GRPC",
              .path = "/pagoda.v1.Inference/Generate",
              .status = CountedCode(status, client_deadline_),
              .code = code,
              .seconds = SecondsSince(received_ns_),
              .first_token_seconds = first_token_seconds_,
              .model = model_,
              .tenant = caller_.tenant(),
              .key_id = caller_.key_id(),
              .prompt_tokens = prompt_tokens_,
              .output_tokens = std::accumulate(output_tokens_.begin(), output_tokens_.end(),
                                               int64_t{0})});
}

void GenerateCall::FinishWhenWritten() {
  if (finished_) return;
  finished_ = true;
  AddRetryTrailers(status_, context_);
  const int code = CountedCode(status_, client_deadline_);
  metrics_->RequestEnded("grpc.Generate", code, SecondsSince(received_ns_));
  metrics_->tenants().RequestEnded(caller_.tenant(), code);
  Finish(ToGrpc(status_));
}

void GenerateCall::OnWriteDone(bool ok) {
  MutexLock lock(&mutex_);
  unsent_bytes_ -= std::min(unsent_bytes_, unsent_.front().ByteSizeLong());
  unsent_.pop_front();
  if (!ok) unsent_.clear();
  if (!unsent_.empty()) {
    StartWrite(&unsent_.front());
  } else if (ended_) {
    FinishWhenWritten();
  }
}

void GenerateCall::OnCancel() { CancelGeneration(); }

void GenerateCall::OnDone() { self_.reset(); }

}  // namespace pagoda::router
