// The shape of the routing score: load first, prefixes within a cap, profiles and avoided
// pipelines, turns on ties.
#include "router/policy/policy.h"

#include "router/policy/breaker.h"

#include <gtest/gtest.h>

#include <numeric>

namespace pagoda::router {
namespace {

PipelineView Pipeline(int link, uint64_t id) {
  PipelineView view;
  view.key = {link, PipelineId(id)};
  view.model = "m";
  view.digest = "d";
  view.ready = true;
  view.max_model_len = 1000;
  view.numerics = "cpu-1 kv=f16 activations=8";
  return view;
}

struct PolicyTest : testing::Test {
  std::optional<PipelineKey> Choose(RouteRequest request = {}) {
    request.model = "m";
    request.digest = "d";
    if (request.prompt_tokens == 0) request.prompt_tokens = 160;
    if (request.total_tokens == 0) request.total_tokens = 200;
    return ChoosePipeline(request, view, loads, prefixes, options);
  }
  std::vector<BlockHash> Chain(int blocks, int first = 0) {
    std::vector<TokenId> tokens(static_cast<size_t>(blocks) * 16);
    std::iota(tokens.begin(), tokens.end(), first);
    return HashFullBlocks("", tokens, 16);
  }
  ClusterView view{{Pipeline(1, 1), Pipeline(1, 2), Pipeline(2, 1)}};
  const PipelineKey a = view.pipelines[0].key, b = view.pipelines[1].key, c = view.pipelines[2].key;
  PipelineLoads loads;
  PrefixIndex prefixes{1 << 20};
  PolicyOptions options;
};

TEST_F(PolicyTest, TheLeastLoadedIsChosen) {
  loads[a].tokens = 500;
  loads[b].tokens = 100;
  loads[c].tokens = 300;
  EXPECT_EQ(Choose(), b);
}

TEST_F(PolicyTest, OneIdOfTwoCoordinatorsIsTwoPipelines) {
  loads[a].tokens = 500;
  loads[b].tokens = 400;
  EXPECT_EQ(Choose(), c);
}

TEST_F(PolicyTest, TiesAreBrokenInTurn) {
  loads[a].last_choice = 3;
  loads[b].last_choice = 1;
  loads[c].last_choice = 2;
  EXPECT_EQ(Choose(), b);
}

TEST_F(PolicyTest, WhatCannotServeIsNotChosen) {
  view.pipelines[0].ready = false;
  view.pipelines[1].digest = "other";
  view.pipelines[2].max_model_len = 100;
  EXPECT_EQ(Choose(), std::nullopt);
  view.pipelines[2].max_model_len = 200;
  EXPECT_EQ(Choose(), c);
}

TEST_F(PolicyTest, APrefixIsWorthItsTokens) {
  const auto chain = Chain(10);
  prefixes.Insert(chain, b);
  loads[b].tokens = 150;  // 10 blocks of 16 are worth 160
  EXPECT_EQ(Choose({.chain = chain}), b);
  loads[b].tokens = 170;
  EXPECT_NE(Choose({.chain = chain}), b);
}

TEST_F(PolicyTest, AffinityStopsAtTheLoadCap) {
  options.cap_slack_tokens = 100;
  const auto chain = Chain(60);
  prefixes.Insert(chain, b);
  loads[a].tokens = loads[c].tokens = 300;
  loads[b].tokens = 900;  // mean 500, cap 850
  EXPECT_NE(Choose({.prompt_tokens = 960, .total_tokens = 1000, .chain = chain}), b);
  loads[b].tokens = 700;  // mean 433, cap 750
  EXPECT_EQ(Choose({.prompt_tokens = 960, .total_tokens = 1000, .chain = chain}), b);
}

TEST_F(PolicyTest, CostIsLoadPlusPromptMinusCredit) {
  const auto chain = Chain(2);
  prefixes.Insert(chain, a);
  view.pipelines[0].waiting = 2;
  const RouteCost cost = CostOf({.prompt_tokens = 100, .chain = chain}, view.pipelines[0],
                                {.tokens = 50}, 1000, prefixes, options);
  EXPECT_EQ(cost.load_tokens, 50 + 2 * options.tokens_per_waiting_request);
  EXPECT_EQ(cost.cached_tokens, 32);
  EXPECT_DOUBLE_EQ(cost.total, cost.load_tokens + 100 - 32);
}

TEST_F(PolicyTest, CreditIsNeverAboveThePrompt) {
  const auto chain = Chain(10);
  prefixes.Insert(chain, a);
  EXPECT_EQ(
      CostOf({.prompt_tokens = 20, .chain = chain}, view.pipelines[0], {}, 0, prefixes, options)
          .cached_tokens,
      20);
}

TEST_F(PolicyTest, AResumedStreamKeepsItsNumerics) {
  const RouteRequest stream{.accepted = true, .numerics = "cuda-sm90-1 kv=f16 activations=8"};
  view.pipelines[1].numerics = "cuda-sm90-1 kv=f16 activations=8";
  loads[a].tokens = loads[c].tokens = 5000;
  EXPECT_EQ(Choose(stream), b);
  loads[b].tokens = 9000;
  EXPECT_EQ(Choose(stream), b) << "exactness before load";
  view.pipelines[1].ready = false;
  EXPECT_EQ(Choose(stream), std::nullopt) << "it may come back";
  RouteRequest long_ago = stream;
  long_ago.keeps_numerics = false;
  EXPECT_NE(Choose(long_ago), std::nullopt);
  view.pipelines[1].numerics = "cpu-1 kv=f16 activations=8";  // assembled again, of other workers
  EXPECT_NE(Choose(stream), std::nullopt) << "others' tokens rather than none";
}

TEST_F(PolicyTest, AStreamOfAFormerSpecGoesBackToWhatDrains) {
  view.pipelines[1].numerics = "cpu-1 kv=int8 activations=8";
  view.pipelines[1].ready = false;
  view.pipelines[1].takes_replays = true;
  loads[b].tokens = 100'000;
  EXPECT_EQ(Choose({.accepted = true, .numerics = "cpu-1 kv=int8 activations=8"}), b);
  EXPECT_NE(Choose({.numerics = "cpu-1 kv=int8 activations=8"}), b) << "nothing new goes there";
  EXPECT_NE(Choose({.accepted = true}), b) << "nor what has no tokens yet, while there is another";
  view.pipelines[0].ready = view.pipelines[2].ready = false;
  EXPECT_EQ(Choose({.accepted = true}), b);
}

TEST_F(PolicyTest, ACoordinatorOfVersionOneTellsTheProfileAlone) {
  for (PipelineView& pipeline : view.pipelines) pipeline.numerics = "cpu-1";
  EXPECT_NE(Choose({.accepted = true, .numerics = "cpu-1 kv=f16 activations=8"}), std::nullopt);
  EXPECT_FALSE(SameNumerics("cpu-1", "cpu-12 kv=f16"));
  EXPECT_FALSE(SameNumerics("", "cpu-1"));
}

TEST_F(PolicyTest, AnAvoidedPipelineIsTheLastResort) {
  const std::vector<PipelineKey> avoid = {a, c};
  loads[b].tokens = 100'000;
  EXPECT_EQ(Choose({.avoid = avoid}), b);
  view.pipelines[1].ready = false;
  EXPECT_NE(Choose({.avoid = avoid}), std::nullopt);
}

TEST(PrefixIndexTest, MatchesOnlyLeadingBlocksOfThatPipeline) {
  PrefixIndex index(1 << 20);
  std::vector<TokenId> tokens(64);
  std::iota(tokens.begin(), tokens.end(), 0);
  const auto chain = HashFullBlocks("", tokens, 16);
  const PipelineKey a{1, PipelineId(1)}, b{1, PipelineId(2)};
  index.Insert(std::span(chain).first(2), a);
  EXPECT_EQ(index.MatchedBlocks(chain, a), 2);
  EXPECT_EQ(index.MatchedBlocks(chain, b), 0);
  tokens[0] = 99;  // the chain differs from the first block on
  EXPECT_EQ(index.MatchedBlocks(HashFullBlocks("", tokens, 16), a), 0);
  index.Erase(a);
  EXPECT_EQ(index.MatchedBlocks(chain, a), 0);
  EXPECT_EQ(index.entries(), 0u);
}

TEST(PrefixIndexTest, StaysWithinItsBytesAndForgetsTheOldest) {
  PrefixIndex index(100 * PrefixIndex::kBytesPerEntry);
  const PipelineKey key{1, PipelineId(1)};
  std::vector<BlockHash> first;
  for (uint64_t prompt = 0; prompt < 50; ++prompt) {
    std::vector<BlockHash> chain;
    for (uint64_t block = 0; block < 10; ++block) chain.push_back({prompt, block});
    if (prompt == 0) first = chain;
    index.Insert(chain, key);
    EXPECT_LE(index.entries(), 100u);
    EXPECT_EQ(index.MatchedBlocks(chain, key), 10);
  }
  EXPECT_EQ(index.MatchedBlocks(first, key), 0);
}

TEST(PrefixIndexTest, AChainLongerThanTheIndexKeepsItsHead) {
  PrefixIndex index(4 * PrefixIndex::kBytesPerEntry);
  const PipelineKey key{1, PipelineId(1)};
  std::vector<BlockHash> chain;
  for (uint64_t block = 0; block < 20; ++block) chain.push_back({1, block});
  index.Insert(chain, key);
  EXPECT_EQ(index.MatchedBlocks(chain, key), 4);
}

TEST(CircuitBreakerTest, OpensAfterFailuresInARowAndIsTriedWithOneRequest) {
  CircuitBreakers breakers({.failures = 3, .first_pause_ms = 1000, .most_pause_ms = 4000});
  const PipelineKey key{1, PipelineId(7)}, other{1, PipelineId(8)};
  MonotonicNs now = 5 * kNsPerSecond;
  EXPECT_FALSE(breakers.Failed(key, now));
  EXPECT_FALSE(breakers.Failed(key, now));
  breakers.Succeeded(key);
  EXPECT_FALSE(breakers.Failed(key, now)) << "in a row";
  EXPECT_FALSE(breakers.Failed(key, now));
  EXPECT_FALSE(breakers.IsOpen(key, now));
  EXPECT_TRUE(breakers.Failed(key, now));
  EXPECT_TRUE(breakers.IsOpen(key, now));
  EXPECT_FALSE(breakers.IsOpen(other, now));
  now += 1001 * kNsPerMs;
  EXPECT_FALSE(breakers.IsOpen(key, now));
  breakers.Chosen(key, now);
  EXPECT_TRUE(breakers.IsOpen(key, now)) << "one request tries it";
  EXPECT_TRUE(breakers.Failed(key, now));
  EXPECT_TRUE(breakers.IsOpen(key, now + 1999 * kNsPerMs)) << "the pause doubles";
  now += 2001 * kNsPerMs;
  breakers.Chosen(key, now);
  breakers.Succeeded(key);
  EXPECT_FALSE(breakers.IsOpen(key, now));
  for (int i = 0; i < 20; ++i) breakers.Failed(key, now);
  EXPECT_FALSE(breakers.IsOpen(key, now + 4001 * kNsPerMs)) << "and has an end";
}

}  // namespace
}  // namespace pagoda::router
