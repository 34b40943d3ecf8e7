// From the bytes of a request to what can be submitted: JSON, template, tokens, settled values.
// Pure but for the clock of strftime_now; any thread (long inputs go to the pool).
#pragma once

#include <memory>

#include "router/model_registry.h"
#include "router/openai/request.h"

namespace pagoda::router::openai {

struct PreparedGeneration {
  GenerationInput input;
  std::vector<GenerationRequest> requests;  // one per prompt; ids and times not filled in
  std::vector<std::string> prompt_texts;    // for echo only
};
absl::StatusOr<PreparedGeneration> PrepareGeneration(Endpoint endpoint, std::string_view body,
                                                     const ServedModels& models, int64_t now_unix);

// The prompt of a chat, rendered. Used by gRPC too.
absl::StatusOr<std::string> RenderChat(const ChatInput& chat, const text::TextModel& model,
                                       int64_t now_unix);

struct PreparedTokenize {
  std::vector<TokenId> tokens;
  int64_t max_model_len = 0;
  std::vector<std::string> token_texts;  // when asked for
  bool want_texts = false;
};
absl::StatusOr<PreparedTokenize> PrepareTokenize(std::string_view body, const ServedModels& models,
                                                 int64_t now_unix);
absl::StatusOr<std::string> PrepareDetokenize(std::string_view body, const ServedModels& models);

// The tokens as text, each id checked against the vocabulary.
absl::StatusOr<std::string> DecodeTokens(const text::Tokenizer& tokenizer,
                                         const std::vector<int64_t>& ids);

}  // namespace pagoda::router::openai
