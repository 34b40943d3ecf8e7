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

constexpr int kMaxLosses =
    3;  // times that a live coordinator may give an accepted request up unasked
constexpr int64_t kRetryDelayMs = 50;    // after a refusal of an accepted request
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
  running.session = std::make_unique<Session>(std::move(request));
  running.sink = std::move(sink);
  running.last_news_ns = edges_.now();
  auto [place, added] = sessions_.try_emplace(id, std::move(running));
  if (!added) return absl::InternalError("two requests have one id");
  if (!Place(place->second)) {
    sessions_.erase(place);
    metrics_->Rejected("no_pipeline");
    return WithCode(
        WithRetryAfter(absl::UnavailableError("no pipeline of this model takes work now"),
                       kRetryAfterMs),
        "loading");
  }
  metrics_->PromptTokens(prompt_tokens);
  metrics_->SetInFlight(in_flight());
  return absl::OkStatus();
}

bool Dispatcher::Place(Running& running) {
  const GenerationRequest& request = running.session->request();
  const auto prompt = static_cast<int64_t>(request.prompt.size());
  const auto key = ChoosePipeline({.model = request.model,
                                   .digest = request.model_digest,
                                   .prompt_tokens = prompt,
                                   .total_tokens = prompt + request.sampling.max_tokens,
                                   .chain = running.chain,
                                   .preferred_profile = running.profile,
                                   .avoid = running.avoid},
                                  view_, loads_, prefixes_, options_.policy);
  if (!key) return false;
  const PipelineView& pipeline = *view_.Find(*key);
  auto message =
      SubmitMessage(*running.session, running.session->NextSubmission(), *key, edges_.now());
  if (!edges_.send(key->link, std::move(message))) return false;  // its loss is on its way to us

  if (!running.profile.empty() && running.session->any_token() &&
      running.profile != pipeline.numerics_profile) {
    metrics_->ProfileChanged();
  }
  running.pipeline = *key;
  running.epoch = pipeline.epoch;
  running.counted_tokens = prompt + running.session->output_tokens();
  PipelineLoad& load = loads_[*key];
  load.tokens += running.counted_tokens;
  ++load.requests;
  load.last_choice = ++choices_made_;
  prefixes_.Insert(running.chain, *key);
  return true;
}

void Dispatcher::Unplace(Running& running) {
  const auto found = loads_.find(running.pipeline);
  if (running.pipeline.link >= 0 && found != loads_.end()) {
    found->second.tokens -= running.counted_tokens;
    --found->second.requests;
  }
  running.counted_tokens = 0;
  running.pipeline = PipelineKey{};
}

void Dispatcher::Replace(Running& running, const char* reason) {
  metrics_->Retried(reason);
  LogInfo("request_resubmitted",
          {{"request_id", running.session->request().client_request_id},
           {"reason", reason},
           {"attempt", running.session->attempt() + 1},
           {"tokens", running.session->output_tokens()}});
  Unplace(running);
  if (!Place(running)) running.retry_at_ns = edges_.now() + kRetryDelayMs * kNsPerMs;
}

void Dispatcher::SendCancel(const Running& running) {
  if (running.pipeline.link < 0) return;
  auto message = std::make_unique<wire::RouterMessage>();
  *message->mutable_cancel()->mutable_request() = KeyOf(running.session->request().id);
  edges_.send(running.pipeline.link, std::move(message));
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
  std::vector<RequestId> ids;
  for (const auto& [id, running] : sessions_) ids.push_back(id);
  for (RequestId id : ids) {
    const auto found = sessions_.find(id);
    if (found != sessions_.end()) SendCancel(found->second);
    Fail(id, status);
  }
}

void Dispatcher::OnMessage(int link, const wire::CoordinatorMessage& message) {
  switch (message.kind_case()) {
    case wire::CoordinatorMessage::kHello: {
      const wire::CoordinatorHello& hello = message.hello();
      Link& entry = links_[link];
      entry.coordinator = hello.coordinator();
      metrics_->SetCoordinators(attached());
      LogInfo("coordinator_attached",
              {{"coordinator", hello.coordinator()}, {"leader", hello.leader()}});
      if (!hello.leader() && !hello.leader_address().empty())
        edges_.add_coordinator(hello.leader_address());
      return;
    }
    case wire::CoordinatorMessage::kSnapshot:
      return OnSnapshot(link, message.snapshot());
    case wire::CoordinatorMessage::kTokens:
      return OnStep(link, message.tokens());
    case wire::CoordinatorMessage::kRefused:
      return OnRefused(link, message.refused());
    case wire::CoordinatorMessage::kCluster:  // the status page's
    case wire::CoordinatorMessage::KIND_NOT_SET:
      return;
  }
}

void Dispatcher::MergeView(bool whole) {
  view_.pipelines.clear();
  for (const auto& [link, entry] : links_) {
    view_.pipelines.insert(view_.pipelines.end(), entry.pipelines.begin(), entry.pipelines.end());
  }
  // A count of nothing is dropped with its pipeline; others go when their requests have moved on.
  absl::erase_if(loads_, [this](const auto& entry) {
    return entry.second.requests == 0 && view_.Find(entry.first) == nullptr;
  });
  registry_->Update(view_, edges_.now() / kNsPerMs);
  metrics_->SetCluster(view_, whole);
}

void Dispatcher::OnSnapshot(int link, const wire::Snapshot& snapshot) {
  Link& entry = links_[link];
  std::vector<PipelineView> pipelines = PipelinesOf(link, snapshot);
  for (const PipelineView& old : entry.pipelines) {
    const bool kept =
        std::ranges::any_of(pipelines, [&](const PipelineView& p) { return p.key == old.key; });
    if (!kept) prefixes_.Erase(old.key);
  }
  entry.pipelines = std::move(pipelines);
  MergeView(/*whole=*/true);
  // A pipeline that is gone, or was assembled anew: what ran there is submitted again with its
  // tokens.
  for (auto& [id, running] : sessions_) {
    if (running.pipeline.link != link) continue;
    const PipelineView* pipeline = view_.Find(running.pipeline);
    if (pipeline == nullptr || pipeline->epoch != running.epoch) Replace(running, "pipeline_lost");
  }
}

void Dispatcher::OnLinkLost(int link) {
  const auto found = links_.find(link);
  if (found != links_.end()) {
    for (const PipelineView& pipeline : found->second.pipelines) prefixes_.Erase(pipeline.key);
    links_.erase(found);
    metrics_->SetCoordinators(attached());
    MergeView(/*whole=*/false);
  }
  for (auto& [id, running] : sessions_) {
    if (running.pipeline.link == link) Replace(running, "coordinator_lost");
  }
}

void Dispatcher::OnStep(int link, const wire::StepTokens& step) {
  std::vector<RequestId> touched;
  touched.reserve(static_cast<size_t>(step.choices_size()));
  for (const wire::ChoiceTokens& tokens : step.choices()) OnChoice(link, tokens, touched);
  for (RequestId id : touched) {
    const auto found = sessions_.find(id);
    if (found == sessions_.end()) continue;  // cancelled by its own sink
    found->second.touched = false;
    const std::shared_ptr<GenerationSink> sink = found->second.sink;
    if (!found->second.session->finished()) {
      sink->OnStepEnd();
      continue;
    }
    // The sink reads the session's totals, so the session outlives its entry.
    const std::unique_ptr<Session> session = std::move(found->second.session);
    Unplace(found->second);
    sessions_.erase(found);
    metrics_->Tokens(static_cast<int64_t>(session->request().prompt.size()),
                     session->cached_tokens(), session->output_tokens());
    metrics_->SetInFlight(in_flight());
    sink->OnDone(*session);
  }
}

void Dispatcher::OnChoice(int link, const wire::ChoiceTokens& tokens,
                          std::vector<RequestId>& touched) {
  const RequestId id{tokens.request().high(), tokens.request().low()};
  const auto found = sessions_.find(id);
  if (found == sessions_.end()) return;
  Running& running = found->second;
  if (running.pipeline.link != link) return;
  const PipelineView* pipeline = view_.Find(running.pipeline);
  Session::Update update = running.session->OnTokens(BatchOf(tokens, id));
  switch (update.kind) {
    case Session::Update::Kind::kIgnored:
      return;
    case Session::Update::Kind::kFailed:
      SendCancel(running);
      return Fail(id, update.error);
    case Session::Update::Kind::kGap:
      return Replace(running, "gap");
    case Session::Update::Kind::kLost:
      if (edges_.now() >= running.session->request().deadline_ns) return Fail(id, DeadlineError());
      if (++running.losses > kMaxLosses) {
        return Fail(id,
                    absl::UnavailableError("the coordinator gave the request up several times"));
      }
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
  if (update.first_token) {
    metrics_->FirstToken(SecondsBetween(running.session->request().received_ns, now));
    running.refusals = 0;
    if (pipeline != nullptr && running.profile.empty())
      running.profile = pipeline->numerics_profile;
  } else if (count > 0 && !running.touched) {
    metrics_->InterToken(SecondsBetween(running.last_news_ns, now) / static_cast<double>(count));
  }
  if (count > 0) {
    running.last_news_ns = now;
    metrics_->OutputTokens(count);
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
                        code == absl::StatusCode::kNotFound || code == absl::StatusCode::kAborted;
  const PipelineKey refuser = running.pipeline;
  absl::Status status(code, refused.message());
  if (!may_pass) {
    metrics_->Rejected("invalid");
    return Fail(id, status);
  }
  running.avoid.push_back(refuser);
  ++running.refusals;
  // An accepted stream goes on until its deadline. A new request tries each pipeline once, then is
  // told to come later.
  const bool accepted = running.session->any_token() ||
                        running.session->attempt() > static_cast<uint32_t>(running.refusals);
  const bool another = std::ranges::any_of(view_.pipelines, [&](const PipelineView& pipeline) {
    return pipeline.ready && pipeline.model == running.session->request().model &&
           pipeline.digest == running.session->request().model_digest &&
           std::ranges::count(running.avoid, pipeline.key) == 0;
  });
  if (another) return Replace(running, "refused");
  if (accepted) {
    metrics_->Retried("refused");
    running.avoid.clear();
    Unplace(running);
    running.retry_at_ns =
        edges_.now() + std::max<int64_t>(kRetryDelayMs, refused.retry_after_ms()) * kNsPerMs;
    return;
  }
  if (code == absl::StatusCode::kNotFound) status = absl::UnavailableError(refused.message());
  metrics_->Rejected(code == absl::StatusCode::kResourceExhausted ? "queue_full" : "no_pipeline");
  Fail(id, WithRetryAfter(status,
                          refused.retry_after_ms() > 0 ? refused.retry_after_ms() : kRetryAfterMs));
}

void Dispatcher::Tick() {
  const MonotonicNs now = edges_.now();
  std::vector<RequestId> late;
  for (auto& [id, running] : sessions_) {
    if (now >= running.session->request().deadline_ns) {
      late.push_back(id);
    } else if (running.pipeline.link < 0 && now >= running.retry_at_ns) {
      if (!Place(running)) running.retry_at_ns = now + kRetryDelayMs * kNsPerMs;
    }
  }
  for (RequestId id : late) {
    SendCancel(sessions_.find(id)->second);
    metrics_->Rejected("deadline");
    Fail(id, DeadlineError());
  }
}

}  // namespace pagoda::router
