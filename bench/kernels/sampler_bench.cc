// How long a token takes to choose, from logits of the shape that a language model gives: one thread, a fresh row each time, as
// many rows as do not fit in the second-level cache.
#include <benchmark/benchmark.h>

#include <cmath>
#include <random>

#include "worker/sampler/sampler.h"

namespace pagoda::worker {
namespace {

constexpr int kVocabulary = 49152;
constexpr int kRows = 32;

// A bulk that nobody chooses, and a head that falls off about as fast as a language model's.
const std::vector<std::vector<float>>& Logits() {
  static const std::vector<std::vector<float>> rows = [] {
    std::vector<std::vector<float>> result;
    std::mt19937 random(1);
    std::normal_distribution<float> bulk(0.0f, 2.2f);
    std::exponential_distribution<float> gaps(1.2f);
    for (int r = 0; r < kRows; ++r) {
      std::vector<float> row(kVocabulary);
      for (float& x : row) x = bulk(random);
      float value = 17.0f;
      for (int i = 0; i < 60; ++i) {
        value -= gaps(random) / (1.0f + static_cast<float>(i) * 0.3f);
        row[std::uniform_int_distribution<size_t>(0, kVocabulary - 1)(random)] = value;
      }
      result.push_back(std::move(row));
    }
    return result;
  }();
  return rows;
}

void Run(benchmark::State& state, const SamplerParams& params) {
  const auto& rows = Logits();
  Sampler sampler(kVocabulary);
  std::vector<TokenId> tokens;
  std::mt19937 random(2);
  for (int i = 0; i < 400; ++i) tokens.push_back(std::uniform_int_distribution<TokenId>(0, kVocabulary - 1)(random));
  const TokenCounts counts(tokens, 160);
  int index = 0;
  for (auto _ : state) {
    const Sampled sampled = sampler.Sample(rows[static_cast<size_t>(index % kRows)],
                                           {.params = &params, .tokens = tokens, .prompt_length = 160, .counts = &counts,
                                            .output_index = index});
    benchmark::DoNotOptimize(sampled.token);
    ++index;
  }
}

BENCHMARK_CAPTURE(Run, greedy, {.temperature = 0});
BENCHMARK_CAPTURE(Run, temperature, {.temperature = 0.8});
BENCHMARK_CAPTURE(Run, top_k_40_top_p, {.temperature = 0.8, .top_p = 0.95, .top_k = 40});
BENCHMARK_CAPTURE(Run, top_k_40_top_p_min_p, {.temperature = 0.8, .top_p = 0.95, .top_k = 40, .min_p = 0.05});
BENCHMARK_CAPTURE(Run, top_p, {.temperature = 1.0, .top_p = 0.95});
BENCHMARK_CAPTURE(Run, min_p, {.temperature = 1.0, .min_p = 0.05});
BENCHMARK_CAPTURE(Run, typical, {.temperature = 1.0, .typical_p = 0.95});
BENCHMARK_CAPTURE(Run, penalties_greedy, {.temperature = 0, .repetition_penalty = 1.1, .presence_penalty = 0.2, .frequency_penalty = 0.2});
BENCHMARK_CAPTURE(Run, penalties_top_k_top_p,
                  {.temperature = 0.8, .top_p = 0.95, .top_k = 40, .repetition_penalty = 1.1, .presence_penalty = 0.2, .frequency_penalty = 0.2});
BENCHMARK_CAPTURE(Run, greedy_logprobs_5, {.temperature = 0, .logprobs = 5});

}  // namespace
}  // namespace pagoda::worker

BENCHMARK_MAIN();
