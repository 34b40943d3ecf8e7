// Finds the tokens of a vocabulary that are matched in the text before anything else looks at it ("<|im_end|>").
// Leftmost first, then longest. Immutable; any thread.
// Source: tokenizers, added_vocabulary.rs (what lstrip, rstrip and single_word mean).
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/ids.h"
#include "common/status.h"

namespace pagoda::text {

struct AddedToken {
  std::string content;
  TokenId id = -1;
  bool special = false;
  bool lstrip = false;       // takes the white space before it
  bool rstrip = false;       // takes the white space after it
  bool single_word = false;  // only where no word character touches it
  bool normalized = false;   // matched in the normalised text
};

class AddedTokenMatcher {
 public:
  // kInvalidArgument for an empty token or one of more than 512 bytes: a search takes text x longest token at worst.
  static absl::StatusOr<AddedTokenMatcher> Build(std::vector<AddedToken> tokens);

  struct Segment {
    size_t begin = 0;
    size_t end = 0;
    TokenId id = -1;  // -1: text between added tokens
  };
  // Cuts `text` into segments without gaps; `with_special` false leaves special tokens in the text as letters.
  void Split(std::string_view text, bool with_special, std::vector<Segment>* out) const;
  bool empty() const { return tokens_.empty(); }

 private:
  struct Node {
    std::vector<std::pair<unsigned char, int32_t>> children;  // sorted by byte
    int32_t token = -1;                                       // index into tokens_
  };
  // The longest token that begins at `position`: its index, and where it ends. -1: none.
  int32_t LongestAt(std::string_view text, size_t position, size_t* end) const;

  std::vector<AddedToken> tokens_;
  std::vector<Node> nodes_{1};
  std::array<bool, 256> starts_{};
};

}  // namespace pagoda::text
