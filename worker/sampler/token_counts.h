// How often each token occurs in a sequence: what the penalties read. Kept up to date token by token.
// Plain data; the owner synchronises.
#pragma once

#include <span>

#include "absl/container/flat_hash_map.h"
#include "common/ids.h"

namespace pagoda::worker {

class TokenCounts {
 public:
  struct Entry {
    bool in_prompt = false;
    int output = 0;
  };

  TokenCounts() = default;
  TokenCounts(std::span<const TokenId> tokens, int prompt_length) {
    for (size_t i = 0; i < tokens.size(); ++i) Add(tokens[i], static_cast<int>(i) < prompt_length);
  }
  void Add(TokenId token, bool prompt) {
    Entry& entry = entries_[token];
    if (prompt) {
      entry.in_prompt = true;
    } else {
      ++entry.output;
    }
  }
  const absl::flat_hash_map<TokenId, Entry>& entries() const { return entries_; }

 private:
  absl::flat_hash_map<TokenId, Entry> entries_;
};

}  // namespace pagoda::worker
