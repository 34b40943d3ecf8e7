#include "router/openai/prepare.h"

#include <algorithm>

#include "common/limits.h"
#include "router/request_status.h"
#include "router/settle.h"

namespace pagoda::router::openai {
namespace {

constexpr int64_t kDefaultCompletionTokens = 16;  // OpenAI's, for /v1/completions

std::string_view Stripped(std::string_view text) {
  constexpr std::string_view kSpace = " \t\r\n\f\v";
  const size_t begin = text.find_first_not_of(kSpace);
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(kSpace) - begin + 1);
}

void Truncate(const GenerationInput& input, const ServedModel& model,
              std::vector<TokenId>& tokens) {
  if (!input.truncate_prompt_tokens) return;
  int64_t keep = *input.truncate_prompt_tokens;
  if (keep < 0)
    keep = std::max<int64_t>(1, model.max_model_len - input.fields.max_tokens.value_or(1));
  if (static_cast<int64_t>(tokens.size()) > keep) tokens.erase(tokens.begin(), tokens.end() - keep);
}

absl::Status CheckIds(const std::vector<TokenId>& tokens, int vocabulary) {
  for (TokenId token : tokens) {
    if (token < 0 || token >= vocabulary) {
      return InvalidField(
          "prompt", absl::StrCat("has token id ", token, ", which is not in 0..", vocabulary - 1));
    }
  }
  return absl::OkStatus();
}

// The prompts of the request as tokens.
absl::StatusOr<std::vector<std::vector<TokenId>>> Tokenize(const GenerationInput& input,
                                                           const ServedModel& model,
                                                           int64_t now_unix) {
  const text::Tokenizer& tokenizer = *model.text->tokenizer;
  const text::Tokenizer::EncodeOptions options{.add_special_tokens = input.add_special_tokens,
                                               .parse_special_tokens = true};
  std::vector<std::vector<TokenId>> all;
  if (input.endpoint == Endpoint::kChat) {
    PAGODA_ASSIGN_OR_RETURN(const std::string rendered,
                            RenderChat(input.chat, *model.text, now_unix));
    all.push_back(tokenizer.Encode(rendered, options));
  } else {
    for (const Prompt& prompt : input.prompts) {
      if (prompt.is_tokens) {
        if (absl::Status status = CheckIds(prompt.tokens, tokenizer.vocabulary_size());
            !status.ok())
          return status;
      }
      all.push_back(prompt.is_tokens ? prompt.tokens : tokenizer.Encode(prompt.text, options));
    }
  }
  for (std::vector<TokenId>& tokens : all) Truncate(input, model, tokens);
  return all;
}

}  // namespace

absl::StatusOr<std::string> RenderChat(const ChatInput& chat, const text::TextModel& model,
                                       int64_t now_unix) {
  if (model.chat_template == nullptr) {
    return WithCode(
        absl::InvalidArgumentError("this model has no chat template; use /v1/completions"),
        "no_chat_template");
  }
  Json context = chat.kwargs;
  context["messages"] = chat.messages;
  context["add_generation_prompt"] = chat.add_generation_prompt;
  context["bos_token"] = model.bos_text;
  context["eos_token"] = model.eos_text;
  context["tools"] = chat.tools;
  context["documents"] = chat.documents;
  auto rendered = model.chat_template->Render(context, now_unix);
  if (!rendered.ok()) {
    // Also of a budget: the same messages would go over it again, so it is no 429.
    const absl::Status wrong = absl::InvalidArgumentError(rendered.status().message());
    return WithParam(Annotate(wrong, "the chat template"), "messages");
  }
  if (!chat.continue_final_message) return *std::move(rendered);
  // The last message is left open: nothing after its content.
  const std::string last = chat.messages.back()["content"].get<std::string>();
  const std::string_view content = Stripped(last);
  const size_t place = rendered->rfind(content);
  if (content.empty() || place == std::string::npos) {
    return InvalidField("continue_final_message",
                        "needs a final message that the template prints as it is");
  }
  const bool whole = std::string_view(*rendered).substr(place).starts_with(
      std::string_view(last).substr(last.find(content)));
  rendered->resize(place + (whole ? last.size() - last.find(content) : content.size()));
  return *std::move(rendered);
}

absl::StatusOr<PreparedGeneration> PrepareGeneration(Endpoint endpoint, std::string_view body,
                                                     const ServedModels& models, int64_t now_unix) {
  PAGODA_ASSIGN_OR_RETURN(const Json json, ParseJson(body));
  PreparedGeneration prepared;
  PAGODA_ASSIGN_OR_RETURN(prepared.input, ReadGenerationInput(endpoint, json));
  const GenerationInput& input = prepared.input;
  PAGODA_ASSIGN_OR_RETURN(const ServedModel* model, models.Find(input.model));
  PAGODA_ASSIGN_OR_RETURN(std::vector<std::vector<TokenId>> prompts,
                          Tokenize(input, *model, now_unix));
  for (std::vector<TokenId>& prompt : prompts) {
    if (input.echo) {
      const size_t index = prepared.requests.size();
      const bool as_given = !input.prompts[index].is_tokens && !input.truncate_prompt_tokens;
      prepared.prompt_texts.push_back(
          as_given ? input.prompts[index].text
                   : model->text->tokenizer->Decode(prompt, /*skip_special=*/false));
    }
    PAGODA_ASSIGN_OR_RETURN(
        GenerationRequest request,
        Settle({.fields = input.fields,
                .model = *model,
                .prompt = std::move(prompt),
                .default_max_tokens =
                    endpoint == Endpoint::kCompletions ? kDefaultCompletionTokens : 0,
                .prompts = static_cast<int>(prompts.size())}));
    prepared.requests.push_back(std::move(request));
  }
  return prepared;
}

absl::StatusOr<PreparedTokenize> PrepareTokenize(std::string_view body, const ServedModels& models,
                                                 int64_t now_unix) {
  PAGODA_ASSIGN_OR_RETURN(const Json json, ParseJson(body));
  if (!json.is_object()) return absl::InvalidArgumentError("the body must be a JSON object");
  Fields in(json);
  const bool chat = in.Find("messages") != nullptr;
  const std::string name = in.String("model");
  const text::Tokenizer::EncodeOptions options{
      .add_special_tokens = in.Bool("add_special_tokens", !chat), .parse_special_tokens = true};
  PreparedTokenize prepared;
  prepared.want_texts = in.Bool("return_token_strs", false);
  std::string text = chat ? "" : in.String("prompt");
  if (!in.status().ok()) return in.status();
  if (!chat && in.Find("prompt") == nullptr)
    return InvalidField("prompt", "or messages is required");
  PAGODA_ASSIGN_OR_RETURN(const ServedModel* model, models.Find(name));
  if (chat) {
    PAGODA_ASSIGN_OR_RETURN(const ChatInput input, ReadChatInput(json));
    PAGODA_ASSIGN_OR_RETURN(text, RenderChat(input, *model->text, now_unix));
  }
  prepared.tokens = model->text->tokenizer->Encode(text, options);
  prepared.max_model_len = model->max_model_len;
  if (prepared.want_texts) {
    for (TokenId token : prepared.tokens)
      prepared.token_texts.emplace_back(model->text->tokenizer->TokenText(token));
  }
  return prepared;
}

absl::StatusOr<std::string> DecodeTokens(const text::Tokenizer& tokenizer,
                                         const std::vector<int64_t>& ids) {
  std::vector<TokenId> tokens;
  tokens.reserve(ids.size());
  for (int64_t id : ids) {
    if (id < 0 || id >= tokenizer.vocabulary_size()) {
      return InvalidField("tokens", absl::StrCat("has token id ", id, ", which is not in 0..",
                                                 tokenizer.vocabulary_size() - 1));
    }
    tokens.push_back(static_cast<TokenId>(id));
  }
  return tokenizer.Decode(tokens, /*skip_special=*/false);
}

absl::StatusOr<std::string> PrepareDetokenize(std::string_view body, const ServedModels& models) {
  PAGODA_ASSIGN_OR_RETURN(const Json json, ParseJson(body));
  if (!json.is_object()) return absl::InvalidArgumentError("the body must be a JSON object");
  Fields in(json);
  const std::string name = in.String("model");
  const std::vector<int64_t> ids =
      in.IntegerList("tokens", static_cast<size_t>(limits::kMaxPromptTokens));
  if (!in.status().ok()) return in.status();
  if (in.Find("tokens") == nullptr) return InvalidField("tokens", "is required");
  PAGODA_ASSIGN_OR_RETURN(const ServedModel* model, models.Find(name));
  return DecodeTokens(*model->text->tokenizer, ids);
}

}  // namespace pagoda::router::openai
