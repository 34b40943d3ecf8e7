// Cuts text into the words that merging never crosses. A chain of steps, each refining the pieces of the one before.
// Immutable after construction; Run may be called from any thread.
// Source: tokenizers, pre_tokenizers/*.rs.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "text/regex.h"

namespace pagoda::text {

// What becomes of the matches of a split.
enum class SplitBehavior : uint8_t {
  kIsolated,
  kRemoved,
  kMergedWithPrevious,
  kMergedWithNext,
  kContiguous,  // neighbouring matches make one piece
};

struct SplitStep {
  std::shared_ptr<const Regex> pattern;
  SplitBehavior behavior = SplitBehavior::kIsolated;
  bool invert = false;  // the text between the matches counts as matched
};
struct DigitsStep {
  bool individual = false;
};
struct PunctuationStep {
  SplitBehavior behavior = SplitBehavior::kIsolated;
};
// A space before the first piece that has none.
struct PrefixSpaceStep {};
// From here on the text is in GPT-2's alphabet (only when later steps look at it; else words stay bytes).
struct AlphabetStep {};
struct MetaspaceStep {
  enum class Prepend : uint8_t { kAlways, kFirst, kNever };
  std::string replacement = "\xE2\x96\x81";
  Prepend prepend = Prepend::kAlways;
  bool split = true;
};
using PretokenizerStep = std::variant<SplitStep, DigitsStep, PunctuationStep, PrefixSpaceStep,
                                      AlphabetStep, MetaspaceStep>;

// The text, as the steps have rewritten it, and where its pieces lie.
struct Pieces {
  std::string text;
  std::vector<std::pair<size_t, size_t>> ranges;  // begin, end; never empty
};

class Pretokenizer {
 public:
  explicit Pretokenizer(std::vector<PretokenizerStep> steps) : steps_(std::move(steps)) {}
  // `at_start`: this text begins the whole input.
  Pieces Run(std::string text, bool at_start) const;

 private:
  std::vector<PretokenizerStep> steps_;
};

}  // namespace pagoda::text
