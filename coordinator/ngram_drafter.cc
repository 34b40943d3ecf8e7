#include "coordinator/ngram_drafter.h"

#include <algorithm>

#include "common/status.h"

namespace pagoda::coordinator {
namespace {

constexpr double kForget = 0.97;  // of what was measured, at each new guess: about the last thirty count

uint64_t HashOf(std::span<const TokenId> tokens) {
  uint64_t hash = 0x9e3779b97f4a7c15ULL;
  for (const TokenId token : tokens) hash = (hash ^ static_cast<uint64_t>(token)) * 0xff51afd7ed558ccdULL + 1;
  return hash ^ (hash >> 32);
}

}  // namespace

size_t NgramDrafter::BucketOf(int match) {
  if (match < 6) return 0;
  return match < 12 ? 1 : 2;
}

void NgramDrafter::Observe(std::span<const TokenId> tokens) {
  const bool first = seen_ == 0;
  for (; seen_ < static_cast<int>(tokens.size()); ++seen_) {
    if (cursor_ >= 0) {
      const bool hit = tokens[static_cast<size_t>(cursor_)] == tokens[static_cast<size_t>(seen_)];
      if (!first) {  // a prompt says little about how the answer goes on
        Rate& rate = rates_[BucketOf(match_)];
        rate.hits = rate.hits * kForget + (hit ? 1 : 0);
        rate.trials = rate.trials * kForget + 1;
      }
      cursor_ = hit ? cursor_ + 1 : -1;
      match_ = hit ? std::min(match_ + 1, kLongMatch) : 0;
    }
    if (seen_ + 1 >= kGram) Lookup(tokens.first(static_cast<size_t>(seen_) + 1));
  }
}

// Finds the cursor, where there is none, and remembers where the last tokens occurred.
void NgramDrafter::Lookup(std::span<const TokenId> tokens) {
  const int length = static_cast<int>(tokens.size());
  int& next = next_of_.try_emplace(HashOf(tokens.last(kGram)), -1).first->second;
  const int found = next;
  next = length;
  if (cursor_ >= 0 || found < 0) return;
  int match = 0;
  while (match < kLongMatch && match < found &&
         tokens[static_cast<size_t>(found - 1 - match)] == tokens[static_cast<size_t>(length - 1 - match)]) {
    ++match;
  }
  if (match < kGram) return;  // another n-gram of the same hash
  cursor_ = found;
  match_ = match;
}

double NgramDrafter::HitRate(int ahead) const {
  const Rate& rate = rates_[BucketOf(match_ + ahead)];
  return rate.hits / rate.trials;
}

std::vector<TokenId> NgramDrafter::Guess(std::span<const TokenId> tokens, int count) const {
  PAGODA_CHECK(cursor_ >= 0 && seen_ == static_cast<int>(tokens.size()));
  std::vector<TokenId> guesses;
  for (int i = 0; i < count; ++i) {
    const int from = cursor_ + i;
    // A text that repeats itself goes on beyond its end.
    guesses.push_back(from < seen_ ? tokens[static_cast<size_t>(from)] : guesses[static_cast<size_t>(from - seen_)]);
  }
  return guesses;
}

}  // namespace pagoda::coordinator
