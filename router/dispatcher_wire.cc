#include "router/dispatcher_wire.h"

#include <algorithm>

namespace pagoda::router {
namespace {

namespace wire = pagoda::internal::v1;

PositionLogprobs LogprobsOf(const pagoda::v1::PositionLogprobs& position) {
  PositionLogprobs entries;
  entries.reserve(static_cast<size_t>(position.entries_size()));
  for (const auto& entry : position.entries())
    entries.push_back({entry.token_id(), entry.logprob(), entry.rank()});
  return entries;
}

FinishReason ReasonOf(pagoda::v1::FinishReason reason) {
  switch (reason) {
    case pagoda::v1::FINISH_REASON_STOP:
      return FinishReason::kStop;
    case pagoda::v1::FINISH_REASON_LENGTH:
      return FinishReason::kLength;
    case pagoda::v1::FINISH_REASON_CANCELLED:
      return FinishReason::kCancelled;
    case pagoda::v1::FINISH_REASON_ERROR:
      return FinishReason::kError;
    default:
      return FinishReason::kNone;
  }
}

void FillSampling(const SettledSampling& from, bool want_prompt_logprobs,
                  wire::SettledSampling* to) {
  to->set_temperature(from.temperature);
  to->set_top_p(from.top_p);
  to->set_top_k(from.top_k);
  to->set_min_p(from.min_p);
  to->set_typical_p(from.typical_p);
  to->set_repetition_penalty(from.repetition_penalty);
  to->set_presence_penalty(from.presence_penalty);
  to->set_frequency_penalty(from.frequency_penalty);
  to->set_no_repeat_ngram_size(from.no_repeat_ngram_size);
  for (const auto& [token, bias] : from.logit_bias) {
    wire::LogitBias* entry = to->add_logit_bias();
    entry->set_token_id(token);
    entry->set_bias(bias);
  }
  for (const auto& word : from.bad_words)
    to->add_bad_words()->mutable_token_ids()->Add(word.begin(), word.end());
  to->mutable_allowed_token_ids()->Add(from.allowed_token_ids.begin(),
                                       from.allowed_token_ids.end());
  to->set_seed(from.seed);
  to->set_max_tokens(from.max_tokens);
  to->set_min_tokens(from.min_tokens);
  to->mutable_stop_token_ids()->Add(from.stop_token_ids.begin(), from.stop_token_ids.end());
  to->set_logprobs(from.logprobs);
  to->set_prompt_logprobs(want_prompt_logprobs ? from.prompt_logprobs : -1);
  to->set_speculative_tokens(from.speculative_tokens);
}

}  // namespace

wire::RequestKey KeyOf(RequestId id) {
  wire::RequestKey key;
  key.set_high(id.high);
  key.set_low(id.low);
  return key;
}

std::string CacheSalt(const GenerationRequest& request) {
  // The length keeps (tenant "a", salt "bc") apart from (tenant "ab", salt "c").
  if (request.tenant.empty() && request.cache_salt.empty()) return "";
  return absl::StrCat(request.tenant.size(), ":", request.tenant, request.cache_salt);
}

std::unique_ptr<wire::RouterMessage> SubmitMessage(const Session& session,
                                                   const Session::Submission& submission,
                                                   PipelineKey pipeline, MonotonicNs now) {
  const GenerationRequest& request = session.request();
  auto message = std::make_unique<wire::RouterMessage>();
  wire::Submit* submit = message->mutable_submit();
  *submit->mutable_request() = KeyOf(request.id);
  submit->set_attempt(submission.attempt);
  submit->set_pipeline(pipeline.pipeline.value());
  submit->mutable_prompt()->Add(request.prompt.begin(), request.prompt.end());
  for (const Session::Submission::Choice& choice : submission.choices) {
    wire::ChoiceLog* log = submit->add_choices();
    log->mutable_tokens()->Add(choice.tokens.begin(), choice.tokens.end());
    log->set_finished(choice.finished);
  }
  FillSampling(request.sampling, submission.want_prompt_logprobs, submit->mutable_sampling());
  submit->set_priority(request.priority);
  submit->set_tenant(request.tenant);
  submit->set_tenant_weight(request.tenant_weight);
  submit->set_cache_salt(CacheSalt(request));
  submit->set_bypass_prefix_cache(request.bypass_prefix_cache);
  submit->set_deadline_ms(std::max<int64_t>(1, (request.deadline_ns - now) / kNsPerMs));
  submit->set_client_request_id(request.client_request_id);
  if (request.trace.sampled()) {
    submit->mutable_trace()->set_trace_high(request.trace.trace_high);
    submit->mutable_trace()->set_trace_low(request.trace.trace_low);
    submit->mutable_trace()->set_span(request.trace.span);
  }
  submit->set_resume_id(request.resume_id);
  submit->set_resume_part(request.resume_part);
  submit->set_router_state(request.router_state);
  return message;
}

std::vector<FoundPart> PartsOf(const wire::ResumeAnswer& answer) {
  std::vector<FoundPart> parts;
  for (const wire::ResumePart& from : answer.parts()) {
    FoundPart part{.part = from.part(),
                   .request = {from.request().high(), from.request().low()},
                   .attempt = from.attempt(),
                   .router_state = from.router_state(),
                   .choices = {},
                   .cached_tokens = from.cached_tokens(),
                   .model_digest = from.model_digest(),
                   .numerics = from.numerics()};
    for (const wire::ChoiceLog& choice : from.choices()) part.choices.emplace_back(choice.tokens().begin(), choice.tokens().end());
    parts.push_back(std::move(part));
  }
  return parts;
}

TokenBatch BatchOf(const wire::ChoiceTokens& tokens, RequestId id) {
  TokenBatch batch;
  batch.request = id;
  batch.attempt = tokens.attempt();
  batch.choice = tokens.choice();
  batch.first_index = tokens.first_index();
  batch.tokens =
      std::span<const TokenId>(tokens.tokens().data(), static_cast<size_t>(tokens.tokens_size()));
  for (const auto& position : tokens.logprobs()) batch.logprobs.push_back(LogprobsOf(position));
  for (const auto& position : tokens.prompt_logprobs())
    batch.prompt_logprobs.push_back(LogprobsOf(position));
  batch.finish = ReasonOf(tokens.finish());
  if (tokens.has_stop_token_id()) batch.stop_token = tokens.stop_token_id();
  batch.cached_tokens = tokens.cached_tokens();
  batch.error = tokens.error();
  return batch;
}

std::vector<PipelineView> PipelinesOf(int link, const wire::Snapshot& snapshot) {
  std::vector<PipelineView> pipelines;
  pipelines.reserve(static_cast<size_t>(snapshot.pipelines_size()));
  for (const wire::PipelineSnapshot& from : snapshot.pipelines()) {
    PipelineView to;
    to.key = {link, PipelineId(from.pipeline())};
    to.epoch = Epoch(from.epoch());
    to.model = from.model();
    to.digest = from.model_digest();
    to.architecture = from.architecture();
    to.ready = from.ready();
    to.takes_replays = from.takes_replays() || from.ready();
    to.max_model_len = from.max_model_len();
    to.block_tokens = std::max(1, from.block_tokens());
    to.blocks_total = from.blocks_total();
    to.blocks_used = from.blocks_used();
    to.running = from.running();
    to.waiting = std::max(0, from.waiting());
    to.numerics_profile = from.numerics_profile();
    // Of a coordinator that does not tell more: as well as it goes.
    to.numerics = from.numerics().empty() ? from.numerics_profile() : from.numerics();
    to.vocabulary = from.vocabulary();
    to.max_queued_requests = from.max_queued_requests();
    to.created_unix_s = from.created_unix_s();
    to.preemptions = from.preemptions();
    to.prefix_hit_tokens = from.prefix_hit_tokens();
    to.prefix_query_tokens = from.prefix_query_tokens();
    to.epoch_closed = from.epoch_closed();
    to.kv_moved_to = PipelineId(from.kv_moved_to());
    to.predicted_wait_ms = from.predicted_wait_ms();
    pipelines.push_back(std::move(to));
  }
  return pipelines;
}

}  // namespace pagoda::router
