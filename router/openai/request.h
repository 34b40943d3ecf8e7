// What an OpenAI request (with vLLM's extra fields) asks for, as plain data, and how it is read
// from JSON. Pure. Unknown fields are ignored; known ones that ask for what is not there are
// refused, never silently dropped.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "router/generation.h"
#include "router/openai/json_input.h"

namespace pagoda::router::openai {

enum class Endpoint { kCompletions, kChat };

struct Prompt {
  std::string text = {};             // when there are no tokens
  std::vector<TokenId> tokens = {};  // ids as given; range is checked against the vocabulary later
  bool is_tokens = false;
};

// The messages of a chat and what its template is given besides.
struct ChatInput {
  Json messages;                 // contents are strings
  Json tools;                    // null: none
  Json documents;                // null: none
  Json kwargs = Json::object();  // chat_template_kwargs, checked
  bool add_generation_prompt = true;
  bool continue_final_message = false;
};

struct GenerationInput {
  Endpoint endpoint = Endpoint::kCompletions;
  std::string model;
  GenerationFields fields;
  std::vector<Prompt> prompts;  // completions
  ChatInput chat;
  bool stream = false;
  bool include_usage = false;
  bool continuous_usage = false;
  bool add_special_tokens = true;
  std::optional<int64_t> truncate_prompt_tokens;
  bool echo = false;
  bool echo_only =
      false;  // max_tokens 0 with echo: the prompt (and its logprobs) is all that is wanted
  bool return_token_ids = false;
  bool return_tokens_as_token_ids = false;
  std::string request_id;
};

absl::StatusOr<GenerationInput> ReadGenerationInput(Endpoint endpoint, const Json& body);

// A role becomes part of the prompt, often unescaped: a word of at most 64 letters, digits, _ and -, whoever says it. And how many
// messages a chat may have.
bool IsRole(std::string_view name);
absl::Status CheckMessageCount(size_t messages);

// Of /tokenize: a prompt or messages. Checks the messages and flattens their contents.
absl::StatusOr<ChatInput> ReadChatInput(const Json& body);

}  // namespace pagoda::router::openai
