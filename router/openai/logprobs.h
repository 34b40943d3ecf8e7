// Log-probabilities in the three shapes that clients know: chat, completions, vLLM's
// prompt_logprobs. Pure.
#pragma once

#include <span>
#include <string>

#include "router/generation.h"

namespace pagoda::router::openai {

struct LogprobStyle {
  const text::Tokenizer& tokenizer;
  bool as_token_ids =
      false;    // return_tokens_as_token_ids: "token_id:N" in place of the token's text
  int top = 0;  // alternatives per position
};

// One token as clients read it; may replace what is not whole UTF-8.
std::string TokenLabel(const LogprobStyle& style, TokenId token);

// {"content":[{"token","logprob","bytes","top_logprobs"}...],"refusal":null}
void AppendChatLogprobs(std::string& out, const LogprobStyle& style,
                        std::span<const PositionLogprobs> positions);

// {"text_offset":[],"token_logprobs":[],"tokens":[],"top_logprobs":[]}. `text_offset` is where the
// first token's text begins, in characters; it is moved on. An empty position (the first of a
// prompt) has no logprob; `tokens` gives its id.
void AppendCompletionLogprobs(std::string& out, const LogprobStyle& style,
                              std::span<const TokenId> tokens,
                              std::span<const PositionLogprobs> positions, int64_t& text_offset);

// How many characters the tokens' texts have, as text_offset counts them.
int64_t CodePointsOf(const LogprobStyle& style, std::span<const TokenId> tokens);

// [null,{"<id>":{"logprob","rank","decoded_token"}...}...]
void AppendPromptLogprobs(std::string& out, const LogprobStyle& style,
                          std::span<const PositionLogprobs> positions);

}  // namespace pagoda::router::openai
