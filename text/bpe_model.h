// From a piece of text to token ids: whole-word look-up, first symbols (bytes or characters), merges. Also the vocabulary
// of a SentencePiece model by scores. Immutable after construction; any thread.
// Sources: tokenizers, models/bpe/model.rs; llama.cpp, llm_tokenizer_spm (the order of joins for scores).
#pragma once

#include <array>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "common/ids.h"
#include "text/bpe.h"

namespace pagoda::text {

class WordModel {
 public:
  virtual ~WordModel() = default;
  // Appends the tokens of `piece` (never empty).
  virtual void Encode(std::string_view piece, std::vector<TokenId>* out) const = 0;
};

// The ids of spellings; views point into the owner's strings.
using TextIndex = absl::flat_hash_map<std::string_view, TokenId>;

struct BpeModelOptions {
  bool byte_level = true;      // first symbols are bytes; else characters
  bool ignore_merges = false;  // a piece that is a token is that token, whatever the merges say
  bool byte_fallback = false;  // an unknown character becomes its bytes' tokens "<0x0A>"
  bool fuse_unknown = false;   // neighbouring unknown characters are one unknown token
  TokenId unknown = -1;        // -1: unknown characters vanish
};

class BpeModel : public WordModel {
 public:
  // `index` maps what pieces are made of (raw bytes when byte_level) to ids and outlives this. `byte_tokens[b]` is the
  // token of byte b: its alphabet character when byte_level, "<0x..>" otherwise; -1: none.
  BpeModel(BpeModelOptions options, const TextIndex* index, std::array<TokenId, 256> byte_tokens,
           MergeTable merges);
  void Encode(std::string_view piece, std::vector<TokenId>* out) const override;

 private:
  void Merge(std::string_view piece, std::vector<TokenId>* symbols) const;
  void FirstCharacters(std::string_view piece, std::vector<TokenId>* symbols) const;

  const BpeModelOptions options_;
  const TextIndex* index_;
  const std::array<TokenId, 256> byte_tokens_;
  const MergeTable merges_;
  TextIndex whole_words_;  // pieces known to end as one token
  size_t longest_ = 0;     // bytes of the longest of them
};

// SentencePiece by scores: joins the neighbours whose joint token scores best.
class ScoreModel : public WordModel {
 public:
  ScoreModel(const TextIndex* index, std::vector<float> scores, std::array<TokenId, 256> byte_tokens,
             TokenId unknown);
  void Encode(std::string_view piece, std::vector<TokenId>* out) const override;

 private:
  TokenId Find(std::string_view text) const;

  const TextIndex* index_;
  const std::vector<float> scores_;
  const std::array<TokenId, 256> byte_tokens_;
  const TokenId unknown_;
  size_t longest_ = 0;
};

}  // namespace pagoda::text
