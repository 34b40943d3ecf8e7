// The model of a simulated cluster: a few layers of hashing in the shape of a transformer. A row's value in a layer depends on
// what the KV pool holds there for every position up to its own, so a wrong block, a missing copy, a stale prefix hit or a wrong
// rebuild, on any rank, gives wrong tokens. Cut into any stages it says the same.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "common/ids.h"

namespace pagoda::sim {

inline constexpr int kToyLayers = 4;
inline constexpr int kToyVocabulary = 97;

inline uint64_t Mix(uint64_t a, uint64_t b) {
  uint64_t x = (a + 0x9e3779b97f4a7c15ULL) * 0xbf58476d1ce4e5b9ULL ^ (b + 0x94d049bb133111ebULL) * 0x2545f4914f6cdd1dULL;
  x ^= x >> 29;
  return x * 0xff51afd7ed558ccdULL ^ (x >> 32);
}

// `activation_bits`: as of a deployment; the toy says other things with others.
inline uint64_t ToyEmbed(TokenId token, int position, int activation_bits) {
  return Mix(static_cast<uint64_t>(token), static_cast<uint64_t>(position)) + static_cast<uint64_t>(activation_bits);
}
inline uint64_t ToyKv(uint64_t hidden, int layer) { return Mix(hidden, 1000 + static_cast<uint64_t>(layer)); }
// One more position that the row sees; begin with the row's own hidden value.
inline uint64_t ToyAttend(uint64_t sum, uint64_t kv) { return Mix(sum, kv); }

struct ToySampling {
  uint64_t seed = 0;
  int choice = 0;
  int output_index = 0;
  bool may_stop = true;  // else the ids below kToyStops are masked
  int period = 0;        // text that mostly says again what it said so many tokens before, as code does; 0: it does not
};
inline constexpr int kToyStops = 4;

// `tokens`: the prompt and the output so far.
inline TokenId ToySample(uint64_t hidden, const ToySampling& sampling, std::span<const TokenId> tokens) {
  const uint64_t hash = Mix(Mix(hidden, sampling.seed), (static_cast<uint64_t>(sampling.choice) << 32) |
                                                            static_cast<uint64_t>(sampling.output_index));
  const uint64_t low = sampling.may_stop ? 0 : kToyStops;
  if (const auto period = static_cast<size_t>(sampling.period); period > 0 && period <= tokens.size() && (hash >> 40) % 8 != 0) {
    const TokenId again = tokens[tokens.size() - period];
    if (again >= static_cast<TokenId>(low)) return again;
  }
  return static_cast<TokenId>(low + hash % (kToyVocabulary - low));
}

// What an undisturbed cluster says.
struct ToyRequest {
  std::vector<TokenId> prompt;
  uint64_t seed = 0;
  int max_tokens = 1;
  int min_tokens = 0;
  std::vector<TokenId> stop_token_ids;
  int period = 0;
};
std::vector<TokenId> ToyAnswer(const ToyRequest& request, int choice, int activation_bits);

}  // namespace pagoda::sim
