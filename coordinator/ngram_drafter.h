// Guesses what a sequence says next from what it said before (prompt lookup): the longest recent tokens are looked for earlier
// in the sequence, and what followed them there is the guess. Every token that comes is held against the guess that there was
// for it, drafted or not, so that how often guesses come true is known of each sequence before anything is spent on them.
// Plain data and pure functions; the owner synchronises.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "common/ids.h"

namespace pagoda::coordinator {

class NgramDrafter {
 public:
  // `tokens`: all that is known of the sequence. Between two calls it only grows.
  void Observe(std::span<const TokenId> tokens);

  // There is a guess for the next token.
  bool has_guess() const { return cursor_ >= 0; }
  // How likely guess number `ahead` (0: the next token's) is to be right if those before it are.
  double HitRate(int ahead) const;
  // The next `count` guesses. Requires has_guess() and the tokens of the last Observe.
  std::vector<TokenId> Guess(std::span<const TokenId> tokens, int count) const;

 private:
  static constexpr int kGram = 3;       // tokens that must have occurred before
  static constexpr int kLongMatch = 32;  // longer ones are not told apart
  struct Rate {
    double hits = 0;
    double trials = 0;
  };
  static size_t BucketOf(int match);
  void Lookup(std::span<const TokenId> tokens);

  int seen_ = 0;
  int cursor_ = -1;  // position whose token is the guess for the next one
  int match_ = 0;    // tokens before the cursor that equal the sequence's last
  absl::flat_hash_map<uint64_t, int> next_of_;  // hash of kGram tokens -> the position after their latest occurrence
  // Starts as if a few guesses had been seen: short matches come true less often than long ones.
  std::array<Rate, 3> rates_{Rate{2, 4}, Rate{3, 4}, Rate{3.6, 4}};
};

}  // namespace pagoda::coordinator
