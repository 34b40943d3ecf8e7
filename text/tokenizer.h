// Text to token ids and back. Immutable after construction; every method may be called from any thread.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/ids.h"

namespace pagoda::text {

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  struct EncodeOptions {
    bool add_special_tokens = true;    // BOS (and EOS) where the model's own settings say so
    bool parse_special_tokens = true;  // "<|im_end|>" in the text is one token, not its letters
  };
  // `text` is UTF-8; invalid bytes are encoded as U+FFFD is. Takes O(n log n).
  virtual std::vector<TokenId> Encode(std::string_view text, EncodeOptions options) const = 0;

  // The bytes that one token stands for; may be part of a character. Empty for special tokens when `skip_special`.
  // A leading space of the first token (SentencePiece) is Detokenizer's business.
  virtual std::string_view TokenBytes(TokenId token) const = 0;
  // The token as the vocabulary spells it ("Ġhello", "▁hello").
  virtual std::string_view TokenText(TokenId token) const = 0;
  virtual bool IsSpecial(TokenId token) const = 0;
  // A SentencePiece vocabulary writes "▁" at the start of a text, which decoding drops again. True when `first`, the first
  // token of a text, loses a leading space.
  virtual bool StripsLeadingSpace(TokenId first) const = 0;
  // SentencePiece shows each byte that makes no character as U+FFFD; elsewhere each beginning of a character is one.
  virtual bool ReplacesEachByte() const { return false; }

  virtual int vocabulary_size() const = 0;
  virtual TokenId bos() const = 0;  // -1: none
  virtual const std::vector<TokenId>& end_of_generation() const = 0;  // EOS, EOT, ...: tokens that end an answer

  std::string Decode(std::span<const TokenId> tokens, bool skip_special) const;
};

}  // namespace pagoda::text
