// One sequence on a small model: what an undisturbed engine of one rank says, plans that begin it on any pipeline, and the
// comparison to the bit. For tests that take its KV away, or elsewhere, in the middle.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "tests/worker/engine_rig.h"

namespace pagoda::worker::testing {

class OneSequenceTest : public ::testing::Test {
 protected:
  static constexpr int kBlock = 16;
  static constexpr int kPromptLength = 40;
  static constexpr int kOutputs = 6;
  static constexpr int kOutputsFirst = 2;  // of RunFirstOutputs

  OneSequenceTest() : model_(SmallLikeDefault()) {
    for (int i = 0; i < kPromptLength; ++i) prompt_.push_back(static_cast<TokenId>((i * 37 + 11) % 200 + 3));
    auto params = std::make_shared<SamplerParams>();
    params->seed = 5;
    params->temperature = 0.9;
    params->frequency_penalty = 0.3;
    params->logprobs = 2;
    params_ = params;
  }

  static BlockHash Hash(uint64_t number) { return {.high = number, .low = ~number}; }

  // Fills expected_.
  void Expect() {
    EngineRig rig({.model = model_.path(), .stages = {{0, 4, 1}}});
    const auto outcomes =
        RunTogether(rig, Epoch(1), {{.tokens = prompt_, .prompt_length = kPromptLength, .outputs = kOutputs, .params = params_}}, 64);
    ASSERT_FALSE(outcomes.empty());
    expected_ = outcomes[0];
    ASSERT_EQ(expected_.tokens.size(), static_cast<size_t>(kOutputs));
  }
  void ExpectOutput(RankLog& reporter, int output) {
    const std::optional<StepResult> result = reporter.Result();
    ASSERT_TRUE(result.has_value()) << "output " << output;
    ASSERT_EQ(result->samples.size(), 1u);
    EXPECT_EQ(result->samples[0].token, expected_.tokens[static_cast<size_t>(output)]) << "output " << output;
    EXPECT_EQ(result->samples[0].logprobs, expected_.logprobs[static_cast<size_t>(output)]) << "output " << output;
  }
  StepPlan Start(Epoch epoch, std::vector<TokenId> history, std::vector<int32_t> blocks) const {
    StepPlan plan{.epoch = epoch, .step = StepNumber(1)};
    plan.starts = {
        {.slot = 3, .prompt_length = kPromptLength, .history = std::move(history), .blocks = std::move(blocks), .params = params_}};
    return plan;
  }
  // Prompt and two outputs: blocks 7 and 2 are full. `names`: of blocks, told with the second step.
  void RunFirstOutputs(EngineRig& rig, Epoch epoch, std::vector<BlockName> names = {}) {
    ASSERT_TRUE(rig.Assemble(epoch));
    StepPlan first = Start(epoch, prompt_, {});
    first.rows = {{.slot = 3, .count = kPromptLength, .new_blocks = {7, 2, 9}}};
    first.samples = {{0, 3, 0}};
    rig.Post(first);
    ExpectOutput(rig.reporter(), 0);
    StepPlan second{.epoch = epoch, .step = StepNumber(2)};
    second.names = std::move(names);
    second.rows = {{.slot = 3, .first_position = kPromptLength, .count = 1}};
    second.samples = {{0, 3, 1}};
    rig.Post(second);
    ExpectOutput(rig.reporter(), 1);
  }
  // The prompt and the outputs of RunFirstOutputs.
  std::vector<TokenId> HistoryAfterFirstOutputs() const {
    std::vector<TokenId> history = prompt_;
    history.insert(history.end(), expected_.tokens.begin(), expected_.tokens.begin() + kOutputsFirst);
    return history;
  }

  const TempModel model_;
  std::vector<TokenId> prompt_;
  std::shared_ptr<const SamplerParams> params_;
  SequenceOutcome expected_;
};

}  // namespace pagoda::worker::testing
