// The sampler against the published vectors of its random numbers, against a straightforward reference, and against the
// distribution it is to draw from.
#include "worker/sampler/sampler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>
#include <set>

#include "worker/sampler/fixed_math.h"
#include "worker/sampler/philox.h"

namespace pagoda::worker {
namespace {

constexpr int kVocabulary = 5000;  // not a whole number of chunks or groups
constexpr uint32_t kSeed = 20261121;

std::vector<float> RandomLogits(uint32_t seed, int count = kVocabulary, float spread = 3.0f) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0f, spread);
  std::vector<float> logits(static_cast<size_t>(count));
  for (float& logit : logits) logit = std::round(normal(random) * 64) / 64;  // ties happen
  return logits;
}

// Likeliest first, ties by lowest id.
std::vector<int> Order(const std::vector<float>& logits) {
  std::vector<int> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return logits[a] > logits[b]; });
  return order;
}

std::vector<double> Softmax(const std::vector<float>& logits, double temperature) {
  const float top = *std::max_element(logits.begin(), logits.end());
  std::vector<double> p(logits.size());
  double sum = 0;
  for (size_t i = 0; i < p.size(); ++i) sum += p[i] = std::exp((double{logits[i]} - top) / temperature);
  for (double& value : p) value /= sum;
  return p;
}

// What may be drawn, with its probability: straight from the definitions.
std::vector<double> ReferenceDistribution(const std::vector<float>& logits, const SamplerParams& params) {
  std::vector<double> p = Softmax(logits, params.temperature);
  const std::vector<int> order = Order(logits);
  const auto keep = [&](const std::set<int>& kept) {
    double sum = 0;
    for (size_t i = 0; i < p.size(); ++i) sum += p[i] = kept.count(static_cast<int>(i)) ? p[i] : 0;
    for (double& value : p) value /= sum;
  };
  if (params.min_p > 0) {
    std::set<int> kept;
    for (const int i : order) {
      if (kept.empty() || p[i] >= params.min_p * p[order[0]]) kept.insert(i);
    }
    keep(kept);
  }
  if (params.top_k > 0) keep({order.begin(), order.begin() + std::min<int>(params.top_k, kVocabulary)});
  if (params.top_p < 1) {
    std::set<int> kept;
    double sum = 0;
    for (const int i : order) {
      if (sum >= params.top_p && !kept.empty()) break;
      if (p[i] == 0) continue;
      kept.insert(i);
      sum += p[i];
    }
    keep(kept);
  }
  if (params.typical_p < 1) {
    double entropy = 0;
    for (const double value : p) entropy -= value > 0 ? value * std::log(value) : 0;
    std::vector<std::pair<double, int>> distance;
    for (const int i : order) {
      if (p[i] > 0) distance.emplace_back(std::abs(-std::log(p[i]) - entropy), i);
    }
    std::sort(distance.begin(), distance.end());
    std::set<int> kept;
    double sum = 0;
    for (const auto& [d, i] : distance) {
      kept.insert(i);
      sum += p[i];
      if (sum >= params.typical_p) break;
    }
    keep(kept);
  }
  return p;
}

SamplingContext Context(const SamplerParams& params, int output_index) {
  return {.params = &params, .output_index = output_index};
}

TEST(PhiloxTest, KnownAnswers) {
  EXPECT_EQ(Philox4x32({0, 0, 0, 0}, {0, 0}), (PhiloxBlock{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  constexpr uint32_t kOnes = 0xffffffff;
  EXPECT_EQ(Philox4x32({kOnes, kOnes, kOnes, kOnes}, {kOnes, kOnes}),
            (PhiloxBlock{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(Philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (PhiloxBlock{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(PhiloxTest, UniformIsKeyedByAllThree) {
  std::set<double> seen;
  for (const uint64_t seed : {0ull, 1ull, 1ull << 40}) {
    for (uint32_t choice = 0; choice < 3; ++choice) {
      for (uint32_t index = 0; index < 3; ++index) {
        const double u = UniformOf(seed, choice, index);
        EXPECT_GE(u, 0);
        EXPECT_LT(u, 1);
        seen.insert(u);
      }
    }
  }
  EXPECT_EQ(seen.size(), 27u);
}

TEST(FixedMathTest, CloseToTheTruth) {
  for (double x = 1e-30; x < 1e30; x *= 1.37) EXPECT_NEAR(FixedLog(x), std::log(x), 2e-15 * (1 + std::abs(std::log(x))));
}

TEST(SamplerTest, GreedyTakesTheLargestAndTheLowestIdOfTies) {
  Sampler sampler(kVocabulary);
  std::vector<float> logits = RandomLogits(kSeed);
  logits[700] = logits[33] = logits[4999] = 100.0f;
  const SamplerParams params{.temperature = 0};
  EXPECT_EQ(sampler.Sample(logits, Context(params, 0)).token, 33);
  logits[33] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(sampler.Sample(logits, Context(params, 0)).token, 700);
}

struct CutCase {
  const char* name;
  SamplerParams params;
};

// Chi-square over cells that expect at least 5 of the draws; a token of no probability must never come.
TEST(SamplerTest, DrawsFollowTheDistribution) {
  const std::vector<CutCase> cases = {
      {"all", {.temperature = 1.0}},
      {"temperature", {.temperature = 0.6}},
      {"top_k", {.temperature = 1.0, .top_k = 20}},
      {"top_p", {.temperature = 1.0, .top_p = 0.8}},
      {"top_p of a flat row", {.temperature = 2.0, .top_p = 0.95}},
      {"top_k and top_p", {.temperature = 0.8, .top_p = 0.9, .top_k = 50}},
      {"min_p", {.temperature = 1.0, .min_p = 0.05}},
      {"min_p, top_p", {.temperature = 1.0, .top_p = 0.7, .min_p = 0.02}},
      {"typical", {.temperature = 1.0, .typical_p = 0.5}},
      {"typical of top_k", {.temperature = 1.0, .top_k = 100, .typical_p = 0.8}},
  };
  const std::vector<float> logits = RandomLogits(kSeed);
  constexpr int kDraws = 2000;
  for (const CutCase& test : cases) {
    SamplerParams params = test.params;
    params.seed = kSeed;
    const std::vector<double> expected = ReferenceDistribution(logits, params);
    std::vector<int> counts(kVocabulary);
    Sampler sampler(kVocabulary);
    for (int i = 0; i < kDraws; ++i) ++counts[static_cast<size_t>(sampler.Sample(logits, Context(params, i)).token)];
    double chi_square = 0;
    double rest_expected = 0;
    double rest_seen = 0;
    int cells = 0;
    for (size_t i = 0; i < expected.size(); ++i) {
      if (expected[i] == 0) {
        ASSERT_EQ(counts[i], 0) << test.name << ": token " << i << " has no probability; seed " << kSeed;
      }
      if (expected[i] * kDraws < 5) {
        rest_expected += expected[i] * kDraws;
        rest_seen += counts[i];
        continue;
      }
      const double difference = counts[i] - expected[i] * kDraws;
      chi_square += difference * difference / (expected[i] * kDraws);
      ++cells;
    }
    if (rest_expected >= 5) {
      chi_square += (rest_seen - rest_expected) * (rest_seen - rest_expected) / rest_expected;
      ++cells;
    }
    ASSERT_GT(cells, 3) << test.name;
    const double degrees = cells - 1;  // a normal approximation: 4.5 standard deviations
    EXPECT_LT(chi_square, degrees + 4.5 * std::sqrt(2 * degrees)) << test.name << ", " << cells << " cells, seed " << kSeed;
  }
}

// The definition, step by step, with a sort where the sampler has thresholds.
TokenId PlainSample(const std::vector<float>& logits, const SamplerParams& params, int output_index) {
  struct Entry {
    float value;
    int id;
    uint32_t weight;
  };
  const kernels::LogitKernels& plain = kernels::LogitKernelsOf(kernels::Isa::kScalar);
  const float top = *std::max_element(logits.begin(), logits.end());
  std::vector<uint32_t> weights(logits.size());
  plain.weigh(logits.data(), static_cast<int64_t>(logits.size()), top, static_cast<float>(1.0 / params.temperature), weights.data());
  std::vector<Entry> rest;
  for (size_t i = 0; i < logits.size(); ++i) rest.push_back({logits[i], static_cast<int>(i), weights[i]});
  std::stable_sort(rest.begin(), rest.end(), [](const Entry& a, const Entry& b) { return a.value > b.value; });
  const auto mass_of = [&] { return std::accumulate(rest.begin(), rest.end(), uint64_t{0}, [](uint64_t sum, const Entry& e) { return sum + e.weight; }); };
  if (params.min_p > 0) {
    std::erase_if(rest, [&](const Entry& e) { return e.weight < std::ceil(params.min_p * kernels::kWeightOne); });
  }
  if (params.top_k > 0 && rest.size() > static_cast<size_t>(params.top_k)) rest.resize(static_cast<size_t>(params.top_k));
  const auto keep_first = [&](double part) {
    const uint64_t need = static_cast<uint64_t>(std::ceil(part * static_cast<double>(mass_of())));
    uint64_t sum = 0;
    size_t kept = 0;
    while (kept < rest.size() && (sum < need || kept == 0)) sum += rest[kept++].weight;
    rest.resize(kept);
  };
  if (params.top_p < 1) keep_first(params.top_p);
  if (params.typical_p < 1) {
    std::erase_if(rest, [](const Entry& e) { return e.weight == 0; });
    std::sort(rest.begin(), rest.end(), [](const Entry& a, const Entry& b) { return a.id < b.id; });
    const double mass = static_cast<double>(mass_of());
    const double log_mass = FixedLog(mass / kernels::kWeightOne);
    const auto surprise = [&](const Entry& e) { return (double{top} - double{e.value}) / params.temperature + log_mass; };
    double entropy = 0;
    for (const Entry& e : rest) entropy += static_cast<double>(e.weight) / mass * surprise(e);
    std::stable_sort(rest.begin(), rest.end(), [&](const Entry& a, const Entry& b) {
      return std::abs(surprise(a) - entropy) < std::abs(surprise(b) - entropy);
    });
    keep_first(params.typical_p);
  }
  std::sort(rest.begin(), rest.end(), [](const Entry& a, const Entry& b) { return a.id < b.id; });
  const double uniform = UniformOf(params.seed, 0, static_cast<uint32_t>(output_index));
  const uint64_t target = std::min(static_cast<uint64_t>(uniform * static_cast<double>(mass_of())), mass_of() - 1);
  uint64_t sum = 0;
  for (const Entry& e : rest) {
    if ((sum += e.weight) > target) return e.id;
  }
  return -1;
}

TEST(SamplerTest, TheSameTokensAsThePlainDefinitionOnEveryInstructionSet) {
  std::mt19937 random(kSeed);
  const auto chance = [&](int percent) { return std::uniform_int_distribution<int>(1, 100)(random) <= percent; };
  const auto real = [&](double low, double high) { return std::uniform_real_distribution<double>(low, high)(random); };
  for (int round = 0; round < 400; ++round) {
    const int vocabulary = std::uniform_int_distribution<int>(1, round % 4 == 0 ? 50 : 4000)(random);
    std::vector<float> logits = RandomLogits(static_cast<uint32_t>(round), vocabulary, static_cast<float>(real(0.1, 8)));
    for (int i = 0; round % 3 == 0 && i < 10; ++i) {  // a head that stands out of the bulk, as a language model's does
      logits[random() % logits.size()] += static_cast<float>(real(0, 20));
    }
    for (int i = 0; chance(30) && i < vocabulary / 2; ++i) logits[static_cast<size_t>(i)] = -std::numeric_limits<float>::infinity();
    SamplerParams params{.temperature = real(0.05, 2), .seed = random()};
    if (chance(40)) params.top_k = std::uniform_int_distribution<int>(1, vocabulary)(random) / (chance(50) ? 1 : 20);
    if (chance(50)) params.top_p = real(0.01, 1);
    if (chance(30)) params.min_p = real(0, 1) * (chance(50) ? 1 : 0.05);
    if (chance(30)) params.typical_p = real(0.01, 1);
    for (const kernels::Isa isa : {kernels::Isa::kScalar, kernels::Isa::kAvx2, kernels::Isa::kAvx512}) {
      if (!kernels::IsaSupported(isa)) continue;
      Sampler sampler(vocabulary, isa);
      for (int index = 0; index < 4; ++index) {
        ASSERT_EQ(sampler.Sample(logits, Context(params, index)).token, PlainSample(logits, params, index))
            << "round " << round << " on " << kernels::NameOf(isa) << ": vocabulary " << vocabulary << ", temperature "
            << params.temperature << ", top_k " << params.top_k << ", top_p " << params.top_p << ", min_p " << params.min_p
            << ", typical_p " << params.typical_p << ", output " << index;
      }
    }
  }
}

TEST(SamplerTest, LogprobsAreOfTheRawLogits) {
  Sampler sampler(kVocabulary);
  const std::vector<float> logits = RandomLogits(kSeed);
  const std::vector<double> p = Softmax(logits, 1.0);
  const std::vector<int> order = Order(logits);
  SamplerParams params{.temperature = 0.7, .top_k = 3, .logit_bias = {{42, 100.0f}}, .logprobs = 20};
  const Sampled sampled = sampler.Sample(logits, Context(params, 0));
  EXPECT_EQ(sampled.token, 42);
  ASSERT_EQ(sampled.logprobs.size(), 21u);
  EXPECT_EQ(sampled.logprobs[0].token, 42);
  EXPECT_EQ(sampled.logprobs[0].rank, 1 + static_cast<int>(std::find(order.begin(), order.end(), 42) - order.begin()));
  EXPECT_NEAR(sampled.logprobs[0].logprob, std::log(p[42]), 1e-5);
  for (int i = 0; i < 20; ++i) {
    EXPECT_EQ(sampled.logprobs[static_cast<size_t>(i) + 1].token, order[static_cast<size_t>(i)]);
    EXPECT_EQ(sampled.logprobs[static_cast<size_t>(i) + 1].rank, i + 1);
    EXPECT_NEAR(sampled.logprobs[static_cast<size_t>(i) + 1].logprob, std::log(p[static_cast<size_t>(order[static_cast<size_t>(i)])]), 1e-5);
  }
}

TEST(SamplerTest, MasksAndBias) {
  Sampler sampler(100);
  std::vector<float> logits(100, 0.0f);
  for (int i = 0; i < 100; ++i) logits[static_cast<size_t>(i)] = static_cast<float>(100 - i);  // 0 is the likeliest
  const std::vector<TokenId> tokens = {5, 6, 0, 1, 7, 0};  // the prompt is 5, 6
  const auto sample = [&](SamplerParams params, int output_index = 4) {
    params.temperature = 0;
    return sampler.Sample(logits, {.params = &params, .tokens = tokens, .prompt_length = 2, .output_index = output_index}).token;
  };
  EXPECT_EQ(sample({}), 0);
  EXPECT_EQ(sample({.allowed_token_ids = {9, 8, 1000, -3}}), 8);
  EXPECT_EQ(sample({.bad_words = {{0}}}), 1);
  EXPECT_EQ(sample({.bad_words = {{7, 0, 0}}}), 1);      // the output ends with 7, 0
  EXPECT_EQ(sample({.bad_words = {{5, 6, 0}}}), 0);      // that was the prompt
  EXPECT_EQ(sample({.no_repeat_ngram_size = 2, .bad_words = {{0}}}), 2);  // 0 is followed by 1 already
  EXPECT_EQ(sample({.no_repeat_ngram_size = 1}), 2);     // 0 and 1 have been
  EXPECT_EQ(sample({.min_tokens = 5, .stop_token_ids = {0}}), 1);
  EXPECT_EQ(sample({.min_tokens = 4, .stop_token_ids = {0}}), 0);
  EXPECT_EQ(sample({.logit_bias = {{50, 60.0f}, {51, -100.0f}}}), 50);
  SamplerParams nothing{.allowed_token_ids = {0}};
  nothing.bad_words = {{0}};
  EXPECT_EQ(sample(nothing), 0);  // everything is masked: the raw logits decide
  SamplerParams list{.allowed_token_ids = {30, 40}};
  list.bad_words = {{30}, {40}};
  EXPECT_EQ(sample(list), 30);  // and never anything outside of the list
}

TEST(SamplerTest, Penalties) {
  Sampler sampler(4);
  const std::vector<float> logits = {10.0f, 9.0f, 8.0f, -4.0f};
  const std::vector<TokenId> tokens = {0, 1, 1};  // the prompt is 0
  const TokenCounts counts(tokens, 1);
  const auto sample = [&](SamplerParams params) {
    params.temperature = 0;
    return sampler.Sample(logits, {.params = &params, .tokens = tokens, .prompt_length = 1, .counts = &counts, .output_index = 2}).token;
  };
  EXPECT_EQ(sample({.repetition_penalty = 2.0}), 2);                               // 5, 4.5, 8
  EXPECT_EQ(sample({.presence_penalty = 1.5, .logit_bias = {{0, -2.0f}}}), 0);     // 8, 7.5, 8: the lower id
  EXPECT_EQ(sample({.frequency_penalty = 1.0, .logit_bias = {{0, -9.0f}}}), 2);    // 1, 7, 8
}

TEST(SamplerTest, MinTokensOverTwoSequencesAlikeAloneAndAfterOthers) {
  const std::vector<float> logits = RandomLogits(kSeed);
  Sampler fresh(kVocabulary);
  Sampler used(kVocabulary);
  SamplerParams other{.temperature = 1.5, .top_k = 7, .allowed_token_ids = {1, 2, 3}, .seed = 99, .logprobs = 5};
  const SamplerParams params{.temperature = 1.0, .top_p = 0.9, .seed = 5};
  for (int i = 0; i < 50; ++i) {
    used.Sample(RandomLogits(static_cast<uint32_t>(i)), Context(other, i));
    EXPECT_EQ(used.Sample(logits, Context(params, i)).token, fresh.Sample(logits, Context(params, i)).token) << i;
  }
}

}  // namespace
}  // namespace pagoda::worker
