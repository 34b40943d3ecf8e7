#include "router/dispatcher.h"

#include <algorithm>
#include <set>

#include "common/log.h"
#include "pagoda/internal/v1/pipeline.pb.h"
#include "router/dispatcher_wire.h"
#include "router/request_status.h"

namespace pagoda::router {
namespace {

namespace wire = pagoda::internal::v1;

constexpr int64_t kRetryAfterMs = 1000;  // told to clients

double SecondsBetween(MonotonicNs from, MonotonicNs to) {
  return static_cast<double>(to - from) / static_cast<double>(kNsPerSecond);
}

absl::Status DeadlineError() {
  return absl::DeadlineExceededError("the request's deadline passed before it was finished");
}

}  // namespace

Dispatcher::Dispatcher(Options options, Edges edges, ModelRegistry* registry, Metrics* metrics)
    : options_(options),
      edges_(std::move(edges)),
      registry_(registry),
      metrics_(metrics),
      prefixes_(options.prefix_index_bytes) {}

Dispatcher::~Dispatcher() = default;

absl::Status Dispatcher::Start(GenerationRequest request, std::shared_ptr<GenerationSink> sink) {
  if (in_flight() >= options_.max_requests_in_flight) {
    metrics_->Rejected("overloaded");
    return WithRetryAfter(
        absl::ResourceExhaustedError(absl::StrCat("this router already has ", in_flight(),
                                                  " requests in flight, its limit")),
        kRetryAfterMs);
  }
  const RequestId id = request.id;
  Running running;
  int candidates = 0, block_tokens = 0;
  for (const PipelineView& pipeline : view_.pipelines) {
    if (pipeline.model != request.model || pipeline.digest != request.model_digest) continue;
    ++candidates;
    block_tokens = pipeline.block_tokens;
  }
  if (candidates > 1 && block_tokens > 0 && !request.bypass_prefix_cache) {
    running.chain = HashFullBlocks(CacheSalt(request), request.prompt, block_tokens);
  }
  const auto prompt_tokens = static_cast<int64_t>(request.prompt.size());
  const std::string tenant = request.tenant;
  running.session = std::make_unique<Session>(std::move(request));
  running.sink = std::move(sink);
  running.last_news_ns = edges_.now();
  if (absl::Status bound = BindToItsNumerics(*running.session); !bound.ok()) {
    metrics_->Rejected(CodeOf(bound) == "model_changed" ? "model_changed" : "no_pipeline");
    return bound;
  }
  // Only what a coordinator knows of was accepted before: a position alone proves nothing.
  running.accepted = running.session->request().attempts_before > 0;
  auto [place, added] = sessions_.try_emplace(id, std::move(running));
  if (!added) return absl::InternalError("two requests have one id");
  if (place->second.accepted || place->second.session->finished()) {
    OpenResumed(id);
  } else if (!Place(place->second)) {
    if (!MayComeBack(place->second.session->request())) {
      sessions_.erase(place);
      metrics_->Rejected("no_pipeline");
      return NoPipelineError();
    }
    place->second.held_until_ns = edges_.now() + options_.hold_ms * kNsPerMs;
  }
  metrics_->PromptTokens(prompt_tokens);
  metrics_->tenants().PromptTokens(tenant, prompt_tokens);
  metrics_->SetInFlight(in_flight());
  return absl::OkStatus();
}

void Dispatcher::OnDeaths(const wire::Deaths& deaths) {
  for (const wire::RequestDeaths& from : deaths.requests()) {
    const auto found = sessions_.find(RequestId{from.request().high(), from.request().low()});
    if (found == sessions_.end()) continue;
    found->second.deaths = from.deaths();
    found->second.deaths_alone = from.deaths_alone();
  }
}

void Dispatcher::SendCancel(const Running& running) {
  const int link = running.pipeline.link >= 0 ? running.pipeline.link : running.copy.link;
  if (link < 0) return;
  auto message = std::make_unique<wire::RouterMessage>();
  *message->mutable_cancel()->mutable_request() = KeyOf(running.session->request().id);
  message->mutable_cancel()->set_attempt(running.session->attempt());
  edges_.send(link, std::move(message));
}

std::vector<RequestId> Dispatcher::Oldest(const std::function<bool(const Running&)>& which) const {
  std::vector<std::pair<MonotonicNs, RequestId>> chosen;
  for (const auto& [id, running] : sessions_) {
    if (which(running)) chosen.emplace_back(running.session->request().received_ns, id);
  }
  std::ranges::sort(chosen);
  std::vector<RequestId> ids;
  for (const auto& [received_ns, id] : chosen) ids.push_back(id);
  return ids;
}

void Dispatcher::Cancel(RequestId id) {
  const auto found = sessions_.find(id);
  if (found == sessions_.end()) return;
  SendCancel(found->second);
  End(id);
}

void Dispatcher::End(RequestId id) {
  const auto found = sessions_.find(id);
  Unplace(found->second);
  const Session& session = *found->second.session;
  metrics_->Tokens(static_cast<int64_t>(session.request().prompt.size()), session.cached_tokens(),
                   session.output_tokens());
  sessions_.erase(found);
  metrics_->SetInFlight(in_flight());
}

void Dispatcher::Fail(RequestId id, const absl::Status& status) {
  const auto found = sessions_.find(id);
  if (found == sessions_.end()) return;
  const std::shared_ptr<GenerationSink> sink = found->second.sink;
  End(id);
  sink->OnError(status);
}

void Dispatcher::FailAll(const absl::Status& status) {
  for (RequestId id : Oldest([](const Running&) { return true; })) {
    const auto found = sessions_.find(id);
    if (found != sessions_.end()) SendCancel(found->second);
    Fail(id, status);
  }
}

void Dispatcher::OnMessage(int link, const wire::CoordinatorMessage& message) {
  if (deposed_.contains(link)) return;
  switch (message.kind_case()) {
    case wire::CoordinatorMessage::kHello:
      return OnHello(link, message.hello());
    case wire::CoordinatorMessage::kSnapshot:
      return OnSnapshot(link, message.snapshot());
    case wire::CoordinatorMessage::kTokens:
      return OnStep(link, message.tokens());
    case wire::CoordinatorMessage::kRefused:
      return OnRefused(link, message.refused());
    case wire::CoordinatorMessage::kResumeAnswer:
      return OnResumeAnswer(link, message.resume_answer());
    case wire::CoordinatorMessage::kDeaths:
      return OnDeaths(message.deaths());
    case wire::CoordinatorMessage::kCluster:  // the status page's
    case wire::CoordinatorMessage::KIND_NOT_SET:
      return;
  }
}

void Dispatcher::OnStep(int link, const wire::StepTokens& step) {
  std::vector<RequestId> touched;
  touched.reserve(static_cast<size_t>(step.choices_size()));
  for (const wire::ChoiceTokens& tokens : step.choices()) OnChoice(link, tokens, touched);
  for (RequestId id : touched) CloseStep(id);
}

void Dispatcher::CloseStep(RequestId id) {
  const auto found = sessions_.find(id);
  if (found == sessions_.end()) return;  // cancelled by its own sink
  found->second.touched = false;
  const std::shared_ptr<GenerationSink> sink = found->second.sink;
  if (!found->second.session->finished()) return sink->OnStepEnd();
  // The sink reads the session's totals, so the session outlives its entry.
  const std::unique_ptr<Session> session = std::move(found->second.session);
  Unplace(found->second);
  sessions_.erase(found);
  metrics_->Tokens(static_cast<int64_t>(session->request().prompt.size()),
                   session->cached_tokens(), session->output_tokens());
  metrics_->SetInFlight(in_flight());
  sink->OnDone(*session);
}

void Dispatcher::OnChoice(int link, const wire::ChoiceTokens& tokens,
                          std::vector<RequestId>& touched) {
  const RequestId id{tokens.request().high(), tokens.request().low()};
  const auto found = sessions_.find(id);
  if (found == sessions_.end()) return;
  Running& running = found->second;
  if (IsTakenOver(link, running, tokens)) return LetGo(id);
  if (running.pipeline.link != link) return;
  if (running.session->numerics().empty()) {
    const PipelineView* pipeline = view_.Find(running.pipeline);
    if (pipeline != nullptr) running.session->MadeBy(pipeline->numerics);
  }
  Session::Update update = running.session->OnTokens(BatchOf(tokens, id));
  switch (update.kind) {
    case Session::Update::Kind::kIgnored:
      return;
    case Session::Update::Kind::kFailed:
      SendCancel(running);
      if (absl::IsInternal(update.error)) PipelineFailed(running.pipeline);
      return Fail(id, absl::IsAborted(update.error) ? WithCode(update.error, "request_quarantined") : update.error);
    case Session::Update::Kind::kGap:
      return Replace(running, "gap");
    case Session::Update::Kind::kLost:
      if (edges_.now() >= running.session->request().deadline_ns) return Fail(id, DeadlineError());
      PipelineFailed(running.pipeline);
      ++running.losses;
      running.accepted = true;
      running.avoid.push_back(running.pipeline);
      return Replace(running, "pipeline_lost");
    case Session::Update::Kind::kDelta:
      break;
  }
  if (update.stop) {
    auto message = std::make_unique<wire::RouterMessage>();
    *message->mutable_stop()->mutable_request() = KeyOf(id);
    message->mutable_stop()->set_choice(update.stop->choice);
    message->mutable_stop()->set_count(update.stop->count);
    edges_.send(link, std::move(message));
  }
  const MonotonicNs now = edges_.now();
  const auto count = static_cast<int64_t>(update.delta.tokens.size());
  if (count > 0) {
    running.accepted = true;
    running.losses = 0;
    running.unplaced_ns = 0;
    breakers_.Succeeded(running.pipeline);
    running.avoid.clear();
  }
  const std::string& tenant = running.session->request().tenant;
  if (update.first_token) {
    const double seconds = SecondsBetween(running.session->request().received_ns, now);
    metrics_->FirstToken(running.session->request().model, seconds);
    metrics_->tenants().FirstToken(tenant, seconds);
  } else if (count > 0 && !running.touched) {
    const double seconds = SecondsBetween(running.last_news_ns, now) / static_cast<double>(count);
    metrics_->InterToken(running.session->request().model, seconds);
    metrics_->tenants().InterToken(tenant, seconds);
  }
  if (count > 0) {
    running.last_news_ns = now;
    metrics_->OutputTokens(count);
    metrics_->tenants().OutputTokens(tenant, count);
    running.counted_tokens += count;
    loads_[running.pipeline].tokens += count;
  }
  if (!running.touched) {
    running.touched = true;
    touched.push_back(id);
  }
  const std::shared_ptr<GenerationSink> sink =
      running.sink;  // OnDelta may cancel, which ends `running`
  sink->OnDelta(*running.session, std::move(update.delta));
}

void Dispatcher::OnRefused(int link, const wire::Refused& refused) {
  const RequestId id{refused.request().high(), refused.request().low()};
  const auto found = sessions_.find(id);
  if (found == sessions_.end()) return;
  Running& running = found->second;
  if (running.pipeline.link != link || refused.attempt() != running.session->attempt()) return;
  const auto code = static_cast<absl::StatusCode>(refused.code());
  const bool may_pass = code == absl::StatusCode::kResourceExhausted ||
                        code == absl::StatusCode::kUnavailable ||
                        code == absl::StatusCode::kNotFound;
  const PipelineKey refuser = running.pipeline;
  absl::Status status(code, refused.message());
  if (!may_pass) {
    const bool late = code == absl::StatusCode::kDeadlineExceeded;
    const bool quarantined = code == absl::StatusCode::kAborted;
    metrics_->Rejected(late ? "deadline" : quarantined ? "quarantined" : "invalid");
    return Fail(id, quarantined ? WithCode(status, "request_quarantined") : status);
  }
  running.avoid.push_back(refuser);
  // An accepted stream goes on until its deadline. A new request tries each pipeline once, then is
  // told to come later.
  const RouteRequest route = RouteOf(running);
  const bool another = std::ranges::any_of(view_.pipelines, [&](const PipelineView& pipeline) {
    return CanServe(route, view_, pipeline) && std::ranges::count(running.avoid, pipeline.key) == 0;
  });
  if (another) return Replace(running, "refused");
  if (running.accepted) {
    metrics_->Retried("refused");
    running.avoid.clear();
    Unplace(running);
    running.retry_at_ns =
        edges_.now() + std::max<int64_t>(kRetryDelayMs, refused.retry_after_ms()) * kNsPerMs;
    return;
  }
  // Not full but on its way out, or not up yet (a coordinator that is being replaced): as if it had been lost.
  if (code != absl::StatusCode::kResourceExhausted) {
    const MonotonicNs now = edges_.now();
    if (running.held_until_ns == 0) running.held_until_ns = now + options_.hold_ms * kNsPerMs;
    if (now < running.held_until_ns) {
      running.avoid.clear();
      Unplace(running);
      running.retry_at_ns = now + kRetryDelayMs * kNsPerMs;
      return;
    }
  }
  if (code == absl::StatusCode::kNotFound) status = absl::UnavailableError(refused.message());
  metrics_->Rejected(code == absl::StatusCode::kResourceExhausted ? "queue_full" : "no_pipeline");
  Fail(id, WithRetryAfter(status,
                          refused.retry_after_ms() > 0 ? refused.retry_after_ms() : kRetryAfterMs));
}

void Dispatcher::Tick() {
  const MonotonicNs now = edges_.now();
  EndQueries([now](const Query& query) { return now >= query.until_ns; });
  if (std::ranges::any_of(ghosts_, [now](const Ghost& ghost) { return now >= ghost.until_ns; })) MergeView(/*whole=*/false);
  const auto is_due = [now](const Running& running) {
    return now >= running.session->request().deadline_ns || (running.pipeline.link < 0 && now >= running.retry_at_ns);
  };
  std::vector<RequestId> late, unserved;
  std::vector<std::pair<RequestId, absl::Status>> outlived;
  for (const RequestId id : Oldest(is_due)) {
    Running& running = sessions_.find(id)->second;
    if (now >= running.session->request().deadline_ns) {
      late.push_back(id);
    } else if (!Place(running)) {
      running.retry_at_ns = now + kRetryDelayMs * kNsPerMs;
      if (absl::Status why = WhyItCannotGoOn(running, now); !why.ok()) {
        outlived.emplace_back(id, std::move(why));
      } else if (!running.accepted && running.held_until_ns > 0 && now >= running.held_until_ns) {
        unserved.push_back(id);
      }
    }
  }
  // Whoever still has it, or refused it a moment ago, forgets it.
  const auto fail = [&](RequestId id, const char* reason, const absl::Status& status) {
    const auto found = sessions_.find(id);
    if (found == sessions_.end()) return;  // went with another part of its request
    SendCancel(found->second);
    metrics_->Rejected(reason);
    Fail(id, status);
  };
  for (const RequestId id : unserved) fail(id, "no_pipeline", NoPipelineError());
  for (const auto& [id, why] : outlived) fail(id, absl::IsUnavailable(why) ? "model_changed" : "invalid", why);
  for (const RequestId id : late) fail(id, "deadline", DeadlineError());
}

}  // namespace pagoda::router
