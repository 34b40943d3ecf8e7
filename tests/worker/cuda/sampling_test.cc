// The device's sampler against the host's: the same tokens for the same logits, whatever the parameters.
#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "kernels/cuda/cuda_backend.h"
#include "worker/sampler/sampler.h"

namespace pagoda::worker {
namespace {

struct Case {
  SamplerParams params;
  std::vector<TokenId> tokens;
  int prompt_length = 0;
  int output_index = 0;
};

// Every kind of cut, alone and together, hot and cold, with and without edits.
std::vector<Case> Cases(int vocabulary, std::mt19937& random) {
  std::vector<Case> cases;
  for (const double temperature : {0.0, 0.2, 1.0, 3.0}) {
    for (const int top_k : {0, 1, 7, 40, 1000}) {
      for (const double top_p : {1.0, 0.9, 0.3}) {
        for (const double min_p : {0.0, 0.05}) {
          Case c;
          c.params.temperature = temperature;
          c.params.top_k = top_k;
          c.params.top_p = top_p;
          c.params.min_p = min_p;
          c.params.seed = random();
          c.output_index = static_cast<int>(random() % 5);
          c.prompt_length = 12;
          for (int i = 0; i < 12 + c.output_index; ++i) c.tokens.push_back(static_cast<TokenId>(random() % static_cast<unsigned>(vocabulary)));
          if (random() % 3 == 0) {
            c.params.repetition_penalty = 1.3;
            c.params.frequency_penalty = 0.4;
            c.params.presence_penalty = 0.2;
          }
          if (random() % 3 == 0) {
            c.params.logit_bias = {{3, 4.0f}, {vocabulary - 1, -100.0f}, {vocabulary + 5, 1.0f}};
            c.params.min_tokens = 4;
            c.params.stop_token_ids = {static_cast<TokenId>(random() % 9)};
          }
          cases.push_back(std::move(c));
        }
      }
    }
  }
  return cases;
}

std::vector<float> Logits(int kind, int vocabulary, std::mt19937& random) {
  std::normal_distribution<float> normal(0.0f, kind == 1 ? 0.01f : 3.0f);
  std::vector<float> logits(static_cast<size_t>(vocabulary));
  for (float& x : logits) x = kind == 2 ? static_cast<float>(random() % 7) : normal(random);  // 2: many ties
  if (kind == 3) {
    for (float& x : logits) x = -INFINITY;
    logits[5] = logits[17] = 1.5f;
    logits[40] = NAN;
  }
  if (kind == 4) logits.assign(logits.size(), NAN);
  return logits;
}

TEST(CudaSampling, ChoosesTheHostsTokens) {
  auto made = kernels::MakeCudaBackend({});
  if (kernels::CudaDevices() == 0) GTEST_SKIP() << "no CUDA device";
  ASSERT_TRUE(made.ok()) << made.status();
  kernels::Backend& backend = **made;
  std::mt19937 random(11);
  int on_device = 0, on_host = 0;
  for (const int vocabulary : {300, 5000}) {
    Sampler sampler(vocabulary);
    for (int kind = 0; kind < 5; ++kind) {
      const std::vector<float> logits = Logits(kind, vocabulary, random);
      const auto buffer = *backend.NewBuffer(logits.size() * sizeof(float));
      ASSERT_TRUE(backend.Upload(logits.data(), buffer->data(), logits.size() * sizeof(float)).ok());
      const kernels::F32View view{static_cast<float*>(buffer->data()), 1, vocabulary, vocabulary};
      const std::vector<Case> cases = Cases(vocabulary, random);
      std::vector<std::vector<kernels::Backend::SampleEdit>> edits(cases.size());
      std::vector<kernels::Backend::SampleRow> rows;
      std::vector<TokenId> expected;
      for (size_t i = 0; i < cases.size(); ++i) {
        const TokenCounts counts(cases[i].tokens, cases[i].prompt_length);
        const SamplingContext context{.params = &cases[i].params, .tokens = cases[i].tokens, .prompt_length = cases[i].prompt_length,
                                      .counts = &counts, .choice = 1, .output_index = cases[i].output_index};
        expected.push_back(sampler.Sample(logits, context).token);
        const auto choice = sampler.ForDevice(context);
        ASSERT_TRUE(choice.has_value());
        for (const auto& e : choice->edits) edits[i].push_back({e.token, e.forbid, e.seen, e.output, e.bias});
        rows.push_back({.row = 0, .edits = edits[i],
                        .repetition = static_cast<float>(cases[i].params.repetition_penalty),
                        .frequency = static_cast<float>(cases[i].params.frequency_penalty),
                        .presence = static_cast<float>(cases[i].params.presence_penalty),
                        .factor = choice->factor, .top_k = cases[i].params.top_k, .top_p = cases[i].params.top_p,
                        .least = choice->least, .uniform = choice->uniform});
      }
      std::vector<TokenId> tokens(rows.size(), -5);
      const absl::Status status = backend.Sample(view, rows, tokens);
      ASSERT_TRUE(status.ok()) << status;
      for (size_t i = 0; i < rows.size(); ++i) {
        if (tokens[i] == -1) {
          ++on_host;
          continue;
        }
        ++on_device;
        EXPECT_EQ(tokens[i], expected[i]) << "kind " << kind << " case " << i << " vocabulary " << vocabulary << ": temperature "
                                          << cases[i].params.temperature << " top_k " << rows[i].top_k << " top_p " << rows[i].top_p
                                          << " min_p " << cases[i].params.min_p << " edits " << edits[i].size();
      }
    }
  }
  EXPECT_GT(on_device, on_host * 3) << "few cases may be left to the host";
}

TEST(CudaSampling, RulesThatTheDeviceLacksAreLeftToTheHost) {
  const Sampler sampler(100);
  const std::vector<TokenId> tokens = {1, 2};
  const auto device = [&](const SamplerParams& params) {
    return sampler.ForDevice({.params = &params, .tokens = tokens, .prompt_length = 2}).has_value();
  };
  EXPECT_TRUE(device({}));
  EXPECT_FALSE(device({.typical_p = 0.9}));
  EXPECT_FALSE(device({.no_repeat_ngram_size = 2}));
  EXPECT_FALSE(device({.bad_words = {{1}}}));
  EXPECT_FALSE(device({.allowed_token_ids = {1}}));
  EXPECT_FALSE(device({.logprobs = 0}));
}

}  // namespace
}  // namespace pagoda::worker
