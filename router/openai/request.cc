#include "router/openai/request.h"

#include <algorithm>
#include <array>

#include "absl/strings/numbers.h"
#include "common/limits.h"
#include "router/request_status.h"
#include "router/settle.h"

namespace pagoda::router::openai {
namespace {

constexpr size_t kMaxMessages = 4096;
constexpr size_t kMaxTools = 128;
constexpr char kPromptKinds[] =
    "must be a string, a list of strings, token ids, or a list of lists of token ids";

absl::StatusOr<std::vector<TokenId>> TokensOf(const Json& list) {
  if (list.size() > static_cast<size_t>(limits::kMaxPromptTokens)) {
    return InvalidField("prompt", absl::StrCat("has ", list.size(), " tokens; the limit is ",
                                               limits::kMaxPromptTokens));
  }
  std::vector<TokenId> tokens;
  tokens.reserve(list.size());
  for (const Json& entry : list) {
    const auto id = entry.is_number_integer() ? IntegerOf(entry) : std::nullopt;
    if (!id || *id < 0 || *id >= limits::kMaxVocabulary) {
      return InvalidField("prompt", kPromptKinds);
    }
    tokens.push_back(static_cast<TokenId>(*id));
  }
  return tokens;
}

absl::StatusOr<std::vector<Prompt>> ReadPrompts(const Json* prompt) {
  if (prompt == nullptr) return InvalidField("prompt", "is required");
  std::vector<Prompt> prompts;
  if (prompt->is_string()) {
    prompts.push_back({.text = prompt->get<std::string>()});
    return prompts;
  }
  if (!prompt->is_array() || prompt->empty()) {
    return InvalidField("prompt", kPromptKinds);
  }
  if (prompt->front().is_number()) {
    PAGODA_ASSIGN_OR_RETURN(std::vector<TokenId> tokens, TokensOf(*prompt));
    prompts.push_back({.tokens = std::move(tokens), .is_tokens = true});
    return prompts;
  }
  if (prompt->size() > static_cast<size_t>(limits::kMaxPromptsPerRequest)) {
    return InvalidField("prompt", absl::StrCat("has ", prompt->size(), " entries; the limit is ",
                                               limits::kMaxPromptsPerRequest));
  }
  const bool texts = prompt->front().is_string();
  for (const Json& entry : *prompt) {
    // One kind throughout: the first entry's.
    if (texts ? !entry.is_string() : !entry.is_array()) return InvalidField("prompt", kPromptKinds);
    if (texts) {
      prompts.push_back({.text = entry.get<std::string>()});
    } else {
      PAGODA_ASSIGN_OR_RETURN(std::vector<TokenId> tokens, TokensOf(entry));
      prompts.push_back({.tokens = std::move(tokens), .is_tokens = true});
    }
  }
  return prompts;
}

// Strings stay; lists of text parts are joined by line ends, as vLLM does for templates that take
// strings.
absl::Status FlattenContent(Json& message) {
  const auto content = message.find("content");
  if (content == message.end()) {
    message["content"] = "";
    return absl::OkStatus();
  }
  if (content->is_null()) *content = "";
  if (content->is_string()) return absl::OkStatus();
  if (!content->is_array())
    return InvalidField("messages", "has a content that is neither a string nor a list of parts");
  std::string text;
  bool first = true;
  for (const Json& part : *content) {
    const bool is_text = part.is_object() && part.contains("text") && part["text"].is_string() &&
                         (!part.contains("type") || part["type"] == "text");
    if (!part.is_string() && !is_text) {
      return InvalidField("messages",
                          "has a content part that is not text; this server takes text only");
    }
    if (!first) text += "\n";
    text += part.is_string() ? part.get<std::string>() : part["text"].get<std::string>();
    first = false;
  }
  *content = std::move(text);
  return absl::OkStatus();
}

// Templates read a call's arguments as an object; clients send them as a JSON text.
absl::Status OpenToolCalls(Json& message) {
  const auto calls = message.find("tool_calls");
  if (calls == message.end() || calls->is_null()) return absl::OkStatus();
  if (!calls->is_array() || calls->size() > kMaxTools) {
    return InvalidField("messages",
                        absl::StrCat("has tool_calls that are not a list of at most ", kMaxTools));
  }
  for (Json& call : *calls) {
    const bool valid =
        call.is_object() && call.contains("function") && call["function"].is_object();
    if (!valid) return InvalidField("messages", "has a tool call without a function");
    Json& function = call["function"];
    if (!function.contains("arguments") || !function["arguments"].is_string()) continue;
    auto arguments = ParseJson(function["arguments"].get_ref<const std::string&>());
    if (arguments.ok() && arguments->is_object()) function["arguments"] = *std::move(arguments);
  }
  return absl::OkStatus();
}

absl::Status CheckTools(const Json& tools) {
  if (!tools.is_array() || tools.size() > kMaxTools)
    return InvalidField("tools", absl::StrCat("must be a list of at most ", kMaxTools));
  for (const Json& tool : tools) {
    const bool is_function = tool.is_object() && (!tool.contains("type") || tool["type"] == "function") &&
                             tool.contains("function") && tool["function"].is_object();
    if (!is_function)
      return InvalidField("tools", "has an entry that is not {\"type\": \"function\", \"function\": {...}}");
    const Json& function = tool["function"];
    if (!function.contains("name") || !function["name"].is_string() ||
        function["name"].get_ref<const std::string&>().empty())
      return InvalidField("tools", "has a function without a name");
    if (function.contains("parameters") && !function["parameters"].is_object() && !function["parameters"].is_null())
      return InvalidField("tools", "has a function whose parameters are not an object (a JSON schema)");
  }
  return absl::OkStatus();
}

// A token id as a JSON object's key: digits alone, so that no id is there twice.
std::optional<int64_t> TokenIdOfKey(const std::string& key) {
  const bool digits = !key.empty() && key.size() <= 10 && std::ranges::all_of(key, [](unsigned char c) { return std::isdigit(c); });
  int64_t token = 0;
  if (!digits || (key.size() > 1 && key[0] == '0') || !absl::SimpleAtoi(key, &token)) return std::nullopt;
  return token;
}

// Data for the template, and nothing that would take the place of what the server gives it.
absl::Status CheckKwargs(const Json& kwargs) {
  if (!kwargs.is_object()) return InvalidField("chat_template_kwargs", "must be an object");
  if (kwargs.size() > 32) return InvalidField("chat_template_kwargs", "has more than 32 entries");
  constexpr std::array kReserved = {
      "messages",      "tools",          "documents",   "add_generation_prompt",
      "bos_token",     "eos_token",      "tokenize",    "continue_final_message",
      "chat_template", "conversation",   "padding",     "truncation",
      "max_length",    "return_tensors", "return_dict", "tokenizer_kwargs"};
  for (const auto& [name, value] : kwargs.items()) {
    if (std::ranges::count(kReserved, name) > 0) {
      return InvalidField("chat_template_kwargs",
                          absl::StrCat("may not set '", name.substr(0, 64), "'"));
    }
    const bool identifier =
        !name.empty() && name.size() <= 64 &&
        std::ranges::all_of(name, [](unsigned char c) { return std::isalnum(c) || c == '_'; });
    if (!identifier || std::isdigit(static_cast<unsigned char>(name[0]))) {
      return InvalidField("chat_template_kwargs", "has a name that is not an identifier");
    }
  }
  return absl::OkStatus();
}

void ReadSampling(Fields& in, GenerationFields& out) {
  out.temperature = in.Real("temperature");
  out.top_p = in.Real("top_p");
  out.top_k = in.Integer("top_k");
  out.min_p = in.Real("min_p");
  out.typical_p = in.Real("typical_p");
  out.repetition_penalty = in.Real("repetition_penalty");
  out.presence_penalty = in.Real("presence_penalty");
  out.frequency_penalty = in.Real("frequency_penalty");
  out.no_repeat_ngram_size = in.Integer("no_repeat_ngram_size");
  out.seed = in.Integer("seed");
  out.n = in.Integer("n");
  out.min_tokens = in.Integer("min_tokens");
  out.priority = in.Integer("priority");
  out.stop = in.StringOrList("stop", limits::kMaxStopStrings);
  out.stop_token_ids = in.IntegerList("stop_token_ids", limits::kMaxStopTokenIds);
  out.allowed_token_ids = in.IntegerList("allowed_token_ids", limits::kMaxVocabulary);
  if (in.Find("allowed_token_ids") != nullptr && out.allowed_token_ids.empty())
    in.Fail("allowed_token_ids", "must not be empty: no token could be chosen");
  out.bad_words = in.StringOrList("bad_words", limits::kMaxBadWords);
  out.ignore_eos = in.Bool("ignore_eos", false);
  out.include_stop_in_output = in.Bool("include_stop_str_in_output", false);
  out.skip_special_tokens = in.Bool("skip_special_tokens", true);
  out.prompt_logprobs = in.Integer("prompt_logprobs");
  out.num_speculative_tokens = in.Integer("num_speculative_tokens");
  out.cache_salt = in.String("cache_salt");
  const Json* salt = in.Find("cache_salt");
  if (salt != nullptr && salt->is_string() && out.cache_salt.empty())
    in.Fail("cache_salt", "must not be empty");
  const Json* bias = in.Find("logit_bias");
  if (bias == nullptr) return;
  if (!bias->is_object())
    return in.Fail("logit_bias", "must be an object of token ids and numbers");
  if (bias->size() > static_cast<size_t>(limits::kMaxLogitBias)) {
    return in.Fail("logit_bias", absl::StrCat("has ", bias->size(), " entries; the limit is ",
                                              limits::kMaxLogitBias));
  }
  for (const auto& [name, value] : bias->items()) {
    const auto token = TokenIdOfKey(name);
    if (!token || !value.is_number())
      return in.Fail("logit_bias", "must be an object of token ids and numbers");
    out.logit_bias.emplace_back(*token, value.get<double>());
  }
}

// Asked for and not there: said aloud instead of ignored.
void RefuseUnsupported(Fields& in) {
  for (const char* name :
       {"structured_outputs", "guided_json", "guided_regex", "guided_choice", "guided_grammar",
        "logits_processors", "kv_transfer_params", "prompt_embeds"}) {
    if (in.Find(name) != nullptr) in.Fail(name, "is not supported by this server");
  }
  const Json* format = in.Find("response_format");
  if (format != nullptr &&
      !(format->is_object() && format->contains("type") && (*format)["type"] == "text")) {
    in.Fail("response_format",
            "must be {\"type\": \"text\"}: other formats are not supported by this server");
  }
  if (in.Bool("use_beam_search", false))
    in.Fail("use_beam_search", "is not supported by this server");
  if (in.Find("chat_template") != nullptr) in.Fail("chat_template", "is not taken from requests");
  const auto best_of = in.Integer("best_of");
  if (best_of && *best_of != in.Integer("n").value_or(1))
    in.Fail("best_of", "other than n is not supported");
  if (!in.String("suffix").empty()) in.Fail("suffix", "is not supported by this server");
}

void ReadStreamOptions(Fields& in, GenerationInput& out) {
  out.stream = in.Bool("stream", false);
  const Json* options = in.Find("stream_options");
  if (options == nullptr) return;
  if (!out.stream) return in.Fail("stream_options", "is allowed with stream only");
  if (!options->is_object()) return in.Fail("stream_options", "must be an object");
  Fields inner(*options);
  out.include_usage = inner.Bool("include_usage", false);
  out.continuous_usage = out.include_usage && inner.Bool("continuous_usage_stats", false);
  if (!inner.status().ok()) in.Fail("stream_options", "has a value that is not true or false");
}

absl::Status ReadCompletions(Fields& in, GenerationInput& out) {
  PAGODA_ASSIGN_OR_RETURN(out.prompts, ReadPrompts(in.Find("prompt")));
  out.echo = in.Bool("echo", false);
  out.fields.logprobs = in.Integer("logprobs");
  out.fields.max_tokens = in.Integer("max_tokens");
  if (out.echo && out.fields.max_tokens == 0) {
    out.echo_only = true;
    out.fields.max_tokens = 1;
  }
  if (out.echo && out.fields.logprobs && !out.fields.prompt_logprobs)
    out.fields.prompt_logprobs = out.fields.logprobs;
  out.add_special_tokens = in.Bool("add_special_tokens", true);
  return in.status();
}

absl::Status ReadChat(Fields& in, const Json& body, GenerationInput& out) {
  PAGODA_ASSIGN_OR_RETURN(out.chat, ReadChatInput(body));
  out.fields.max_tokens = in.Integer("max_completion_tokens");
  const auto max_tokens = in.Integer("max_tokens");
  if (out.fields.max_tokens) out.fields.max_tokens_name = "max_completion_tokens";
  if (!out.fields.max_tokens) out.fields.max_tokens = max_tokens;
  const bool logprobs = in.Bool("logprobs", false);
  const auto top = in.Integer("top_logprobs");
  if (top && *top != 0 && !logprobs) in.Fail("top_logprobs", "needs logprobs to be true");
  if (logprobs) out.fields.logprobs = top.value_or(0);
  if (top) out.fields.logprobs_name = "top_logprobs";
  out.echo = in.Bool("echo", false);
  if (out.echo) in.Fail("echo", "is supported by /v1/completions only");
  out.add_special_tokens = in.Bool("add_special_tokens", false);
  const Json* choice = in.Find("tool_choice");
  if (choice != nullptr && *choice != "none" && *choice != "auto") {
    in.Fail("tool_choice", "other than \"none\" and \"auto\" is not supported by this server yet");
  }
  return in.status();
}

}  // namespace

bool IsRole(std::string_view name) {
  return !name.empty() && name.size() <= 64 &&
         std::ranges::all_of(name, [](unsigned char c) { return std::isalnum(c) || c == '_' || c == '-'; });
}

absl::Status CheckMessageCount(size_t messages) {
  if (messages <= kMaxMessages) return absl::OkStatus();
  return InvalidField("messages", absl::StrCat("has ", messages, " entries; the limit is ", kMaxMessages));
}

absl::StatusOr<ChatInput> ReadChatInput(const Json& body) {
  Fields in(body);
  ChatInput chat;
  const Json* messages = in.Find("messages");
  if (messages == nullptr) return InvalidField("messages", "is required");
  if (!messages->is_array() || messages->empty())
    return InvalidField("messages", "must be a list of at least one message");
  if (absl::Status status = CheckMessageCount(messages->size()); !status.ok()) return status;
  chat.messages = *messages;
  for (Json& message : chat.messages) {
    if (!message.is_object()) return InvalidField("messages", "has an entry that is not an object");
    const auto role = message.find("role");
    if (role == message.end() || !role->is_string() || !IsRole(role->get_ref<const std::string&>())) {
      return InvalidField("messages", "has an entry without a role, which is a word of at most 64 letters, digits, _ and -");
    }
    if (absl::Status status = FlattenContent(message); !status.ok()) return status;
    if (absl::Status status = OpenToolCalls(message); !status.ok()) return status;
  }
  if (const Json* tools = in.Find("tools")) {
    if (absl::Status status = CheckTools(*tools); !status.ok()) return status;
    if (!tools->empty() && !(body.contains("tool_choice") && body["tool_choice"] == "none"))
      chat.tools = *tools;
  }
  if (const Json* documents = in.Find("documents")) {
    if (!documents->is_array() || documents->size() > kMaxMessages) {
      return InvalidField("documents", absl::StrCat("must be a list of at most ", kMaxMessages));
    }
    chat.documents = *documents;
  }
  if (const Json* kwargs = in.Find("chat_template_kwargs")) {
    if (absl::Status status = CheckKwargs(*kwargs); !status.ok()) return status;
    chat.kwargs = *kwargs;
  }
  chat.add_generation_prompt = in.Bool("add_generation_prompt", true);
  chat.continue_final_message = in.Bool("continue_final_message", false);
  if (chat.continue_final_message && chat.add_generation_prompt) {
    if (body.contains("add_generation_prompt") && !body["add_generation_prompt"].is_null()) {
      in.Fail("continue_final_message", "and add_generation_prompt cannot both be true");
    }
    chat.add_generation_prompt = false;
  }
  if (!in.status().ok()) return in.status();
  return chat;
}

absl::StatusOr<GenerationInput> ReadGenerationInput(Endpoint endpoint, const Json& body) {
  if (!body.is_object()) return absl::InvalidArgumentError("the body must be a JSON object");
  Fields in(body);
  GenerationInput out;
  out.endpoint = endpoint;
  out.model = in.String("model");
  ReadSampling(in, out.fields);
  ReadStreamOptions(in, out);
  RefuseUnsupported(in);
  out.return_token_ids = in.Bool("return_token_ids", false);
  out.return_tokens_as_token_ids = in.Bool("return_tokens_as_token_ids", false);
  out.truncate_prompt_tokens = in.Integer("truncate_prompt_tokens");
  if (out.truncate_prompt_tokens &&
      (*out.truncate_prompt_tokens < -1 || *out.truncate_prompt_tokens == 0)) {
    in.Fail("truncate_prompt_tokens", "must be -1 or at least 1");
  }
  out.request_id = in.String("request_id");
  if (out.request_id.size() > limits::kMaxRequestIdBytes) {
    in.Fail("request_id", absl::StrCat("is longer than ", limits::kMaxRequestIdBytes, " bytes"));
  }
  if (std::ranges::any_of(out.request_id, [](unsigned char c) { return c < 0x20 || c == 0x7f; })) {
    in.Fail("request_id", "must not have control characters");
  }
  if (!in.status().ok()) return in.status();
  const absl::Status status =
      endpoint == Endpoint::kChat ? ReadChat(in, body, out) : ReadCompletions(in, out);
  if (!status.ok()) return status;
  if (out.stream && in.Find("prompt_logprobs") != nullptr) {
    if (out.fields.prompt_logprobs != 0) return InvalidField("prompt_logprobs", "is not available with stream");
    out.fields.prompt_logprobs.reset();  // as vLLM has it: nothing is asked for
  }
  if (absl::Status checked = CheckFields(out.fields); !checked.ok()) return checked;
  return out;
}

}  // namespace pagoda::router::openai
