// The engine's life: faults with their names, releases in the middle of a wait, forks, weights that outlive an epoch.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "tests/worker/engine_rig.h"

namespace pagoda::worker::testing {
namespace {

class EngineTest : public ::testing::Test {
 protected:
  EngineTest() : model_(Options()) {}
  static pagoda::testing::TinyModelOptions Options() {
    pagoda::testing::TinyModelOptions options = SmallLikeDefault();
    options.layers = 2;
    return options;
  }
  RigOptions Rig(std::vector<StageAssignment> stages) const { return {.model = model_.path(), .stages = std::move(stages)}; }
  std::vector<StageAssignment> TwoStages() const { return {{0, 1, 1}, {1, 2, 1}}; }

  static std::shared_ptr<const SamplerParams> Sampled(uint64_t seed) {
    auto params = std::make_shared<SamplerParams>();
    params->seed = seed;
    params->presence_penalty = 0.4;
    params->logprobs = 1;
    params->temperature = 1.0;
    return params;
  }
  // One prompt of `tokens` in slot 0, block 0, without a sample.
  static StepPlan PrefillPlan(Epoch epoch, uint64_t step, std::vector<TokenId> tokens) {
    StepPlan plan{.epoch = epoch, .step = StepNumber(step)};
    const int count = static_cast<int>(tokens.size());
    plan.starts = {{.slot = 0, .prompt_length = count, .history = std::move(tokens), .params = Sampled(1)}};
    plan.rows = {{.slot = 0, .count = count, .new_blocks = {0}}};
    return plan;
  }

  // The next result is `step`'s and has the tokens of three choices.
  static void ExpectResult(EngineRig& rig, uint64_t step, const std::vector<SequenceOutcome>& choices) {
    const std::optional<StepResult> result = rig.reporter().Result();
    ASSERT_TRUE(result.has_value());
    ASSERT_EQ(result->step, StepNumber(step));
    ASSERT_EQ(result->samples.size(), choices.size());
    for (size_t i = 0; i < choices.size(); ++i) {
      EXPECT_EQ(result->samples[i].token, choices[i].tokens[step - 1]) << "choice " << i << " step " << step;
      EXPECT_EQ(result->samples[i].logprobs, choices[i].logprobs[step - 1]);
    }
  }

  const TempModel model_;
};

TEST_F(EngineTest, AGapInThePlansIsAFault) {
  EngineRig rig(Rig({{0, 2, 1}}));
  ASSERT_TRUE(rig.Assemble(Epoch(1)));
  rig.Post(PrefillPlan(Epoch(1), 2, {5, 6}));
  const std::optional<FaultReport> fault = rig.log(0).Fault();
  ASSERT_TRUE(fault.has_value());
  EXPECT_EQ(fault->operation, "receive the plan");
  EXPECT_EQ(fault->step, StepNumber(2));
  // The epoch is over: its plans are dropped; the next epoch works.
  rig.Post(PrefillPlan(Epoch(1), 1, {5, 6}));
  ASSERT_TRUE(rig.Assemble(Epoch(2)));
  rig.Post(PrefillPlan(Epoch(2), 1, {5, 6}));
  const std::optional<StepResult> result = rig.log(0).Result();
  ASSERT_TRUE(result.has_value());
  EXPECT_EQ(result->epoch, Epoch(2));
}

TEST_F(EngineTest, APlanOfAnotherEpochIsDropped) {
  EngineRig rig(Rig({{0, 2, 1}}));
  ASSERT_TRUE(rig.Assemble(Epoch(3)));
  rig.Post(PrefillPlan(Epoch(2), 1, {5, 6}));
  rig.Post(PrefillPlan(Epoch(3), 1, {5, 6}));
  const std::optional<StepResult> result = rig.log(0).Result();
  ASSERT_TRUE(result.has_value());
  EXPECT_EQ(result->epoch, Epoch(3));
  EXPECT_FALSE(rig.log(0).Fault(absl::ZeroDuration()).has_value());
}

TEST_F(EngineTest, APlanThatContradictsTheSlotsIsAFault) {
  EngineRig rig(Rig({{0, 2, 1}}));
  ASSERT_TRUE(rig.Assemble(Epoch(1)));
  StepPlan plan = PrefillPlan(Epoch(1), 1, {5, 6});
  plan.rows[0].count = 3;  // a token that nobody knows
  rig.Post(plan);
  const std::optional<FaultReport> fault = rig.log(0).Fault();
  ASSERT_TRUE(fault.has_value());
  EXPECT_EQ(fault->operation, "find the rows' tokens");
}

TEST_F(EngineTest, ALostMessageIsAFaultThatNamesIt) {
  RigOptions options = Rig(TwoStages());
  options.deadline = absl::Milliseconds(200);
  EngineRig rig(options);
  ASSERT_TRUE(rig.Assemble(Epoch(1)));
  rig.hub().SetFate([](PeerId, PeerId, MessageTag tag, size_t) { return MessageFate{.drop = tag.channel == Channel::kHidden}; });
  StepPlan plan = PrefillPlan(Epoch(1), 1, {5, 6});
  plan.starts[0].request = RequestId{.high = 0xabc, .low = 0xdef};
  ::testing::internal::CaptureStderr();
  rig.Post(plan);
  const std::optional<FaultReport> fault = rig.log(1).Fault();
  ASSERT_TRUE(fault.has_value());
  EXPECT_EQ(fault->operation, "receive hidden states from stage 0 rank 0");
  EXPECT_EQ(fault->step, StepNumber(1));
  EXPECT_EQ(fault->self, (PeerId{1, 0}));
  // Whose work it was: the id under which the coordinator logs the request too.
  EXPECT_THAT(::testing::internal::GetCapturedStderr(), ::testing::HasSubstr("0000000000000abc0000000000000def"));
}

TEST_F(EngineTest, AReleaseEndsAWaitAtOnceAndIsNoFault) {
  EngineRig rig(Rig(TwoStages()));
  ASSERT_TRUE(rig.Assemble(Epoch(1)));
  rig.engine(1).PostPlan(PrefillPlan(Epoch(1), 1, {5, 6}));  // stage 0 never sends
  while (rig.engine(1).monitor().Read().waiting_for.empty()) absl::SleepFor(absl::Milliseconds(1));
  EXPECT_EQ(rig.engine(1).monitor().Read().waiting_for, "receive hidden states from stage 0 rank 0, step 1");
  const absl::Time begin = absl::Now();
  rig.Release(Epoch(1), true);
  EXPECT_TRUE(rig.log(1).Left(Epoch(1)));
  EXPECT_LT(absl::Now() - begin, absl::Seconds(5));
  EXPECT_FALSE(rig.log(1).Fault(absl::ZeroDuration()).has_value());
}

TEST_F(EngineTest, AReleaseEndsConnectingAtOnceAndIsNoFault) {
  EngineRig rig(Rig(TwoStages()));
  const std::optional<LinkUp> link_up = rig.Load(Epoch(1));
  ASSERT_TRUE(link_up.has_value());
  rig.engine(0).Post(*link_up);  // stage 1 never hears of it
  const absl::Time begin = absl::Now();
  rig.Release(Epoch(1), true);
  EXPECT_TRUE(rig.log(0).Left(Epoch(1)));
  EXPECT_LT(absl::Now() - begin, absl::Seconds(5));
  EXPECT_FALSE(rig.log(0).Fault(absl::ZeroDuration()).has_value());
}

TEST_F(EngineTest, TooManyUnreadPlansEndTheEpoch) {
  EngineRig rig(Rig(TwoStages()));
  ASSERT_TRUE(rig.Assemble(Epoch(1)));
  // Stage 1 waits for step 1 and reads no further: its queue has room for stages + 2, and for 256 rebuilds of earlier stages.
  for (uint64_t step = 1; step <= 270; ++step) rig.engine(1).PostPlan(PrefillPlan(Epoch(1), step, {5, 6}));
  const std::optional<FaultReport> fault = rig.log(1).Fault();
  ASSERT_TRUE(fault.has_value());
  EXPECT_EQ(fault->operation, "queue the plan");
  EXPECT_GE(fault->step, StepNumber(261));
  rig.Release(Epoch(1), true);
  EXPECT_TRUE(rig.log(1).Left(Epoch(1)));
}

TEST_F(EngineTest, WeightsOutliveAnEpochWhenAsked) {
  EngineRig rig(Rig({{0, 2, 1}}));
  ASSERT_TRUE(rig.Assemble(Epoch(1)));
  const std::optional<HeldReport> held = rig.engine(0).Held();
  ASSERT_TRUE(held.has_value());
  EXPECT_EQ(held->shard_digest, rig.log(0).last_load().shard_digest);
  EXPECT_EQ(held->epoch, Epoch(1));
  EXPECT_GT(rig.log(0).last_load().weights_bytes, 0);
  EXPECT_GT(rig.log(0).last_load().kv_bytes, 0);
  rig.Release(Epoch(1), true);
  ASSERT_TRUE(rig.log(0).Left(Epoch(1)));
  ASSERT_TRUE(rig.Assemble(Epoch(2)));
  rig.Release(Epoch(2), false);
  ASSERT_TRUE(rig.log(0).Left(Epoch(2)));
  EXPECT_FALSE(rig.engine(0).Held().has_value());
}

// n = 3: forks sample from the prompt's last row and share its blocks, with copies on write; they get what separate sequences
// of the same choice get.
TEST_F(EngineTest, ForksAreLikeSequencesOfTheirOwn) {
  const std::vector<TokenId> prompt = {10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 110, 120, 130, 140, 150, 160, 170, 180};
  const int length = static_cast<int>(prompt.size());
  std::vector<SequenceTask> tasks;
  for (int choice = 0; choice < 3; ++choice) {
    tasks.push_back({.tokens = prompt, .prompt_length = length, .choice = choice, .outputs = 5, .params = Sampled(77)});
  }
  std::vector<SequenceOutcome> separate;
  {
    EngineRig rig(Rig({{0, 2, 2}}));
    separate = RunTogether(rig, Epoch(1), tasks, 64);
    ASSERT_EQ(separate.size(), 3u);
    EXPECT_NE(separate[0].tokens, separate[1].tokens);
  }
  EngineRig rig(Rig({{0, 1, 2}, {1, 2, 1}}));
  ASSERT_TRUE(rig.Assemble(Epoch(1)));
  StepPlan first{.epoch = Epoch(1), .step = StepNumber(1)};
  first.starts = {{.slot = 5, .prompt_length = length, .history = prompt, .params = Sampled(77)},
                  {.slot = 6, .choice = 1, .fork_of = 5},
                  {.slot = 7, .choice = 2, .fork_of = 5}};
  first.rows = {{.slot = 5, .count = length, .new_blocks = {0, 1}}};
  first.samples = {{0, 5, 0}, {0, 6, 0}, {0, 7, 0}};
  rig.Post(first);
  for (uint64_t step = 2; step <= 5; ++step) {
    StepPlan plan{.epoch = Epoch(1), .step = StepNumber(step)};
    const int position = length + static_cast<int>(step) - 2;
    for (int i = 0; i < 3; ++i) {
      PlanRows rows{.slot = 5 + i, .first_position = position, .count = 1};
      if (step == 2 && i > 0) {
        rows.new_blocks = {0, 1};  // what the leader got in the plan of the fork, then a copy of the partial one
        rows.replace_blocks = {{1, 1 + i}};
        plan.copies.push_back({1, 1 + i});
      }
      plan.rows.push_back(rows);
      plan.samples.push_back({i, 5 + i, static_cast<int>(step) - 1});
    }
    rig.Post(plan);
    ExpectResult(rig, step - 1, separate);
  }
  ExpectResult(rig, 5, separate);
}

// Runs the tasks one step at a time, with drafts made of what the undisturbed run came to and of mistakes.
std::vector<SequenceOutcome> RunWithDrafts(EngineRig& rig, Epoch epoch, const std::vector<SequenceTask>& tasks,
                                           const std::vector<SequenceOutcome>& undisturbed, std::mt19937& random) {
  if (!rig.Assemble(epoch)) return {};
  const auto between = [&](int low, int high) { return std::uniform_int_distribution<int>(low, high)(random); };
  std::vector<SequenceOutcome> outcomes(tasks.size());
  std::vector<int> untold(tasks.size(), 0);
  const int blocks_each = rig.options().blocks / static_cast<int>(tasks.size());
  for (uint64_t step = 1;; ++step) {
    StepPlan plan{.epoch = epoch, .step = StepNumber(step)};
    std::vector<size_t> in_plan;
    for (size_t i = 0; i < tasks.size(); ++i) {
      const SequenceTask& task = tasks[i];
      const std::vector<TokenId>& got = outcomes[i].tokens;
      const int outputs = static_cast<int>(got.size());
      if (outputs >= task.outputs) continue;
      const int slot = static_cast<int>(i);
      PlanRows rows{.slot = slot, .first_position = task.prompt_length + outputs - 1, .count = 1};
      if (outputs == 0) {
        plan.starts.push_back({.slot = slot, .choice = task.choice, .prompt_length = task.prompt_length,
                               .history = task.tokens, .params = task.params});
        rows.first_position = 0;
        rows.count = task.prompt_length;
        for (int b = 0; b < blocks_each; ++b) rows.new_blocks.push_back(slot * blocks_each + b);
      } else {
        rows.accepted.assign(got.end() - untold[i], got.end());
        const int guesses = std::min(between(0, 4), task.outputs - outputs - 1);
        for (int g = 0; g < guesses; ++g) {
          const TokenId right = undisturbed[i].tokens[static_cast<size_t>(outputs + g)];
          rows.drafts.push_back(between(0, 3) == 0 ? (right + 1) % 40 : right);
        }
        rows.count += guesses;
      }
      untold[i] = rows.drafts.empty() ? 0 : 1;
      in_plan.push_back(i);
      plan.rows.push_back(rows);
      plan.samples.push_back({static_cast<int>(plan.rows.size()) - 1, slot, outputs});
    }
    if (in_plan.empty()) break;
    rig.Post(plan);
    const std::optional<StepResult> result = rig.reporter().Result();
    if (!result.has_value()) return {};
    for (size_t at = 0; at < in_plan.size(); ++at) {
      const SampledToken& sample = result->samples[at];
      SequenceOutcome& outcome = outcomes[in_plan[at]];
      outcome.tokens.push_back(sample.token);
      outcome.logprobs.push_back(sample.logprobs);
      for (const SampledToken::Further& further : sample.further) {
        outcome.tokens.push_back(further.token);
        outcome.logprobs.push_back(further.logprobs);
      }
      if (untold[in_plan[at]] > 0) untold[in_plan[at]] += static_cast<int>(sample.further.size());
    }
  }
  rig.Release(epoch, true);
  return outcomes;
}

TEST_F(EngineTest, DraftsComeToTheTokensOfTheUndisturbedRun) {
  const std::vector<TokenId> prompt = {10, 20, 30, 10, 20, 30, 10, 20, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14};
  auto penalised = std::make_shared<SamplerParams>();
  penalised->temperature = 0;
  penalised->repetition_penalty = 1.3;
  penalised->frequency_penalty = 0.4;
  penalised->no_repeat_ngram_size = 3;
  penalised->logprobs = 2;
  std::vector<SequenceTask> tasks;
  tasks.push_back({.tokens = prompt, .prompt_length = static_cast<int>(prompt.size()), .outputs = 24, .params = Sampled(5)});
  tasks.push_back({.tokens = prompt, .prompt_length = static_cast<int>(prompt.size()), .outputs = 24, .params = penalised});
  tasks.push_back({.tokens = {1, 2, 3}, .prompt_length = 3, .choice = 2, .outputs = 20, .params = Sampled(6)});
  std::mt19937 random(4);
  std::vector<SequenceOutcome> first;
  for (const std::vector<StageAssignment>& layout :
       {std::vector<StageAssignment>{{0, 2, 1}}, {{0, 2, 3}}, {{0, 1, 1}, {1, 2, 1}}, {{0, 1, 2}, {1, 2, 3}}}) {
    EngineRig rig(Rig(layout));
    const std::vector<SequenceOutcome> undisturbed = RunTogether(rig, Epoch(1), tasks, 64);
    ASSERT_EQ(undisturbed.size(), tasks.size());
    if (first.empty()) first = undisturbed;
    EXPECT_EQ(undisturbed, first);
    for (uint64_t round = 2; round <= 4; ++round) {
      EXPECT_EQ(RunWithDrafts(rig, Epoch(round), tasks, undisturbed, random), undisturbed)
          << layout.size() << " stages, round " << round << ", random seed 4";
    }
  }
}

}  // namespace
}  // namespace pagoda::worker::testing
