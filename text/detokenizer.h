// Turns a stream of tokens into text as it comes: never half a character, stop strings found across token borders, text
// that may still become a stop string held back. One per choice of a request; owned by one thread.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "text/tokenizer.h"

namespace pagoda::text {

struct DetokenizerOptions {
  bool skip_special_tokens = true;
  std::vector<std::string> stop;
  bool include_stop_in_output = false;
  int min_tokens = 0;  // stop strings are ignored until that many tokens were added
};

class Detokenizer {
 public:
  Detokenizer(const Tokenizer& tokenizer, DetokenizerOptions options);

  struct Output {
    std::string text;                        // may be shown now; whole UTF-8 characters
    std::optional<std::string> stop_string;  // which one ended the text; add no more tokens
  };
  Output Add(TokenId token);
  // The rest, when the stream ended for another reason: held-back text, and U+FFFD for a character that never became whole.
  std::string Finish();
  // All text shown so far.
  const std::string& shown() const { return shown_; }

 private:
  Output Release(bool flush);

  const Tokenizer& tokenizer_;
  const DetokenizerOptions options_;
  size_t longest_stop_ = 0;
  int tokens_ = 0;
  bool first_ = true;
  std::string pending_;  // bytes not yet shown
  std::string shown_;
};

}  // namespace pagoda::text
