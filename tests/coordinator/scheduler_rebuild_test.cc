// An epoch ends under running sequences and the next one begins with what is left of their KV. In the toy pipeline a token
// follows from the KV that its row sees, so a block that is used before it is whole gives a wrong token.
#include <gtest/gtest.h>

#include <map>
#include <random>

#include "tests/coordinator/toy_requests.h"

namespace pagoda::coordinator {
namespace {

using testing::kVocabulary;
using testing::MakeRequest;
using testing::Prompt;
using testing::ToyPipeline;
using testing::Undisturbed;

constexpr int kLayers = 8;

EpochSettings Settings(uint64_t epoch) {
  EpochSettings settings;
  settings.epoch = Epoch(epoch);
  settings.stages = 4;
  settings.blocks = 256;
  settings.block_tokens = 4;
  settings.max_model_len = 256;
  settings.vocabulary = kVocabulary;
  settings.max_step_rows = 32;
  settings.max_sequences = 16;
  settings.max_slots = 32;
  settings.max_sample_rows = 16;
  settings.stage_layers = {2, 2, 2, 2};
  return settings;
}

class Life {
 public:
  Life() { scheduler.BeginEpoch(Settings(1)); }
  ~Life() { EXPECT_EQ(toy->errors(), ""); }

  void Submit(const Request& request) {
    requests.push_back(request);
    scheduler.Submit(request, now);
  }
  void Collect() {
    for (const ChoiceOutput& output : scheduler.TakeOutputs()) {
      auto& to = tokens[output.request.low];
      to.insert(to.end(), output.tokens.begin(), output.tokens.end());
    }
  }
  void Turn() {
    while (std::optional<StepPlan> plan = scheduler.NextPlan(now)) {
      if (plan->rebuild.has_value()) rebuilds.push_back(*plan->rebuild);
      toy->Execute(*plan);
    }
    if (toy->has_result()) {
      ASSERT_TRUE(scheduler.OnResult(toy->TakeResult(), now).ok());
    }
    Collect();
  }
  // The epoch ends; of the named blocks `how` says what the next one starts with.
  void Fail(const std::function<RestoredBlock(BlockId, BlockHash)>& how) {
    const auto named = toy->NamedBlocks();
    EXPECT_EQ(toy->errors(), "");
    scheduler.EndEpoch();
    EpochSettings settings = Settings(++epoch);
    auto next = std::make_unique<ToyPipeline>(settings);
    std::set<BlockHash> known;
    for (const auto& [block, content] : named) {
      if (!known.insert(content.hash).second) continue;
      const RestoredBlock restored = how(block, content.hash);
      if (restored.block.value() < 0) continue;
      if (restored.whole()) {
        next->Keep(block, content.tokens);
      } else {
        next->Lose(block, content.tokens);
      }
      settings.restored.push_back(restored);
    }
    toy = std::move(next);
    scheduler.BeginEpoch(settings);
  }
  void Finish() {
    for (int i = 0; i < 20000 && !scheduler.idle(); ++i) Turn();
    ASSERT_TRUE(scheduler.idle());
    for (const Request& request : requests) EXPECT_EQ(tokens[request.id.low], Undisturbed(request)) << request.id.low;
    EXPECT_EQ(scheduler.stats().blocks_used, 0);
    EXPECT_EQ(scheduler.leaked_blocks(), 0);
  }

  Scheduler scheduler;
  std::unique_ptr<ToyPipeline> toy = std::make_unique<ToyPipeline>(Settings(1));
  uint64_t epoch = 1;
  int64_t now = 1;
  std::vector<Request> requests;
  std::map<uint64_t, std::vector<TokenId>> tokens;
  std::vector<Rebuild> rebuilds;
};

RestoredBlock Whole(BlockId block, BlockHash hash) { return {.block = block, .hash = hash}; }
RestoredBlock LostBy(int stage, BlockId block, BlockHash hash) {
  return {.block = block, .hash = hash, .first_stage = stage, .last_stage = stage, .replayed = true};
}

TEST(SchedulerRebuild, WithAllKvKeptLessThanABlockPerSequenceIsComputedAgain) {
  Life life;
  for (uint64_t i = 0; i < 8; ++i) life.Submit(MakeRequest(i, Prompt(i, 20 + static_cast<int>(i)), 60));
  for (int i = 0; i < 150; ++i) life.Turn();
  life.Fail(Whole);
  life.Finish();
  const SchedulerStats stats = life.scheduler.stats();
  EXPECT_GT(stats.kept_tokens, 8 * 20);
  EXPECT_LT(stats.recomputed_tokens, 8 * 4) << "a block is 4 tokens";
  EXPECT_GT(stats.recomputed_tokens, 0);
  EXPECT_EQ(stats.replayed_token_layers, 0);
}

TEST(SchedulerRebuild, ALostStageAloneRunsOverWhatItLost) {
  Life life;
  for (uint64_t i = 0; i < 8; ++i) life.Submit(MakeRequest(i, Prompt(i, 40), 60));
  for (int i = 0; i < 150; ++i) life.Turn();
  life.Fail([](BlockId block, BlockHash hash) { return LostBy(2, block, hash); });
  life.Finish();
  ASSERT_FALSE(life.rebuilds.empty());
  for (const Rebuild& rebuild : life.rebuilds) {
    EXPECT_EQ(rebuild.first_stage, 2);
    EXPECT_EQ(rebuild.last_stage, 2);
    for (const RebuildChain& chain : rebuild.chains) EXPECT_TRUE(chain.tokens.empty());
  }
  const SchedulerStats stats = life.scheduler.stats();
  const int64_t all = (stats.kept_tokens + stats.recomputed_tokens) * kLayers;
  EXPECT_EQ(stats.replayed_token_layers, stats.kept_tokens * 2);
  EXPECT_LT(stats.replayed_token_layers + stats.recomputed_token_layers, all / 3);
}

TEST(SchedulerRebuild, ASharedPrefixIsRebuiltOnce) {
  Life life;
  const std::vector<TokenId> shared = Prompt(99, 40);
  for (uint64_t i = 0; i < 4; ++i) {
    std::vector<TokenId> prompt = shared;
    const std::vector<TokenId> own = Prompt(i, 9);
    prompt.insert(prompt.end(), own.begin(), own.end());
    life.Submit(MakeRequest(i, prompt, 40));
    for (int t = 0; t < 10; ++t) life.Turn();
  }
  life.Fail([](BlockId block, BlockHash hash) { return LostBy(0, block, hash); });
  life.Finish();
  for (const Rebuild& rebuild : life.rebuilds) {
    for (const RebuildChain& chain : rebuild.chains) {
      EXPECT_EQ(chain.tokens.size(), (chain.blocks.size() - static_cast<size_t>(chain.first_block)) * 4) << "stage 0 starts from tokens";
    }
  }
}

TEST(SchedulerRebuild, ResultsOfDifferentRanksMayOvertakeEachOther) {
  Life life;
  for (uint64_t i = 0; i < 4; ++i) life.Submit(MakeRequest(i, Prompt(i, 30), 30));
  for (int i = 0; i < 60; ++i) life.Turn();
  life.Fail([](BlockId block, BlockHash hash) { return LostBy(1, block, hash); });
  bool overtook = false;
  for (int i = 0; i < 20000 && !life.scheduler.idle(); ++i) {
    std::vector<StepResult> results;
    bool rebuild = false;
    while (std::optional<StepPlan> plan = life.scheduler.NextPlan(life.now)) {
      rebuild = rebuild || plan->rebuild.has_value();
      life.toy->Execute(*plan);
    }
    while (life.toy->has_result()) results.push_back(life.toy->TakeResult());
    if (rebuild && results.size() > 1) {
      std::reverse(results.begin(), results.end());
      overtook = true;
    }
    for (const StepResult& result : results) ASSERT_TRUE(life.scheduler.OnResult(result, life.now).ok());
    life.Collect();
  }
  EXPECT_TRUE(overtook);
  life.Finish();
}

// Any mixture of whole, partly lost and wholly lost blocks, with cancels, several times over.
TEST(SchedulerRebuild, AnyLossGivesTheSameTokens) {
  for (uint64_t seed = 1; seed <= 200; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937_64 random(seed);
    Life life;
    for (uint64_t i = 0; i < 6; ++i) {
      std::vector<TokenId> prompt = Prompt(random() % 3, 4 + static_cast<int>(random() % 40));
      life.Submit(MakeRequest(i, prompt, 5 + static_cast<int>(random() % 50)));
    }
    std::set<uint64_t> cancelled;
    for (int failure = 0; failure < 3; ++failure) {
      for (int i = static_cast<int>(random() % 60); i > 0; --i) life.Turn();
      if (random() % 3 == 0) {
        const uint64_t id = random() % 6;
        life.scheduler.Cancel({1, id});
        cancelled.insert(id);
      }
      life.Fail([&](BlockId block, BlockHash hash) -> RestoredBlock {
        if (random() % 10 == 0) return {.block = BlockId(-1), .hash = {}};
        if (random() % 3 == 0) return Whole(block, hash);
        const int first = static_cast<int>(random() % 3);
        const int last = first + static_cast<int>(random() % static_cast<uint64_t>(3 - first));
        return {.block = block, .hash = hash, .first_stage = first, .last_stage = last, .replayed = random() % 2 == 0};
      });
    }
    std::erase_if(life.requests, [&](const Request& request) { return cancelled.contains(request.id.low); });
    life.Finish();
    if (::testing::Test::HasFailure()) return;
  }
}

}  // namespace
}  // namespace pagoda::coordinator
