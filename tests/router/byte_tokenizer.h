// A tokenizer for tests: token N is the byte N; 256 is the end token and special.
#pragma once

#include <array>
#include <memory>
#include <string>

#include "text/text_bundle.h"

namespace pagoda::router {

class ByteTokenizer : public text::Tokenizer {
 public:
  static constexpr TokenId kEnd = 256;

  std::vector<TokenId> Encode(std::string_view text, EncodeOptions) const override {
    std::vector<TokenId> tokens;
    for (unsigned char byte : text) tokens.push_back(byte);
    return tokens;
  }
  std::string_view TokenBytes(TokenId token) const override {
    static const std::array<std::array<char, 1>, 256> kBytes = [] {
      std::array<std::array<char, 1>, 256> bytes;
      for (int i = 0; i < 256; ++i) bytes[i][0] = static_cast<char>(i);
      return bytes;
    }();
    return token < 256 ? std::string_view(kBytes[token].data(), 1) : "</s>";
  }
  std::string_view TokenText(TokenId token) const override { return TokenBytes(token); }
  bool IsSpecial(TokenId token) const override { return token == kEnd; }
  bool StripsLeadingSpace(TokenId) const override { return false; }
  int vocabulary_size() const override { return 257; }
  TokenId bos() const override { return -1; }
  const std::vector<TokenId>& end_of_generation() const override {
    static const std::vector<TokenId> kEnds = {kEnd};
    return kEnds;
  }
};

inline std::shared_ptr<const text::TextModel> ByteTextModel() {
  auto model = std::make_shared<text::TextModel>();
  model->tokenizer = std::make_unique<ByteTokenizer>();
  return model;
}

}  // namespace pagoda::router
