// A pre-tokenizer's pattern, compiled once. PCRE2 with UTF, UCP and JIT; \s, \S, \d and \p{..} are rewritten to what
// Unicode 16 and the Oniguruma engine of the reference tokenizers mean by them (PCRE2 10.42 knows Unicode 14, and its
// \s takes U+180E). Immutable; matching is done by RegexMatcher, one per thread and use.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

#include "common/status.h"

namespace pagoda::text {

class Regex {
 public:
  // kInvalidArgument with the position in the pattern.
  static absl::StatusOr<std::shared_ptr<const Regex>> Compile(std::string_view pattern);
  ~Regex();
  Regex(const Regex&) = delete;
  Regex& operator=(const Regex&) = delete;

 private:
  friend class RegexMatcher;
  explicit Regex(void* code) : code_(code) {}
  void* code_;
};

class RegexMatcher {
 public:
  explicit RegexMatcher(const Regex& regex);
  ~RegexMatcher();
  RegexMatcher(RegexMatcher&& other) noexcept;
  RegexMatcher& operator=(RegexMatcher&&) = delete;

  struct Match {
    bool found = false;
    size_t begin = 0;
    size_t end = 0;
  };
  // First match at or after `start`; lookbehind sees the text before it. `subject` is valid UTF-8. A pattern that
  // would take more than its match limits finds nothing.
  Match Find(std::string_view subject, size_t start);

 private:
  const void* code_;
  void* data_;
  void* context_;
};

// The text that matches `text` and nothing else.
std::string EscapeRegex(std::string_view text);
// What Compile gives to PCRE2; for tests.
std::string TranslateRegex(std::string_view pattern);

}  // namespace pagoda::text
