#include "router/grpc/fields.h"

#include "common/limits.h"
#include "router/openai/prepare.h"
#include "router/request_status.h"

namespace pagoda::router {
namespace {

template <typename Value, typename Out>
void Take(bool has, Value value, std::optional<Out>& out) {
  if (has) out = static_cast<Out>(value);
}

void ReadSampling(const v1::SamplingParams& in, GenerationFields& out) {
  Take(in.has_temperature(), in.temperature(), out.temperature);
  Take(in.has_top_p(), in.top_p(), out.top_p);
  Take(in.has_top_k(), in.top_k(), out.top_k);
  Take(in.has_min_p(), in.min_p(), out.min_p);
  Take(in.has_typical_p(), in.typical_p(), out.typical_p);
  Take(in.has_repetition_penalty(), in.repetition_penalty(), out.repetition_penalty);
  Take(in.has_presence_penalty(), in.presence_penalty(), out.presence_penalty);
  Take(in.has_frequency_penalty(), in.frequency_penalty(), out.frequency_penalty);
  Take(in.has_no_repeat_ngram_size(), in.no_repeat_ngram_size(), out.no_repeat_ngram_size);
  Take(in.has_seed(), in.seed(), out.seed);
  Take(in.has_num_speculative_tokens(), in.num_speculative_tokens(), out.num_speculative_tokens);
  for (const auto& [token, bias] : in.logit_bias()) out.logit_bias.emplace_back(token, bias);
  for (const auto& word : in.bad_words()) {
    out.bad_word_tokens.emplace_back(word.token_ids().begin(), word.token_ids().end());
  }
  out.allowed_token_ids.assign(in.allowed_token_ids().begin(), in.allowed_token_ids().end());
}

}  // namespace

GenerationFields FieldsOf(const v1::GenerateRequest& request) {
  GenerationFields out;
  ReadSampling(request.sampling(), out);
  const v1::StoppingParams& stopping = request.stopping();
  Take(stopping.has_max_tokens(), stopping.max_tokens(), out.max_tokens);
  Take(stopping.has_min_tokens(), stopping.min_tokens(), out.min_tokens);
  out.stop.assign(stopping.stop().begin(), stopping.stop().end());
  out.stop_token_ids.assign(stopping.stop_token_ids().begin(), stopping.stop_token_ids().end());
  out.ignore_eos = stopping.ignore_eos();
  out.include_stop_in_output = stopping.include_stop_in_output();
  Take(request.logprobs().has_logprobs(), request.logprobs().logprobs(), out.logprobs);
  Take(request.logprobs().has_prompt_logprobs(), request.logprobs().prompt_logprobs(),
       out.prompt_logprobs);
  if (request.n() != 0) out.n = request.n();
  out.priority = request.priority();
  out.cache_salt = request.cache_salt();
  out.bypass_prefix_cache = request.bypass_prefix_cache();
  return out;
}

absl::StatusOr<std::string> RenderChat(const v1::ChatPrompt& chat, const ServedModel& model,
                                       int64_t now_unix) {
  openai::ChatInput input;
  if (chat.messages().empty()) return InvalidField("messages", "must not be empty");
  if (absl::Status status = openai::CheckMessageCount(static_cast<size_t>(chat.messages_size())); !status.ok()) return status;
  input.messages = openai::Json::array();
  for (const v1::ChatMessage& message : chat.messages()) {
    if (!openai::IsRole(message.role())) {
      return InvalidField("messages", "has an entry without a role, which is a word of at most 64 letters, digits, _ and -");
    }
    input.messages.push_back({{"role", message.role()}, {"content", message.content()}});
  }
  input.add_generation_prompt = !chat.has_add_generation_prompt() || chat.add_generation_prompt();
  return openai::RenderChat(input, *model.text, now_unix);
}

absl::StatusOr<std::vector<TokenId>> PromptOf(const v1::GenerateRequest& request,
                                              const ServedModel& model, int64_t now_unix) {
  const text::Tokenizer& tokenizer = *model.text->tokenizer;
  switch (request.prompt_case()) {
    case v1::GenerateRequest::kText:
      return tokenizer.Encode(request.text(),
                              {.add_special_tokens = true, .parse_special_tokens = true});
    case v1::GenerateRequest::kTokens: {
      const auto& ids = request.tokens().token_ids();
      return std::vector<TokenId>(ids.begin(), ids.end());
    }
    case v1::GenerateRequest::kChat: {
      PAGODA_ASSIGN_OR_RETURN(const std::string text, RenderChat(request.chat(), model, now_unix));
      return tokenizer.Encode(text, {.add_special_tokens = false, .parse_special_tokens = true});
    }
    case v1::GenerateRequest::PROMPT_NOT_SET:
      break;
  }
  return InvalidField("prompt", "is required: text, tokens or chat");
}

void FillModelInfo(const ServedModel& model, v1::ModelInfo* info) {
  info->set_name(model.name);
  info->set_architecture(model.architecture);
  info->set_max_model_len(model.max_model_len);
  info->set_vocabulary(model.vocabulary);
  info->set_numerics_profile(model.numerics_profile);
  info->set_pipelines_ready(model.pipelines_ready);
  info->set_created_unix_s(model.created_unix_s);
}

v1::FinishReason ToProto(FinishReason reason) {
  switch (reason) {
    case FinishReason::kStop:
      return v1::FINISH_REASON_STOP;
    case FinishReason::kLength:
      return v1::FINISH_REASON_LENGTH;
    case FinishReason::kCancelled:
      return v1::FINISH_REASON_CANCELLED;
    case FinishReason::kError:
      return v1::FINISH_REASON_ERROR;
    case FinishReason::kNone:
      break;
  }
  return v1::FINISH_REASON_UNSPECIFIED;
}

void FillLogprobs(const PositionLogprobs& from, v1::PositionLogprobs* to) {
  for (const TokenLogprob& entry : from) {
    v1::TokenLogprob* added = to->add_entries();
    added->set_token_id(entry.token);
    added->set_logprob(entry.logprob);
    added->set_rank(entry.rank);
  }
}

}  // namespace pagoda::router
