// Where a request goes and where a stream may go on: choosing, submitting, taking away, and what it waits for meanwhile.
#include <algorithm>

#include "common/log.h"
#include "pagoda/internal/v1/pipeline.pb.h"
#include "router/dispatcher.h"
#include "router/dispatcher_wire.h"
#include "router/request_status.h"
#include "router/stream_position.h"

namespace pagoda::router {
namespace {

constexpr int64_t kMostRetryDelayMs = 2000;             // between losses of one request
constexpr int64_t kKeepNumericsNs = 60 * kNsPerSecond;  // a stream waits so long for a pipeline that gives the very tokens

}  // namespace

// A pipeline of its model was lost a moment ago: a request that waits for it is better than one that is refused.
bool Dispatcher::MayComeBack(const GenerationRequest& request) const {
  return std::ranges::any_of(view_.pipelines, [&](const PipelineView& pipeline) {
    return pipeline.model == request.model && pipeline.digest == request.model_digest && pipeline.epoch_closed;
  });
}

// Of a client that has a part of its stream: what made that part makes the rest. It is told by the log, or, where nobody has that, by the
// mark of the client's position.
absl::Status Dispatcher::BindToItsNumerics(Session& session) const {
  const GenerationRequest& request = session.request();
  if (!request.known_digest.empty() && request.known_digest != request.model_digest) return ModelChangedError(request.model);
  if (request.mark == 0) {
    session.MadeBy(request.numerics);
    return absl::OkStatus();
  }
  bool others = false, unknown = false;
  const std::string* profile_alone = nullptr;  // of a coordinator of protocol 1, which does not tell more
  for (const PipelineView& pipeline : view_.pipelines) {
    if (pipeline.model != request.model) continue;
    if (pipeline.digest != request.model_digest) {
      others = true;
    } else if (pipeline.numerics.empty()) {
      unknown = true;
    } else if (MarkFits(request.mark, pipeline.digest, pipeline.numerics)) {
      session.MadeBy(pipeline.numerics);
      return absl::OkStatus();
    } else if (pipeline.numerics.find(' ') == std::string::npos) {
      profile_alone = &pipeline.numerics;
    } else {
      others = true;
    }
  }
  if (profile_alone != nullptr) {
    session.MadeBy(*profile_alone);
    return absl::OkStatus();
  }
  return others && !unknown ? ModelChangedError(request.model) : NoPipelineError();
}

RouteRequest Dispatcher::RouteOf(const Running& running) const {
  const GenerationRequest& request = running.session->request();
  const auto prompt = static_cast<int64_t>(request.prompt.size());
  return {.model = request.model,
          .digest = request.model_digest,
          .prompt_tokens = prompt,
          .total_tokens = prompt + request.sampling.max_tokens,
          .chain = running.chain,
          .accepted = running.accepted,
          .numerics = running.session->numerics(),
          .only_its_numerics = request.mark != 0,
          .keeps_numerics = running.unplaced_ns == 0 || edges_.now() - running.unplaced_ns < kKeepNumericsNs,
          .avoid = running.avoid};
}

// What serves its name has not been able to go on with it for a while, and does not look as if it would.
absl::Status Dispatcher::WhyItCannotGoOn(Running& running, MonotonicNs now) const {
  const RouteRequest route = RouteOf(running);
  bool named = false, served = false, fits = false;
  int64_t longest = 0;
  for (const PipelineView& pipeline : view_.pipelines) {
    if (pipeline.model != route.model) continue;
    named = true;
    if (!IsOfItsModel(route, pipeline) || (route.only_its_numerics && !SameNumerics(pipeline.numerics, route.numerics))) continue;
    served = true;
    fits = fits || pipeline.max_model_len == 0 || route.total_tokens <= pipeline.max_model_len;
    longest = std::max(longest, pipeline.max_model_len);
  }
  if (!named || fits) {
    running.cannot_go_on_ns = 0;
    return absl::OkStatus();
  }
  if (running.cannot_go_on_ns == 0) running.cannot_go_on_ns = now;
  if (now - running.cannot_go_on_ns < options_.hold_ms * kNsPerMs) return absl::OkStatus();
  const GenerationRequest& request = running.session->request();
  if (!served) return ModelChangedError(request.model);
  return WithCode(absl::FailedPreconditionError(absl::StrCat("prompt and max_tokens are ", route.total_tokens, " tokens, and '", request.model,
                                                             "' takes no more than ", longest, " by now")),
                  "context_length_exceeded");
}

bool Dispatcher::Place(Running& running) {
  const GenerationRequest& request = running.session->request();
  const auto prompt = static_cast<int64_t>(request.prompt.size());
  const MonotonicNs now = edges_.now();
  std::vector<PipelineKey> avoid = running.avoid;
  for (const PipelineView& pipeline : view_.pipelines) {
    if (breakers_.IsOpen(pipeline.key, now)) avoid.push_back(pipeline.key);
  }
  RouteRequest route = RouteOf(running);
  route.avoid = avoid;
  const auto key = ChoosePipeline(route, view_, loads_, prefixes_, options_.policy);
  if (!key) return false;
  const PipelineView& pipeline = *view_.Find(*key);
  auto message =
      SubmitMessage(*running.session, running.session->NextSubmission(), *key, now);
  message->mutable_submit()->set_accepted(running.accepted);
  message->mutable_submit()->set_deaths(running.deaths);
  message->mutable_submit()->set_deaths_alone(running.deaths_alone);
  // What it leaves behind elsewhere would compute for nobody.
  if (running.copy != *key) SendCancel(running);
  if (!edges_.send(key->link, std::move(message))) return false;  // its loss is on its way to us
  running.copy = PipelineKey{};
  running.cannot_go_on_ns = 0;

  const std::string numerics = running.session->numerics();
  if (!numerics.empty() && !SameNumerics(numerics, pipeline.numerics)) {
    running.session->MadeBy(pipeline.numerics);
    const bool client_has_some = std::ranges::any_of(request.known, [](const KnownChoice& known) { return known.delivered > 0; });
    if (client_has_some || running.session->output_tokens() > 0) {
      metrics_->ProfileChanged();
      LogWarning("stream_changes_numerics", {{"request_id", request.client_request_id},
                                             {"from", numerics},
                                             {"to", pipeline.numerics},
                                             {"tokens", running.session->output_tokens()}});
    }
  }
  breakers_.Chosen(*key, now);
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

void Dispatcher::PipelineFailed(PipelineKey key) {
  if (!breakers_.Failed(key, edges_.now())) return;
  metrics_->CircuitOpened();
  LogWarning("circuit_opened", {{"link", key.link}, {"pipeline", key.pipeline.value()}});
}

void Dispatcher::Unplace(Running& running) {
  const auto found = loads_.find(running.pipeline);
  if (running.pipeline.link >= 0 && found != loads_.end()) {
    found->second.tokens -= running.counted_tokens;
    --found->second.requests;
  }
  running.counted_tokens = 0;
  if (running.pipeline.link >= 0) running.copy = running.pipeline;
  if (running.unplaced_ns == 0) running.unplaced_ns = edges_.now();
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
  // Lost three times and more: not in a tight circle.
  const int64_t pause_ms =
      running.losses < 3 ? 0 : std::min(kMostRetryDelayMs, kRetryDelayMs << std::min(running.losses - 3, 10));
  if (pause_ms > 0 || !Place(running)) {
    running.retry_at_ns = edges_.now() + std::max(pause_ms, kRetryDelayMs) * kNsPerMs;
  }
}

}  // namespace pagoda::router
