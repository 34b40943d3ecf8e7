// A rank is lost and another takes its place: the others keep weights and KV, the lost stage's KV is filled again, and the
// sequence goes on with the bits that it would have had.
#include <gtest/gtest.h>

#include "tests/worker/one_sequence.h"

namespace pagoda::worker::testing {
namespace {

class RebuildTest : public OneSequenceTest {
 protected:
  void SetUp() override { Expect(); }

  // Also the names of the two full blocks.
  void RunBeforeTheLoss(EngineRig& rig) { RunFirstOutputs(rig, Epoch(1), {{7, Hash(1)}, {2, Hash(2)}}); }
  // Stages `first` to `last` fill both blocks again, then all go on from position 32.
  void GoOn(EngineRig& rig, RankLog& rebuilder, int first, int last) {
    const std::vector<TokenId> history = HistoryAfterFirstOutputs();
    StepPlan rebuild = Start(Epoch(2), history, {7, 2});
    RebuildChain chain{.blocks = {7, 2}, .first_block = 0};
    if (first == 0) chain.tokens.assign(history.begin(), history.begin() + 2 * kBlock);
    rebuild.rebuild = Rebuild{.first_stage = first, .last_stage = last, .chains = {chain}};
    rig.Post(rebuild);
    const std::optional<StepResult> rebuilt = rebuilder.Result();
    ASSERT_TRUE(rebuilt.has_value());
    EXPECT_EQ(rebuilt->step, StepNumber(1));
    EXPECT_TRUE(rebuilt->samples.empty());
    StepPlan next{.epoch = Epoch(2), .step = StepNumber(2)};
    next.rows = {{.slot = 3, .first_position = 2 * kBlock, .count = static_cast<int>(history.size()) - 2 * kBlock, .new_blocks = {11}}};
    next.samples = {{0, 3, kOutputsFirst}};
    rig.Post(next);
    ExpectOutput(rig.reporter(), kOutputsFirst);
    for (int output = kOutputsFirst + 1; output < kOutputs; ++output) {
      StepPlan plan{.epoch = Epoch(2), .step = StepNumber(static_cast<uint64_t>(output))};
      plan.rows = {{.slot = 3, .first_position = 40 + output - 1, .count = 1}};
      plan.samples = {{0, 3, output}};
      rig.Post(plan);
      ExpectOutput(rig.reporter(), output);
    }
  }
};

// Three stages, the middle one of two ranks: every rank is lost once.
TEST_F(RebuildTest, AReplacedRankIsFedFromWhatTheStageBeforeKept) {
  ASSERT_EQ(expected_.tokens.size(), static_cast<size_t>(kOutputs));
  const int stage_of[] = {0, 1, 1, 2};
  for (size_t lost = 0; lost < 4; ++lost) {
    SCOPED_TRACE(lost);
    EngineRig rig({.model = model_.path(), .stages = {{0, 1, 1}, {1, 3, 2}, {3, 4, 1}}});
    RunBeforeTheLoss(rig);
    rig.Replace(lost);
    ASSERT_TRUE(rig.Assemble(Epoch(2)));
    const int stage = stage_of[lost];
    size_t reporter = 0;
    for (size_t rank = 0; rank < 4; ++rank) {
      if (stage_of[rank] == stage && (rank == 0 || stage_of[rank - 1] != stage)) reporter = rank;
    }
    GoOn(rig, rig.log(reporter), stage, stage);
  }
}

TEST_F(RebuildTest, WithoutKeptOutputsTheStagesBeforeRunAgain) {
  EngineRig rig({.model = model_.path(), .stages = {{0, 1, 1}, {1, 3, 1}, {3, 4, 1}}, .replay_bytes = 0});
  RunBeforeTheLoss(rig);
  rig.Replace(1);
  ASSERT_TRUE(rig.Assemble(Epoch(2)));
  GoOn(rig, rig.log(1), 0, 1);
}

TEST_F(RebuildTest, ARankSaysWhatItHoldsAndWhatItDoesNotAnyMore) {
  EngineRig rig({.model = model_.path(), .stages = {{0, 2, 1}, {2, 4, 1}}});
  RunBeforeTheLoss(rig);
  // Block 2 is given out anew and so is another sequence's now.
  StepPlan third{.epoch = Epoch(1), .step = StepNumber(3)};
  third.starts = {{.slot = 4, .prompt_length = 2, .history = {5, 6}, .params = params_}};
  third.rows = {{.slot = 4, .count = 2, .new_blocks = {2}}};
  rig.Post(third);
  ASSERT_TRUE(rig.reporter().Result().has_value());
  rig.Release(Epoch(1), true);
  ASSERT_TRUE(rig.log(0).Left(Epoch(1)));
  ASSERT_TRUE(rig.log(1).Left(Epoch(1)));
  EXPECT_TRUE(rig.engine(0).Held().has_value()) << "a shard that is kept is told of at the next registration";
  ASSERT_TRUE(rig.Assemble(Epoch(2)));
  for (size_t rank = 0; rank < 2; ++rank) {
    const std::vector<KvRecord::Held> held = rig.log(rank).held(Epoch(2));
    ASSERT_EQ(held.size(), 1u) << "rank " << rank;
    EXPECT_EQ(held[0].block, 7);
    EXPECT_EQ(held[0].hash, Hash(1));
    EXPECT_EQ(held[0].output, rank == 0) << "the last stage sends nothing on";
  }
  rig.Release(Epoch(2), false);
  ASSERT_TRUE(rig.log(0).Left(Epoch(2)));
  ASSERT_TRUE(rig.Assemble(Epoch(3)));
  EXPECT_TRUE(rig.log(0).held(Epoch(3)).empty()) << "released for good";
}

}  // namespace
}  // namespace pagoda::worker::testing
