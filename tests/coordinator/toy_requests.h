// Requests for the toy pipeline, and what it answers when nothing disturbs it.
#pragma once

#include <random>
#include <vector>

#include "tests/coordinator/toy_pipeline.h"

namespace pagoda::coordinator::testing {

inline constexpr int kVocabulary = 1000;

inline std::vector<TokenId> Prompt(uint64_t seed, int length) {
  std::vector<TokenId> prompt;
  std::mt19937_64 random(seed);
  for (int i = 0; i < length; ++i) prompt.push_back(static_cast<TokenId>(random() % kVocabulary));
  return prompt;
}

// Request {1, id} of router 1, one choice, its seed the id.
inline Request MakeRequest(uint64_t id, const std::vector<TokenId>& prompt, int max_tokens) {
  Request request;
  request.id = {1, id};
  request.router = RouterId(1);
  request.attempt = 1;
  request.prompt = prompt;
  request.choices.resize(1);
  request.sampling.max_tokens = max_tokens;
  request.sampling.seed = id;
  return request;
}

inline std::vector<TokenId> Undisturbed(const Request& request) {
  std::vector<TokenId> history = request.prompt;
  std::vector<TokenId> tokens;
  for (int i = 0; i < request.sampling.max_tokens; ++i) {
    tokens.push_back(ToyToken(history, request.sampling.seed, 0, i, kVocabulary, false));
    history.push_back(tokens.back());
  }
  return tokens;
}

}  // namespace pagoda::coordinator::testing
