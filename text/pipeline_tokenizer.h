// The one Tokenizer: added tokens, then normalisation, then words, then a word model. What differs between GPT-2's
// family and SentencePiece's, GGUF and tokenizer.json, is only which parts it is put together from.
#pragma once

#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "text/added_tokens.h"
#include "text/bpe_model.h"
#include "text/pretokenizer.h"
#include "text/regex.h"
#include "text/tokenizer.h"

namespace pagoda::text {

struct NfcStep {};
struct PrependStep {
  std::string text;
};
struct ReplaceStep {
  std::string from;                      // used when pattern is null
  std::shared_ptr<const Regex> pattern;
  std::string to;
};
struct LowercaseStep {};
using NormalizerStep = std::variant<NfcStep, PrependStep, ReplaceStep, LowercaseStep>;

// One token of a vocabulary: how it is spelled, and what it stands for.
struct Token {
  std::string text;
  std::string bytes;
  bool special = false;
};

struct TokenizerParts {
  std::vector<Token> tokens;
  std::unique_ptr<TextIndex> index;  // stable address: the model points to it
  std::unique_ptr<WordModel> model;
  std::vector<AddedToken> added;
  std::vector<NormalizerStep> normalizer;
  std::vector<PretokenizerStep> pretokenizer;
  bool pieces_in_alphabet = false;  // an AlphabetStep ran: pieces go back to bytes before the model
  // "▁" is prepended to the first text and to text after a special token only (llama.cpp), never to a normalised added token.
  bool prefix_after_special_only = false;
  std::vector<TokenId> prefix;  // BOS
  std::vector<TokenId> suffix;  // EOS
  TokenId bos = -1;
  std::vector<TokenId> end_of_generation;
  bool strips_leading_space = false;
  // Byte tokens are shown as SentencePiece shows them: a space stays where it is, and bad ones are U+FFFD each.
  bool sentencepiece_bytes = false;
};

class PipelineTokenizer : public Tokenizer {
 public:
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Build(TokenizerParts parts);

  std::vector<TokenId> Encode(std::string_view text, EncodeOptions options) const override;
  std::string_view TokenBytes(TokenId token) const override;
  std::string_view TokenText(TokenId token) const override;
  bool IsSpecial(TokenId token) const override;
  bool StripsLeadingSpace(TokenId first) const override;
  bool ReplacesEachByte() const override { return parts_.sentencepiece_bytes; }
  int vocabulary_size() const override { return static_cast<int>(parts_.tokens.size()); }
  TokenId bos() const override { return parts_.bos; }
  const std::vector<TokenId>& end_of_generation() const override {
    return parts_.end_of_generation;
  }

 private:
  PipelineTokenizer(TokenizerParts parts, AddedTokenMatcher raw, AddedTokenMatcher normalized);
  bool Known(TokenId token) const {
    return token >= 0 && static_cast<size_t>(token) < parts_.tokens.size();
  }
  // Text between raw added tokens: normalise, match the normalised added tokens, encode what is left.
  void EncodeText(std::string_view text, bool at_start, bool after_special, bool with_special,
                  std::vector<TokenId>* out) const;
  void EncodeWords(std::string text, bool at_start, std::vector<TokenId>* out) const;

  const TokenizerParts parts_;
  const AddedTokenMatcher raw_;
  const AddedTokenMatcher normalized_;
  const Pretokenizer pretokenizer_;
};

// Ends of an answer by their well-known spellings, added to what the files say; and those marked special.
// Source: llama.cpp, llama-vocab.cpp (special_eog_ids).
void AddWellKnownEnds(std::vector<Token>* tokens, std::vector<TokenId>* ends);

}  // namespace pagoda::text
