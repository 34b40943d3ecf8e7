// Names of KV blocks: what a rank says that its blocks hold must be what they hold, whenever the epoch ends.
#include "worker/engine/kv_record.h"

#include <gtest/gtest.h>

namespace pagoda::worker {
namespace {

constexpr BlockHash kOld{1, 1};
constexpr BlockHash kNew{2, 2};

KvRecord Record() { return KvRecord({.blocks = 4, .block_tokens = 2, .hidden = 1, .output_bytes = 64}); }

StepPlan Names(int32_t block, BlockHash hash) {
  StepPlan plan;
  plan.names.push_back({.block = block, .hash = hash});
  return plan;
}

StepPlan RebuildOf(int32_t block) {
  StepPlan plan;
  plan.rebuild = Rebuild{.first_stage = 1, .last_stage = 1, .chains = {{.blocks = {0, block}, .first_block = 1, .tokens = {}}}};
  return plan;
}

// Found by the simulation: the rebuild had run, the epoch ended before the block's new name was told, and the rank still called
// the block by what it had held before.
TEST(KvRecord, ARebuildForgetsWhatTheBlockWasCalled) {
  KvRecord record = Record();
  record.BeginPlan(Names(0, kNew), true);
  record.BeginPlan(Names(3, kOld), true);
  record.BeginPlan(RebuildOf(3), true);
  ASSERT_EQ(record.held().size(), 1u) << "the block before the first to fill keeps its name";
  EXPECT_EQ(record.held()[0].block, 0);
  record.BeginPlan(Names(3, kNew), true);
  ASSERT_EQ(record.held().size(), 2u);
  EXPECT_EQ(record.held()[1].hash, kNew);
}

TEST(KvRecord, WhoOnlyFeedsARebuildKeepsNamesAndOutputs) {
  KvRecord record = Record();
  const std::vector<int32_t> blocks = {0, 3};
  const float rows[] = {5, 6};
  const kernels::SequenceRows sequence{.first_row = 0, .rows = 2, .first_position = 2, .blocks = blocks};
  record.KeepOutputs({&sequence, 1}, rows);
  record.BeginPlan(Names(3, kOld), true);
  record.BeginPlan(RebuildOf(3), false);
  ASSERT_EQ(record.held().size(), 1u);
  EXPECT_TRUE(record.held()[0].output);
  ASSERT_NE(record.OutputsOf(3), nullptr);
  EXPECT_EQ(record.OutputsOf(3)[1], 6);
}

}  // namespace
}  // namespace pagoda::worker
