// Prompt lookup: what is guessed, what is thought to pay, and that a sequence that drafts gets the tokens that it would have had.
#include <gtest/gtest.h>

#include <deque>
#include <map>
#include <random>

#include "tests/coordinator/toy_pipeline.h"

namespace pagoda::coordinator {
namespace {

using testing::ToyPipeline;
using testing::ToyToken;

constexpr int kVocabulary = 1000;

TEST(NgramDrafter, GuessesWhatFollowedBefore) {
  NgramDrafter drafter;
  std::vector<TokenId> tokens = {1, 2, 3, 4, 5, 6, 7, 1, 2};
  drafter.Observe(tokens);
  EXPECT_FALSE(drafter.has_guess()) << "two tokens are too few";
  tokens.push_back(3);
  drafter.Observe(tokens);
  ASSERT_TRUE(drafter.has_guess());
  EXPECT_EQ(drafter.Guess(tokens, 3), (std::vector<TokenId>{4, 5, 6}));
  tokens.push_back(4);
  drafter.Observe(tokens);
  EXPECT_EQ(drafter.Guess(tokens, 2), (std::vector<TokenId>{5, 6}));
  tokens.push_back(99);
  drafter.Observe(tokens);
  EXPECT_FALSE(drafter.has_guess());
}

TEST(NgramDrafter, ATextThatRepeatsItselfGoesOnBeyondItsEnd) {
  NgramDrafter drafter;
  const std::vector<TokenId> tokens = {9, 8, 9, 8, 9, 8, 9};
  drafter.Observe(tokens);
  ASSERT_TRUE(drafter.has_guess());
  EXPECT_EQ(drafter.Guess(tokens, 6), (std::vector<TokenId>{8, 9, 8, 9, 8, 9}));
}

TEST(NgramDrafter, MeasuresHowOftenItIsRightWithoutDrafting) {
  std::mt19937 random(3);
  const auto rate_of = [&](int wrong_of_four) {
    NgramDrafter drafter;
    std::vector<TokenId> tokens = {50, 51, 52};
    drafter.Observe(tokens);
    for (int i = 0; i < 800; ++i) {
      const bool slip = std::uniform_int_distribution<int>(0, 3)(random) < wrong_of_four;
      tokens.push_back(slip ? std::uniform_int_distribution<TokenId>(0, 900)(random) : (tokens.back() + 1) % 7);
      drafter.Observe(tokens);
    }
    return drafter.HitRate(0);
  };
  EXPECT_GT(rate_of(0), 0.95);
  EXPECT_LT(rate_of(2), 0.7);
}

TEST(StepCost, NeverLessForMoreRowsAndCloseToWhatWasSeen) {
  std::mt19937 random(5);
  for (int round = 0; round < 200; ++round) {
    StepCost cost;
    EXPECT_EQ(cost.DecodeNs(3), 0);
    const auto truth = [](int rows) { return 2'500'000 + 300'000 * rows; };
    for (int i = 0; i < round; ++i) {
      const int rows = std::uniform_int_distribution<int>(1, round % 3 == 0 ? 4 : 200)(random);
      cost.Observe(rows, 0, static_cast<int64_t>(truth(rows) * std::uniform_real_distribution<double>(0.95, 1.05)(random)));
    }
    for (int rows = 1; rows < 300; ++rows) ASSERT_LE(cost.DecodeNs(rows), cost.DecodeNs(rows + 1)) << rows;
    if (round > 150 && round % 3 != 0) {
      for (int rows : {2, 5, 20, 60, 120}) EXPECT_NEAR(cost.DecodeNs(rows) / truth(rows), 1, 0.3) << rows;
    }
  }
  StepCost cost;
  cost.Observe(4, 0, 4'000'000);
  for (int i = 0; i < 50; ++i) cost.Observe(4, 100, 54'000'000);
  EXPECT_NEAR(cost.PromptRowNs(), 500'000, 25'000);
}

struct Scenario {
  int sequences = 1;
  int stages = 1;
  int asked = 0;          // speculative_tokens
  uint64_t seed = 501;    // above 500: repeats itself
  int64_t fixed_us = 2500;  // of a step
  int64_t row_us = 50;
};

struct Outcome {
  SchedulerStats stats;
  std::map<uint64_t, std::vector<TokenId>> tokens;
  int most_in_flight = 0;
};

Outcome Simulate(const Scenario& scenario) {
  EpochSettings settings;
  settings.epoch = Epoch(1);
  settings.stages = scenario.stages;
  settings.blocks = 4096;
  settings.max_model_len = 1024;
  settings.vocabulary = kVocabulary;
  settings.max_sequences = 64;
  settings.max_slots = 128;
  Scheduler scheduler;
  ToyPipeline toy(settings);
  scheduler.BeginEpoch(settings);
  for (int i = 0; i < scenario.sequences; ++i) {
    Request request;
    request.id = {1, static_cast<uint64_t>(i) + 1};
    request.router = RouterId(1);
    for (int t = 0; t < 20; ++t) request.prompt.push_back(static_cast<TokenId>(100 + (i * 7 + t) % 800));
    request.choices.resize(1);
    request.sampling.max_tokens = 200;
    request.sampling.seed = scenario.seed;
    request.sampling.speculative_tokens = scenario.asked;
    scheduler.Submit(request, 1);
  }
  Outcome outcome;
  int64_t now = 1;
  while (!scheduler.idle()) {
    int rows = 0;
    while (const std::optional<StepPlan> plan = scheduler.NextPlan(now)) {
      toy.Execute(*plan);
      rows = plan->TotalRows();
    }
    outcome.most_in_flight = std::max(outcome.most_in_flight, scheduler.stats().plans_in_flight);
    StepResult result = toy.TakeResult();
    result.compute_us = scenario.fixed_us + scenario.row_us * std::max(rows, scenario.sequences);
    now += result.compute_us * 1000 + 100'000;
    EXPECT_TRUE(scheduler.OnResult(result, now).ok());
    for (const ChoiceOutput& output : scheduler.TakeOutputs()) {
      auto& to = outcome.tokens[output.request.low];
      EXPECT_EQ(output.first_index, static_cast<int>(to.size()));
      to.insert(to.end(), output.tokens.begin(), output.tokens.end());
    }
  }
  EXPECT_EQ(toy.errors(), "");
  EXPECT_EQ(scheduler.leaked_blocks(), 0);
  outcome.stats = scheduler.stats();
  return outcome;
}

TEST(Drafting, TheSameTokensInFewerSteps) {
  for (const int stages : {1, 2, 3}) {
    for (const int sequences : {1, 3}) {
      const Outcome without = Simulate({.sequences = sequences, .stages = stages, .asked = -1});
      const Outcome automatic = Simulate({.sequences = sequences, .stages = stages});
      const Outcome four = Simulate({.sequences = sequences, .stages = stages, .asked = 4});
      EXPECT_EQ(without.stats.drafts, 0);
      EXPECT_EQ(automatic.tokens, without.tokens) << stages << " stages";
      EXPECT_EQ(four.tokens, without.tokens) << stages << " stages";
      EXPECT_LT(automatic.stats.steps * 5, without.stats.steps * 4) << stages << " stages, " << sequences << " sequences";
      EXPECT_GT(four.stats.accepted_draft_tokens, four.stats.draft_tokens / 2);
    }
  }
}

TEST(Drafting, NothingIsGuessedWhereItDoesNotPay) {
  // No repetition.
  const Outcome plain = Simulate({.seed = 7});
  EXPECT_EQ(plain.stats.drafts, 0);
  EXPECT_EQ(plain.most_in_flight, 2) << "runs ahead";
  // Repetition, but a step costs what its rows cost: found out by a few tries.
  EXPECT_LT(Simulate({.fixed_us = 10, .row_us = 2000}).stats.drafts, 10);
  // A full batch.
  EXPECT_EQ(Simulate({.sequences = 32}).stats.drafts, 0);
}

// A prompt arrives while others decode: its chunks are as long as they can bear.
TEST(ChunkedPrefill, StepsStayWithinTwiceWhatTheyTakeWithoutPrompts) {
  for (const bool chunked : {true, false}) {
    EpochSettings settings;
    settings.epoch = Epoch(1);
    settings.blocks = 4096;
    settings.max_model_len = 2048;
    settings.vocabulary = kVocabulary;
    settings.max_sequences = 64;
    settings.max_slots = 128;
    settings.max_step_rows = 2048;
    settings.chunked_prefill = chunked;
    Scheduler scheduler;
    ToyPipeline toy(settings);
    scheduler.BeginEpoch(settings);
    uint64_t next_id = 1;
    const auto submit = [&](int prompt, int max_tokens) {
      Request request;
      request.id = {1, next_id};
      for (int t = 0; t < prompt; ++t) request.prompt.push_back(static_cast<TokenId>((next_id * 31 + static_cast<uint64_t>(t) * 7) % 900));
      ++next_id;
      request.router = RouterId(1);
      request.choices.resize(1);
      request.sampling.max_tokens = max_tokens;
      request.sampling.speculative_tokens = -1;
      scheduler.Submit(request, 1);
    };
    const auto cost_us = [](int rows) { return std::max(4000, 500 * rows); };
    for (int i = 0; i < 8; ++i) submit(16, 400);
    submit(300, 1);  // from which the price of a prompt's row is learnt
    std::deque<int> rows_in_flight;
    int64_t now = 1;
    int longest_us = 0;
    for (int step = 0; step < 300; ++step) {
      if (step == 150) submit(1000, 1);
      while (const std::optional<StepPlan> plan = scheduler.NextPlan(now)) {
        toy.Execute(*plan);
        rows_in_flight.push_back(plan->TotalRows());
        if (step >= 150) longest_us = std::max(longest_us, cost_us(plan->TotalRows()));
      }
      StepResult result = toy.TakeResult();
      result.compute_us = cost_us(rows_in_flight.front());
      rows_in_flight.pop_front();
      now += result.compute_us * 1000;
      ASSERT_TRUE(scheduler.OnResult(result, now).ok());
      scheduler.TakeOutputs();
    }
    EXPECT_EQ(toy.errors(), "");
    if (chunked) {
      EXPECT_LE(longest_us, 2 * cost_us(8) + 500 * 16) << "the least chunk may be more";
    } else {
      EXPECT_GE(longest_us, 300'000);
    }
    scheduler.FailAll("the end of the test");
    scheduler.EndEpoch();
  }
}

}  // namespace
}  // namespace pagoda::coordinator
