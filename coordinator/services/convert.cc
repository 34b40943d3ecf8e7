#include "coordinator/services/convert.h"

#include <cmath>

#include "common/clock.h"
#include "common/limits.h"

namespace pagoda::coordinator {
namespace {

absl::Status CheckNumber(const char* name, double value, double low, double high) {
  if (std::isfinite(value) && value >= low && value <= high) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(name, " is ", value, "; ", low, " to ", high, " are allowed"));
}

absl::Status CheckSampling(const wire::SettledSampling& in) {
  PAGODA_RETURN_IF_ERROR(CheckNumber("temperature", in.temperature(), 0, 100));
  PAGODA_RETURN_IF_ERROR(CheckNumber("top_p", in.top_p(), 0, 1));
  PAGODA_RETURN_IF_ERROR(CheckNumber("min_p", in.min_p(), 0, 1));
  PAGODA_RETURN_IF_ERROR(CheckNumber("typical_p", in.typical_p(), 0, 1));
  PAGODA_RETURN_IF_ERROR(CheckNumber("repetition_penalty", in.repetition_penalty(), 1e-6, 1e6));
  PAGODA_RETURN_IF_ERROR(CheckNumber("presence_penalty", in.presence_penalty(), -100, 100));
  PAGODA_RETURN_IF_ERROR(CheckNumber("frequency_penalty", in.frequency_penalty(), -100, 100));
  PAGODA_RETURN_IF_ERROR(CheckNumber("top_k", in.top_k(), -1, limits::kMaxVocabulary));
  PAGODA_RETURN_IF_ERROR(CheckNumber("no_repeat_ngram_size", in.no_repeat_ngram_size(), 0, limits::kMaxPromptTokens));
  PAGODA_RETURN_IF_ERROR(CheckNumber("logprobs", in.logprobs(), -1, limits::kMaxTopLogprobs));
  PAGODA_RETURN_IF_ERROR(CheckNumber("prompt_logprobs", in.prompt_logprobs(), -1, limits::kMaxPromptLogprobs));
  PAGODA_RETURN_IF_ERROR(CheckNumber("max_tokens", in.max_tokens(), 1, limits::kMaxTotalNewTokens));
  PAGODA_RETURN_IF_ERROR(CheckNumber("min_tokens", in.min_tokens(), 0, limits::kMaxTotalNewTokens));
  PAGODA_RETURN_IF_ERROR(CheckNumber("speculative_tokens", in.speculative_tokens(), -1, limits::kMaxDraftTokens));
  PAGODA_RETURN_IF_ERROR(CheckNumber("number of logit_bias", in.logit_bias_size(), 0, limits::kMaxLogitBias));
  PAGODA_RETURN_IF_ERROR(CheckNumber("number of bad_words", in.bad_words_size(), 0, limits::kMaxBadWords));
  // The router adds the model's own end tokens to the client's.
  PAGODA_RETURN_IF_ERROR(CheckNumber("number of stop_token_ids", in.stop_token_ids_size(), 0, 4 * limits::kMaxStopTokenIds));
  PAGODA_RETURN_IF_ERROR(
      CheckNumber("number of allowed_token_ids", in.allowed_token_ids_size(), 0, limits::kMaxVocabulary));
  for (const auto& bias : in.logit_bias()) PAGODA_RETURN_IF_ERROR(CheckNumber("logit_bias", bias.bias(), -1e4, 1e4));
  return absl::OkStatus();
}

Sampling SamplingOf(const wire::SettledSampling& in) {
  Sampling out;
  out.temperature = in.temperature();
  out.top_p = in.top_p();
  out.top_k = std::max(0, in.top_k());
  out.min_p = in.min_p();
  out.typical_p = in.typical_p();
  out.repetition_penalty = in.repetition_penalty();
  out.presence_penalty = in.presence_penalty();
  out.frequency_penalty = in.frequency_penalty();
  out.no_repeat_ngram_size = in.no_repeat_ngram_size();
  for (const auto& bias : in.logit_bias()) out.logit_bias.emplace_back(bias.token_id(), bias.bias());
  for (const auto& words : in.bad_words()) out.bad_words.emplace_back(words.token_ids().begin(), words.token_ids().end());
  out.allowed_token_ids.assign(in.allowed_token_ids().begin(), in.allowed_token_ids().end());
  out.seed = in.seed();
  out.max_tokens = in.max_tokens();
  out.min_tokens = in.min_tokens();
  out.stop_token_ids.assign(in.stop_token_ids().begin(), in.stop_token_ids().end());
  out.logprobs = in.logprobs();
  out.prompt_logprobs = in.prompt_logprobs();
  out.speculative_tokens = in.speculative_tokens();
  return out;
}

void ToWire(const PositionLogprobs& position, ::pagoda::v1::PositionLogprobs& out) {
  for (const TokenLogprob& entry : position) {
    auto* added = out.add_entries();
    added->set_token_id(entry.token);
    added->set_logprob(entry.logprob);
    added->set_rank(entry.rank);
  }
}

::pagoda::v1::FinishReason FinishOf(FinishReason reason) {
  switch (reason) {
    case FinishReason::kNone:
      return ::pagoda::v1::FINISH_REASON_UNSPECIFIED;
    case FinishReason::kStop:
      return ::pagoda::v1::FINISH_REASON_STOP;
    case FinishReason::kLength:
      return ::pagoda::v1::FINISH_REASON_LENGTH;
    case FinishReason::kCancelled:
      return ::pagoda::v1::FINISH_REASON_CANCELLED;
    case FinishReason::kError:
      return ::pagoda::v1::FINISH_REASON_ERROR;
  }
  return ::pagoda::v1::FINISH_REASON_UNSPECIFIED;
}

int CodeOf(RefusalCode code) {  // google.rpc.Code
  switch (code) {
    case RefusalCode::kInvalidArgument:
      return 3;
    case RefusalCode::kDeadlineExceeded:
      return 4;
    case RefusalCode::kNotFound:
      return 5;
    case RefusalCode::kResourceExhausted:
      return 8;
    case RefusalCode::kUnavailable:
      return 14;
    case RefusalCode::kAborted:
      return 10;
  }
  return 2;
}

void SetKey(const RequestId& id, wire::RequestKey& out) {
  out.set_high(id.high);
  out.set_low(id.low);
}

}  // namespace

RequestId FromWire(const wire::RequestKey& key) { return {key.high(), key.low()}; }

absl::StatusOr<Request> FromWire(wire::Submit& submit, RouterId router, int64_t now_ns) {
  if (submit.prompt_size() > limits::kMaxPromptTokens) {
    return absl::InvalidArgumentError(
        absl::StrCat("the prompt has ", submit.prompt_size(), " tokens; kMaxPromptTokens is ", limits::kMaxPromptTokens));
  }
  if (submit.choices_size() > limits::kMaxChoices) {
    return absl::InvalidArgumentError(
        absl::StrCat("the request has ", submit.choices_size(), " choices; kMaxChoices is ", limits::kMaxChoices));
  }
  PAGODA_RETURN_IF_ERROR(CheckSampling(submit.sampling()));
  Request request;
  request.id = FromWire(submit.request());
  request.router = router;
  request.attempt = submit.attempt();
  request.prompt.assign(submit.prompt().begin(), submit.prompt().end());
  for (const auto& choice : submit.choices()) {
    request.choices.push_back({{choice.tokens().begin(), choice.tokens().end()}, choice.finished()});
  }
  if (request.choices.empty()) request.choices.resize(1);
  request.sampling = SamplingOf(submit.sampling());
  request.priority = submit.priority();
  request.tenant = std::move(*submit.mutable_tenant());
  request.tenant_weight = submit.tenant_weight() > 0 && std::isfinite(submit.tenant_weight()) ? submit.tenant_weight() : 1;
  request.deaths = std::max(0, submit.deaths());
  request.deaths_alone = std::max(0, submit.deaths_alone());
  request.accepted = submit.accepted();
  request.cache_salt = std::move(*submit.mutable_cache_salt());
  request.bypass_prefix_cache = submit.bypass_prefix_cache();
  if (submit.deadline_ms() > 0) {
    request.deadline_ns = now_ns + std::min<int64_t>(submit.deadline_ms(), limits::kMaxRequestMs) * kNsPerMs;
  }
  request.client_request_id = std::move(*submit.mutable_client_request_id());
  if (submit.has_trace()) {
    request.trace = {.trace_high = submit.trace().trace_high(),
                     .trace_low = submit.trace().trace_low(),
                     .span = submit.trace().span()};
    request.trace_parent = request.trace.span;
  }
  return request;
}

void ToWire(const Sampling& sampling, wire::SettledSampling& out) {
  out.set_temperature(sampling.temperature);
  out.set_top_p(sampling.top_p);
  out.set_top_k(sampling.top_k);
  out.set_min_p(sampling.min_p);
  out.set_typical_p(sampling.typical_p);
  out.set_repetition_penalty(sampling.repetition_penalty);
  out.set_presence_penalty(sampling.presence_penalty);
  out.set_frequency_penalty(sampling.frequency_penalty);
  out.set_no_repeat_ngram_size(sampling.no_repeat_ngram_size);
  for (const auto& [token, bias] : sampling.logit_bias) {
    auto* added = out.add_logit_bias();
    added->set_token_id(token);
    added->set_bias(bias);
  }
  for (const auto& words : sampling.bad_words) {
    auto* added = out.add_bad_words();
    for (const TokenId token : words) added->add_token_ids(token);
  }
  for (const TokenId token : sampling.allowed_token_ids) out.add_allowed_token_ids(token);
  out.set_seed(sampling.seed);
  out.set_max_tokens(sampling.max_tokens);
  out.set_min_tokens(sampling.min_tokens);
  for (const TokenId token : sampling.stop_token_ids) out.add_stop_token_ids(token);
  out.set_logprobs(sampling.logprobs);
  out.set_prompt_logprobs(sampling.prompt_logprobs);
  out.set_speculative_tokens(sampling.speculative_tokens);
}

void ToWire(const StepTokens& head, std::span<ChoiceOutput* const> outputs, wire::StepTokens& out) {
  out.set_pipeline(head.pipeline.value());
  out.set_epoch(head.epoch.value());
  out.set_step(head.step.value());
  for (const ChoiceOutput* output : outputs) {
    auto* choice = out.add_choices();
    SetKey(output->request, *choice->mutable_request());
    choice->set_attempt(output->attempt);
    choice->set_choice(output->choice);
    choice->set_first_index(output->first_index);
    for (const TokenId token : output->tokens) choice->add_tokens(token);
    for (const PositionLogprobs& position : output->logprobs) ToWire(position, *choice->add_logprobs());
    for (const PositionLogprobs& position : output->prompt_logprobs) ToWire(position, *choice->add_prompt_logprobs());
    choice->set_finish(FinishOf(output->finish));
    if (output->stop_token.has_value()) choice->set_stop_token_id(*output->stop_token);
    choice->set_cached_tokens(output->cached_tokens);
    choice->set_error(output->error);
    choice->set_queue_us(output->queue_ns / 1000);
    choice->set_prefill_us(output->prefill_ns / 1000);
  }
}

void ToWire(const Refusal& refusal, wire::Refused& out) {
  SetKey(refusal.request, *out.mutable_request());
  out.set_attempt(refusal.attempt);
  out.set_code(CodeOf(refusal.code));
  out.set_message(refusal.message);
  out.set_retry_after_ms(refusal.retry_after_ms);
}

void ToWire(std::span<const DeathNotice> notices, wire::Deaths& out) {
  for (const DeathNotice& notice : notices) {
    auto* added = out.add_requests();
    SetKey(notice.request, *added->mutable_request());
    added->set_deaths(notice.deaths);
    added->set_deaths_alone(notice.deaths_alone);
  }
}

void ToWire(const std::vector<ResumeTable::Part>& parts, wire::ResumeAnswer& out) {
  for (const ResumeTable::Part& part : parts) {
    auto* added = out.add_parts();
    added->set_part(part.part);
    SetKey(part.request, *added->mutable_request());
    added->set_attempt(part.attempt);
    added->set_router_state(part.router_state);
    for (const ChoiceProgress& choice : part.choices) {
      auto* log = added->add_choices();
      log->mutable_tokens()->Add(choice.tokens.begin(), choice.tokens.end());
      log->set_finished(choice.finished);
    }
    added->set_cached_tokens(part.cached_tokens);
    added->set_model_digest(part.model_digest);
    added->set_numerics(part.numerics);
  }
}

void ToWire(const Snapshot& snapshot, wire::Snapshot& out) {
  out.set_version(snapshot.version);
  for (const PipelineSnapshot& pipeline : snapshot.pipelines) {
    auto* added = out.add_pipelines();
    added->set_pipeline(pipeline.pipeline.value());
    added->set_epoch(pipeline.epoch.value());
    added->set_model(pipeline.model);
    added->set_model_digest(pipeline.model_digest);
    added->set_architecture(pipeline.architecture);
    added->set_ready(pipeline.ready);
    added->set_max_model_len(pipeline.max_model_len);
    added->set_block_tokens(pipeline.block_tokens);
    added->set_blocks_total(pipeline.blocks_total);
    added->set_blocks_used(pipeline.blocks_used);
    added->set_running(pipeline.running);
    added->set_waiting(pipeline.waiting);
    added->set_numerics_profile(pipeline.numerics_profile);
    added->set_vocabulary(pipeline.vocabulary);
    added->set_max_queued_requests(pipeline.max_queued_requests);
    added->set_created_unix_s(pipeline.created_unix_s);
    added->set_preemptions(pipeline.preemptions);
    added->set_prefix_hit_tokens(pipeline.prefix_hit_tokens);
    added->set_prefix_query_tokens(pipeline.prefix_query_tokens);
    added->set_epoch_closed(pipeline.epoch_closed);
    added->set_predicted_wait_ms(pipeline.predicted_wait_ms);
    added->set_kv_moved_to(pipeline.kv_moved_to.value());
    added->set_numerics(pipeline.numerics);
    added->set_takes_replays(pipeline.takes_replays);
  }
}

absl::StatusOr<DeploymentSpec> FromWire(const ::pagoda::v1::DeploymentSpec& in) {
  DeploymentSpec spec;
  spec.name = in.name();
  spec.model = in.model();
  spec.pipeline_parallel_size = in.pipeline_parallel_size();
  spec.tensor_parallel_size.assign(in.tensor_parallel_size().begin(), in.tensor_parallel_size().end());
  spec.replicas = in.replicas();
  spec.max_model_len = in.max_model_len();
  spec.kv_cache_type = in.kv_cache_type();
  spec.activation_bits = in.activation_bits();
  spec.max_num_batched_tokens = in.max_num_batched_tokens();
  spec.max_num_seqs = in.max_num_seqs();
  spec.disable_prefix_caching = in.disable_prefix_caching();
  spec.disable_chunked_prefill = in.disable_chunked_prefill();
  spec.layers_per_stage.assign(in.layers_per_stage().begin(), in.layers_per_stage().end());
  spec.kv_cache_bytes = in.kv_cache_bytes();
  spec.block_size = in.block_size();
  spec.max_queued_requests = in.max_queued_requests();
  return Settle(std::move(spec));
}

void ToWire(const DeploymentSpec& spec, ::pagoda::v1::DeploymentSpec& out) {
  out.set_name(spec.name);
  out.set_model(spec.model);
  out.set_pipeline_parallel_size(spec.pipeline_parallel_size);
  for (const int ranks : spec.tensor_parallel_size) out.add_tensor_parallel_size(ranks);
  out.set_replicas(spec.replicas);
  out.set_max_model_len(spec.max_model_len);
  out.set_kv_cache_type(spec.kv_cache_type);
  out.set_activation_bits(spec.activation_bits);
  out.set_max_num_batched_tokens(spec.max_num_batched_tokens);
  out.set_max_num_seqs(spec.max_num_seqs);
  out.set_disable_prefix_caching(spec.disable_prefix_caching);
  out.set_disable_chunked_prefill(spec.disable_chunked_prefill);
  for (const int layers : spec.layers_per_stage) out.add_layers_per_stage(layers);
  out.set_kv_cache_bytes(spec.kv_cache_bytes);
  out.set_block_size(spec.block_size);
  out.set_max_queued_requests(spec.max_queued_requests);
}

}  // namespace pagoda::coordinator
