// Byte-pair merging over token ids: repeatedly joins the neighbours of the best rank. Two kinds of ranks: a list of
// merges (GPT-2, Llama 3, Qwen, ...) or the scores of a SentencePiece vocabulary. Immutable after construction.
// Takes O(n log n) for a word of n symbols.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "common/ids.h"

namespace pagoda::text {

// Joins pairs of ids; lower ranks first, then from the left.
class MergeTable {
 public:
  void Reserve(size_t merges) { merges_.reserve(merges); }
  // A second merge of the same pair takes the first one's place, as in the reference.
  void Add(TokenId left, TokenId right, uint32_t rank, TokenId result);
  // Joins `symbols` in place; its size shrinks.
  void Apply(std::vector<TokenId>* symbols) const;

 private:
  struct Merge {
    uint32_t rank;
    TokenId result;
  };
  const Merge* Find(TokenId left, TokenId right) const;
  void ApplyShort(std::vector<TokenId>* symbols) const;
  void ApplyLong(std::vector<TokenId>* symbols) const;

  absl::flat_hash_map<uint64_t, Merge> merges_;
};

}  // namespace pagoda::text
