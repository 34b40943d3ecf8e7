// What survives of a pipeline's KV, from what its ranks say.
#include "coordinator/held_blocks.h"

#include <gtest/gtest.h>

namespace pagoda::coordinator {
namespace {

BlockHash Hash(uint64_t number) { return {.high = number, .low = number * 31}; }
HeldBlock Held(int block, uint64_t hash, bool output = true) { return {BlockId(block), Hash(hash), output}; }

using Stages = std::vector<std::vector<const HeldBlocks*>>;

TEST(HeldBlocks, WhatAllRanksHoldIsWhole) {
  const HeldBlocks a = {Held(3, 1), Held(5, 2), Held(9, 4)};
  const HeldBlocks b = {Held(3, 1), Held(5, 2)};
  const auto restored = SurveyHeldBlocks(Stages{{&a}, {&b}}, 10);
  ASSERT_EQ(restored.size(), 3u);
  EXPECT_TRUE(restored[0].whole());
  EXPECT_EQ(restored[0].block, BlockId(3));
  EXPECT_TRUE(restored[1].whole());
  // Stage 1 has not heard of block 9, and stage 0 kept what it sent on.
  EXPECT_EQ(restored[2].block, BlockId(9));
  EXPECT_EQ(restored[2].first_stage, 1);
  EXPECT_EQ(restored[2].last_stage, 1);
  EXPECT_TRUE(restored[2].replayed);
}

TEST(HeldBlocks, ALostStageIsFedByTheOneBeforeIt) {
  const HeldBlocks held = {Held(0, 1)};
  const auto restored = SurveyHeldBlocks(Stages{{&held}, {&held}, {nullptr}, {&held}}, 4);
  ASSERT_EQ(restored.size(), 1u);
  EXPECT_EQ(restored[0].first_stage, 2);
  EXPECT_EQ(restored[0].last_stage, 2);
  EXPECT_TRUE(restored[0].replayed);
}

TEST(HeldBlocks, WithoutKeptOutputsTheStagesBeforeRunToo) {
  const HeldBlocks kept = {Held(0, 1)};
  const HeldBlocks bare = {Held(0, 1, false)};
  auto restored = SurveyHeldBlocks(Stages{{&kept}, {&bare}, {nullptr}, {&bare}}, 4);
  ASSERT_EQ(restored.size(), 1u);
  EXPECT_EQ(restored[0].first_stage, 1) << "stage 0 kept what stage 1 needs";
  EXPECT_EQ(restored[0].last_stage, 2);
  EXPECT_FALSE(restored[0].replayed);
  restored = SurveyHeldBlocks(Stages{{&bare}, {&bare}, {nullptr}, {&bare}}, 4);
  EXPECT_EQ(restored.at(0).first_stage, 0);
}

TEST(HeldBlocks, ALostFirstStageStartsFromTheTokens) {
  const HeldBlocks held = {Held(0, 1)};
  const auto restored = SurveyHeldBlocks(Stages{{nullptr}, {&held}}, 4);
  ASSERT_EQ(restored.size(), 1u);
  EXPECT_EQ(restored[0].first_stage, 0);
  EXPECT_EQ(restored[0].last_stage, 0);
  EXPECT_TRUE(restored[0].replayed);
}

TEST(HeldBlocks, WhereAllStagesWouldRunNothingIsKept) {
  const HeldBlocks bare = {Held(0, 1, false)};
  EXPECT_TRUE(SurveyHeldBlocks(Stages{{&bare}, {nullptr}}, 4).empty());
  EXPECT_TRUE(SurveyHeldBlocks(Stages{{nullptr}, {nullptr}}, 4).empty());
}

TEST(HeldBlocks, OneRankOfAGroupLosesItForTheStage) {
  const HeldBlocks held = {Held(0, 1), Held(1, 2)};
  const HeldBlocks less = {Held(0, 1)};
  const auto restored = SurveyHeldBlocks(Stages{{&held}, {&held, &less}, {&held}}, 4);
  ASSERT_EQ(restored.size(), 2u);
  EXPECT_TRUE(restored[0].whole());
  EXPECT_EQ(restored[1].first_stage, 1);
  EXPECT_EQ(restored[1].last_stage, 1);
}

TEST(HeldBlocks, AStageThatNamesABlockOtherwiseDoesNotHaveIt) {
  const HeldBlocks now = {Held(0, 7)};
  const HeldBlocks before = {Held(0, 1)};
  const auto restored = SurveyHeldBlocks(Stages{{&now}, {&before}, {&now}}, 4);
  ASSERT_EQ(restored.size(), 1u);
  EXPECT_EQ(restored[0].hash, Hash(7));
  EXPECT_EQ(restored[0].first_stage, 1);
}

TEST(HeldBlocks, OfTwoBlocksOfOneNameTheBetterStays) {
  const HeldBlocks both = {Held(0, 1), Held(2, 1)};
  const HeldBlocks one = {Held(2, 1)};
  const auto restored = SurveyHeldBlocks(Stages{{&both}, {&one}}, 4);
  ASSERT_EQ(restored.size(), 1u);
  EXPECT_EQ(restored[0].block, BlockId(2));
  EXPECT_TRUE(restored[0].whole());
}

TEST(HeldBlocks, NumbersOutsideThePoolAreIgnored) {
  const HeldBlocks held = {Held(-1, 1), Held(4, 2)};
  EXPECT_TRUE(SurveyHeldBlocks(Stages{{&held}}, 4).empty());
}

}  // namespace
}  // namespace pagoda::coordinator
