// Deltas in, tables out: starts, forks, blocks, tokens that come late, and plans that contradict what a rank knows.
#include "worker/engine/slot_table.h"

#include <gtest/gtest.h>

namespace pagoda::worker {
namespace {

SlotTable NewTable() { return SlotTable({.slots = 4, .blocks = 10, .block_tokens = 16, .vocabulary = 100}); }

StartSlot Start(int slot, std::vector<TokenId> history, int prompt_length, double presence = 0) {
  auto params = std::make_shared<SamplerParams>();
  params->presence_penalty = presence;
  return {.slot = slot, .prompt_length = prompt_length, .history = std::move(history), .params = params};
}

bool Invalid(const absl::Status& status) { return status.code() == absl::StatusCode::kInvalidArgument; }

TEST(SlotTableTest, StartsRowsAndEnds) {
  SlotTable table = NewTable();
  StepPlan plan{.starts = {Start(1, {7, 8, 9}, 2)}, .rows = {{.slot = 1, .count = 3, .new_blocks = {4}}}};
  plan.samples = {{.rows_index = 0, .slot = 1, .output_index = 1}};
  ASSERT_TRUE(table.Apply(plan).ok());
  EXPECT_EQ(table.at(1).tokens, (std::vector<TokenId>{7, 8, 9}));
  EXPECT_EQ(table.at(1).blocks, (std::vector<int32_t>{4}));
  const uint64_t generation = table.at(1).generation;
  EXPECT_TRUE(table.Append(1, generation, 3, 50).ok());
  EXPECT_TRUE(table.Append(1, generation, 3, 51).ok());  // known already
  EXPECT_EQ(table.at(1).tokens.back(), 50);
  EXPECT_TRUE(Invalid(table.Append(1, generation, 5, 1)));    // a gap
  EXPECT_TRUE(Invalid(table.Append(1, generation, 4, 100)));  // outside the vocabulary
  StepPlan next{.rows = {{.slot = 1, .first_position = 16, .count = 1, .new_blocks = {2}, .replace_blocks = {{0, 9}}}}, .ends = {1}};
  ASSERT_TRUE(table.Apply(next).ok());
  EXPECT_EQ(table.at(1).blocks, (std::vector<int32_t>{9, 2}));
  table.End(next);
  EXPECT_FALSE(table.at(1).used);
  EXPECT_TRUE(table.Append(1, generation, 4, 1).ok());  // of a sequence that is over: ignored
  ASSERT_TRUE(table.Apply({.starts = {Start(1, {3}, 1)}}).ok());
  EXPECT_TRUE(table.Append(1, generation, 1, 1).ok());  // still of the old one
  EXPECT_EQ(table.at(1).tokens.size(), 1u);
}

TEST(SlotTableTest, ForksShareWhatIsKnownBeforeThePlansRows) {
  SlotTable table = NewTable();
  ASSERT_TRUE(table.Apply({.starts = {Start(0, {1, 2}, 2, 0.5)}, .rows = {{.slot = 0, .count = 1, .new_blocks = {5}}}}).ok());
  StepPlan plan{.starts = {{.slot = 2, .choice = 3, .fork_of = 0}}};
  plan.rows = {{.slot = 0, .first_position = 16, .count = 1, .new_blocks = {6}}};
  plan.samples = {{.slot = 2}};
  ASSERT_TRUE(table.Apply(plan).ok());
  EXPECT_EQ(table.at(2).blocks, (std::vector<int32_t>{5}));
  EXPECT_EQ(table.at(2).choice, 3);
  EXPECT_EQ(table.at(2).params, table.at(0).params);
  ASSERT_TRUE(table.at(2).counts.has_value());
  ASSERT_TRUE(table.Append(2, table.at(2).generation, 2, 40).ok());
  EXPECT_EQ(table.at(0).tokens.size(), 2u);
  EXPECT_EQ(table.at(2).counts->entries().at(40).output, 1);
  EXPECT_EQ(table.at(0).counts->entries().count(40), 0u);
}

TEST(SlotTableTest, RefusesPlansThatContradictIt) {
  const auto apply = [](StepPlan plan) {
    SlotTable table = NewTable();
    EXPECT_TRUE(table.Apply({.starts = {Start(0, {1}, 1)}}).ok());
    return table.Apply(plan);
  };
  EXPECT_TRUE(Invalid(apply({.starts = {Start(4, {1}, 1)}})));
  EXPECT_TRUE(Invalid(apply({.starts = {Start(-1, {1}, 1)}})));
  EXPECT_TRUE(Invalid(apply({.starts = {Start(1, {1}, 2)}})));
  EXPECT_TRUE(Invalid(apply({.starts = {Start(1, {100}, 1)}})));
  EXPECT_TRUE(Invalid(apply({.starts = {{.slot = 1, .fork_of = 2}}})));
  EXPECT_TRUE(Invalid(apply({.starts = {{.slot = 0, .fork_of = 0}}})));
  EXPECT_TRUE(Invalid(apply({.copies = {{0, 10}}})));
  EXPECT_TRUE(Invalid(apply({.rows = {{.slot = 1, .count = 1, .new_blocks = {0}}}})));
  EXPECT_TRUE(Invalid(apply({.rows = {{.slot = 0, .count = 1}}})));                             // no block
  EXPECT_TRUE(Invalid(apply({.rows = {{.slot = 0, .count = 17, .new_blocks = {0}}}})));
  EXPECT_TRUE(Invalid(apply({.rows = {{.slot = 0, .count = 0, .new_blocks = {0}}}})));
  EXPECT_TRUE(Invalid(apply({.rows = {{.slot = 0, .first_position = -1, .count = 1, .new_blocks = {0}}}})));
  EXPECT_TRUE(Invalid(apply({.rows = {{.slot = 0, .count = 1, .new_blocks = {10}}}})));
  EXPECT_TRUE(Invalid(apply({.rows = {{.slot = 0, .count = 1, .new_blocks = {0}, .replace_blocks = {{1, 0}}}}})));
  EXPECT_TRUE(Invalid(apply({.samples = {{.rows_index = 0, .slot = 0}}})));
}

}  // namespace
}  // namespace pagoda::worker
