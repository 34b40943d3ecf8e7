// The answer in one piece: of a request that does not stream.
#include "router/openai/generation_job.h"
#include "router/openai/json_output.h"

namespace pagoda::router::openai {

void GenerationJob::AppendChoice(std::string& body, size_t index) {
  const Choice& choice = choices_[index];
  absl::StrAppend(&body, "{\"index\":", index, ",\"message\":{\"role\":\"assistant\",\"content\":");
  AppendString(body, choice.text);
  body += ",\"refusal\":null,\"tool_calls\":[]},\"logprobs\":";
  if (prepared_.input.fields.logprobs) {
    AppendChatLogprobs(body, style(), choice.logprobs);
  } else {
    body += "null";
  }
  body += ",\"finish_reason\":";
  AppendString(body, FinishName(choice.finish));
  AppendStopReason(body, choice.stop_token, choice.stop_string);
  if (prepared_.input.return_token_ids) {
    body += ",\"token_ids\":";
    AppendIntegers(body, choice.tokens);
  }
  body += '}';
}

void GenerationJob::AppendCompletionChoice(std::string& body, size_t index) {
  const GenerationInput& input = prepared_.input;
  Choice& choice = choices_[index];
  const size_t prompt = index / static_cast<size_t>(per_prompt_);
  const Part& part = parts_[prompt];
  if (input.echo_only) {
    choice = Choice{};
    choice.finish = FinishReason::kLength;
  }
  absl::StrAppend(&body, "{\"index\":", index, ",\"text\":");
  AppendString(
      body, input.echo ? absl::StrCat(prepared_.prompt_texts[prompt], choice.text) : choice.text);
  body += ",\"logprobs\":";
  if (input.fields.logprobs) {
    std::vector<TokenId> tokens;
    std::vector<PositionLogprobs> positions;
    if (input.echo) {
      tokens = part.prompt;
      positions = part.prompt_logprobs;
      positions.resize(tokens.size());
    }
    tokens.insert(tokens.end(), choice.tokens.begin(), choice.tokens.end());
    positions.insert(positions.end(), choice.logprobs.begin(), choice.logprobs.end());
    int64_t offset = 0;
    AppendCompletionLogprobs(body, style(), tokens, positions, offset);
  } else {
    body += "null";
  }
  body += ",\"finish_reason\":";
  AppendString(body, FinishName(choice.finish));
  AppendStopReason(body, choice.stop_token, choice.stop_string);
  if (input.fields.prompt_logprobs) {
    body += ",\"prompt_logprobs\":";
    LogprobStyle prompt_style = style();
    prompt_style.top = static_cast<int>(*input.fields.prompt_logprobs);
    AppendPromptLogprobs(body, prompt_style, part.prompt_logprobs);
  }
  if (input.return_token_ids) {
    body += ",\"token_ids\":";
    AppendIntegers(body, choice.tokens);
    body += ",\"prompt_token_ids\":";
    AppendIntegers(body, part.prompt);
  }
  body += '}';
}

void GenerationJob::SendWhole() {
  const GenerationInput& input = prepared_.input;
  std::string body = "{\"id\":";
  AppendString(body, answer_id_);
  absl::StrAppend(&body, ",\"object\":\"", chat() ? "chat.completion" : "text_completion",
                  "\",\"created\":", created_unix_s_, ",\"model\":");
  AppendString(body, model_);
  body += ",\"choices\":[";
  for (size_t i = 0; i < choices_.size(); ++i) {
    if (i > 0) body += ',';
    if (chat()) {
      AppendChoice(body, i);
    } else {
      AppendCompletionChoice(body, i);
    }
  }
  body += "],\"usage\":";
  AppendUsage(body);
  body += ",\"system_fingerprint\":null";
  if (chat() && input.fields.prompt_logprobs) {
    body += ",\"prompt_logprobs\":";
    LogprobStyle prompt_style = style();
    prompt_style.top = static_cast<int>(*input.fields.prompt_logprobs);
    AppendPromptLogprobs(body, prompt_style, parts_.front().prompt_logprobs);
  }
  if (chat() && input.return_token_ids) {
    body += ",\"prompt_token_ids\":";
    AppendIntegers(body, parts_.front().prompt);
  }
  body += '}';
  exchange_->SendJson(std::move(body));
}

}  // namespace pagoda::router::openai
