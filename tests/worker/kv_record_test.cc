// What a rank says that its KV blocks hold must be what they hold, whenever the epoch ends; and what it keeps of its outputs.
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

TEST(KvRecord, OutputsStayWithinTheirBudget) {
  KvRecord record({.blocks = 4, .block_tokens = 16, .hidden = 8, .output_bytes = 2 * 16 * 8 * 4});
  const std::vector<float> rows(64 * 8, 1.5f);
  const std::vector<int32_t> blocks = {0, 1, 2, 3};
  const std::vector<kernels::SequenceRows> sequences = {{.first_row = 0, .rows = 40, .first_position = 0, .blocks = blocks}};
  record.KeepOutputs(sequences, rows.data());
  EXPECT_EQ(record.OutputsOf(0), nullptr) << "the oldest made room";
  EXPECT_NE(record.OutputsOf(1), nullptr);
  EXPECT_EQ(record.OutputsOf(2), nullptr) << "8 of 16 rows";
  const std::vector<kernels::SequenceRows> later = {{.first_row = 0, .rows = 8, .first_position = 40, .blocks = blocks}};
  record.KeepOutputs(later, rows.data());
  EXPECT_NE(record.OutputsOf(2), nullptr);
  StepPlan copy;
  copy.copies = {{2, 3}};
  record.BeginPlan(copy, true);
  EXPECT_NE(record.OutputsOf(3), nullptr) << "a copy has what its source has";
  StepPlan fork;
  fork.rows = {{.slot = 1, .first_position = 40, .count = 1, .new_blocks = {0, 1, 2}}};
  record.BeginPlan(fork, true);
  EXPECT_NE(record.OutputsOf(2), nullptr) << "a fork's table holds its source's blocks, which are not given out anew";
  StepPlan next;
  next.rows = {{.slot = 1, .first_position = 32, .count = 16, .new_blocks = {2}}};
  record.BeginPlan(next, true);
  EXPECT_EQ(record.OutputsOf(2), nullptr);
}

}  // namespace
}  // namespace pagoda::worker
