// The scheduler's rules one by one, against the toy pipeline.
#include "coordinator/scheduler.h"

#include <gtest/gtest.h>

#include <map>
#include <set>

#include "tests/coordinator/toy_pipeline.h"

namespace pagoda::coordinator {
namespace {

using testing::ToyPipeline;
using testing::ToyToken;

constexpr int kVocabulary = 1000;

EpochSettings Settings() {
  EpochSettings settings;
  settings.epoch = Epoch(1);
  settings.stages = 1;
  settings.blocks = 64;
  settings.block_tokens = 4;
  settings.max_model_len = 128;
  settings.vocabulary = kVocabulary;
  settings.max_step_rows = 256;
  settings.max_sequences = 16;
  settings.max_slots = 32;
  settings.max_sample_rows = 16;
  return settings;
}

Request MakeRequest(uint64_t id, int prompt_length, int max_tokens, int choices = 1) {
  Request request;
  request.id = {1, id};
  request.router = RouterId(1);
  request.attempt = 1;
  for (int i = 0; i < prompt_length; ++i) request.prompt.push_back(static_cast<TokenId>((id * 131 + static_cast<uint64_t>(i)) % kVocabulary));
  request.choices.resize(static_cast<size_t>(choices));
  request.sampling.max_tokens = max_tokens;
  request.sampling.seed = id;
  return request;
}

std::vector<TokenId> Expect(const Request& request, int choice, int count) {
  std::vector<TokenId> history = request.prompt;
  std::vector<TokenId> tokens;
  for (int i = 0; i < count; ++i) {
    tokens.push_back(ToyToken(history, request.sampling.seed, choice, i, kVocabulary, i < request.sampling.min_tokens));
    history.push_back(tokens.back());
  }
  return tokens;
}

class Bench {
 public:
  explicit Bench(const EpochSettings& settings = Settings()) : toy(settings) { scheduler.BeginEpoch(settings); }
  ~Bench() { EXPECT_EQ(toy.errors(), ""); }

  std::vector<StepPlan> Dispatch() {
    std::vector<StepPlan> plans;
    while (std::optional<StepPlan> plan = scheduler.NextPlan(now)) {
      toy.Execute(*plan);
      plans.push_back(*std::move(plan));
    }
    Collect();
    return plans;
  }
  void Read() {
    now += 1000;
    ASSERT_TRUE(scheduler.OnResult(toy.TakeResult(), now).ok());
    Collect();
  }
  void Collect() {
    for (ChoiceOutput& output : scheduler.TakeOutputs()) {
      auto& to = tokens[{output.request.low, output.choice}];
      to.insert(to.end(), output.tokens.begin(), output.tokens.end());
      if (output.finish != FinishReason::kNone) finish[{output.request.low, output.choice}] = output.finish;
      outputs.push_back(std::move(output));
    }
    for (Refusal& refusal : scheduler.TakeRefusals()) refusals.push_back(std::move(refusal));
  }
  void RunToEnd() {
    for (int i = 0; i < 10000; ++i) {
      Dispatch();
      if (!toy.has_result()) return;
      Read();
    }
    FAIL() << "no end";
  }

  Scheduler scheduler;
  ToyPipeline toy;
  int64_t now = 1;
  std::map<std::pair<uint64_t, int>, std::vector<TokenId>> tokens;
  std::map<std::pair<uint64_t, int>, FinishReason> finish;
  std::vector<ChoiceOutput> outputs;
  std::vector<Refusal> refusals;
};

TEST(Scheduler, RunsOneRequestToItsEnd) {
  Bench bench;
  const Request request = MakeRequest(1, 10, 7);
  bench.scheduler.Submit(request, bench.now);
  bench.RunToEnd();
  EXPECT_EQ((bench.tokens[{1, 0}]), Expect(request, 0, 7));
  EXPECT_EQ((bench.finish[{1, 0}]), FinishReason::kLength);
  EXPECT_TRUE(bench.scheduler.idle());
  EXPECT_EQ(bench.scheduler.stats().blocks_used, 0);
  EXPECT_EQ(bench.scheduler.stats().surplus_rows, 0) << "an end by length is known before";
}

TEST(Scheduler, DispatchesTheNextStepBeforeTheResultIsBack) {
  Bench bench;
  bench.scheduler.Submit(MakeRequest(1, 4, 20), bench.now);
  const auto plans = bench.Dispatch();
  ASSERT_EQ(plans.size(), 2u) << "stages + 1";
  EXPECT_EQ(plans[0].rows[0].count, 4);
  EXPECT_EQ(plans[1].rows[0].first_position, 4);
  EXPECT_EQ(plans[1].samples[0].output_index, 1);
  EXPECT_TRUE(bench.Dispatch().empty());
  bench.Read();
  EXPECT_EQ(bench.Dispatch().size(), 1u);
  bench.RunToEnd();
}

TEST(Scheduler, KeepsOneMicroBatchPerStageInFlightAndBalancesThem) {
  EpochSettings settings = Settings();
  settings.stages = 4;
  Bench bench(settings);
  for (uint64_t id = 1; id <= 8; ++id) bench.scheduler.Submit(MakeRequest(id, 4, 60), bench.now);
  for (int i = 0; i < 12; ++i) {  // settle
    bench.Dispatch();
    bench.Read();
  }
  std::map<uint64_t, std::set<int>> slots_of_step;
  for (int i = 0; i < 20; ++i) {
    for (const StepPlan& plan : bench.Dispatch()) {
      EXPECT_EQ(plan.TotalRows(), 2);
      for (const PlanRows& rows : plan.rows) slots_of_step[plan.step.value()].insert(rows.slot.value());
    }
    EXPECT_EQ(bench.toy.in_flight(), 5u);
    bench.Read();
  }
  // Four plans in a row share no sequence: no stage waits for a token of the plan before.
  for (const auto& [step, slots] : slots_of_step) {
    for (uint64_t later = step + 1; later < step + 4; ++later) {
      if (slots_of_step.count(later) == 0) continue;
      for (const int slot : slots) EXPECT_EQ(slots_of_step[later].count(slot), 0u);
    }
  }
  bench.RunToEnd();
}

TEST(Scheduler, CutsALongPromptIntoChunksThatFollowEachOther) {
  EpochSettings settings = Settings();
  settings.max_step_rows = 32;
  settings.stages = 3;
  Bench bench(settings);
  const Request request = MakeRequest(1, 100, 3);
  bench.scheduler.Submit(request, bench.now);
  const auto plans = bench.Dispatch();
  ASSERT_EQ(plans.size(), 4u);
  EXPECT_EQ(plans[0].rows[0].count, 32);
  EXPECT_EQ(plans[1].rows[0].first_position, 32);
  EXPECT_EQ(plans[3].rows[0].count, 4);
  EXPECT_TRUE(plans[2].samples.empty());
  EXPECT_EQ(plans[3].samples.size(), 1u);
  EXPECT_EQ(plans[0].rows[0].new_blocks.size(), 8u);
  EXPECT_EQ(plans[1].rows[0].new_blocks.size(), 8u) << "deltas only";
  bench.RunToEnd();
  EXPECT_EQ((bench.tokens[{1, 0}]), Expect(request, 0, 3));
}

TEST(Scheduler, FusesPromptsWithDecodesUnderTheBudget) {
  EpochSettings settings = Settings();
  settings.max_step_rows = 16;
  Bench bench(settings);
  for (uint64_t id = 1; id <= 3; ++id) bench.scheduler.Submit(MakeRequest(id, 4, 50), bench.now);
  bench.Dispatch();
  bench.Read();
  bench.scheduler.Submit(MakeRequest(9, 60, 5), bench.now);
  bench.Dispatch();
  bench.Read();
  const auto plans = bench.Dispatch();
  ASSERT_FALSE(plans.empty());
  EXPECT_EQ(plans[0].rows.size(), 4u) << "three decodes and a chunk";
  EXPECT_EQ(plans[0].TotalRows(), 16);
  bench.RunToEnd();
}

TEST(Scheduler, StopTokensEndAChoiceAndTheSurplusRowIsThrownAway) {
  Bench bench;
  Request request = MakeRequest(1, 4, 50);
  const std::vector<TokenId> undisturbed = Expect(request, 0, 50);
  request.sampling.stop_token_ids = {undisturbed[5]};
  bench.scheduler.Submit(request, bench.now);
  bench.RunToEnd();
  EXPECT_EQ((bench.tokens[{1, 0}]), Expect(request, 0, 6));
  EXPECT_EQ((bench.finish[{1, 0}]), FinishReason::kStop);
  EXPECT_EQ(bench.outputs.back().stop_token, undisturbed[5]);
  EXPECT_EQ(bench.scheduler.stats().surplus_rows, 1);
  EXPECT_EQ(bench.scheduler.stats().blocks_used, 0);
}

TEST(Scheduler, MinTokensHoldsStopTokensBack) {
  Bench bench;
  Request request = MakeRequest(1, 4, 20);
  request.sampling.min_tokens = 20;
  for (TokenId token = 0; token < kVocabulary; ++token) request.sampling.stop_token_ids.push_back(token);
  bench.scheduler.Submit(request, bench.now);
  bench.RunToEnd();
  EXPECT_EQ((bench.tokens[{1, 0}].size()), 20u);
  EXPECT_EQ((bench.finish[{1, 0}]), FinishReason::kLength);
}

TEST(Scheduler, TheContextEndsAChoice) {
  Bench bench;
  bench.scheduler.Submit(MakeRequest(1, 120, 100), bench.now);
  bench.RunToEnd();
  EXPECT_EQ((bench.tokens[{1, 0}].size()), 8u);
  EXPECT_EQ((bench.finish[{1, 0}]), FinishReason::kLength);
}

TEST(Scheduler, ChoicesForkTheComputedPromptAndCopyItsLastBlock) {
  Bench bench;
  const Request request = MakeRequest(1, 10, 12, 4);
  bench.scheduler.Submit(request, bench.now);
  const auto plans = bench.Dispatch();
  ASSERT_GE(plans.size(), 2u);
  EXPECT_EQ(plans[0].TotalRows(), 10) << "the prompt is computed once";
  EXPECT_EQ(plans[0].starts.size(), 4u);
  EXPECT_EQ(plans[0].starts[1].fork_of, plans[0].starts[0].slot.value() + 1);
  EXPECT_TRUE(plans[0].starts[1].history.empty());
  EXPECT_EQ(plans[0].samples.size(), 4u);
  EXPECT_EQ(plans[1].copies.size(), 3u) << "the last holder writes in place";
  bench.RunToEnd();
  for (int choice = 0; choice < 4; ++choice) EXPECT_EQ((bench.tokens[{1, choice}]), Expect(request, choice, 12)) << choice;
  EXPECT_EQ(bench.scheduler.stats().blocks_used, 0);
}

TEST(Scheduler, ChoicesWithoutASlotComeLater) {
  EpochSettings settings = Settings();
  settings.max_sequences = 2;
  settings.max_slots = 4;
  Bench bench(settings);
  const Request request = MakeRequest(1, 9, 5, 5);
  bench.scheduler.Submit(request, bench.now);
  bench.RunToEnd();
  for (int choice = 0; choice < 5; ++choice) EXPECT_EQ((bench.tokens[{1, choice}]), Expect(request, choice, 5)) << choice;
}

TEST(Scheduler, APrefixThatIsKnownIsNotComputedAgain) {
  Bench bench;
  Request request = MakeRequest(1, 41, 3);
  bench.scheduler.Submit(request, bench.now);
  bench.RunToEnd();
  request.id.low = 2;
  bench.scheduler.Submit(request, bench.now);
  auto plans = bench.Dispatch();
  EXPECT_EQ(plans[0].starts[0].blocks.size(), 10u);
  EXPECT_EQ(plans[0].rows[0].first_position, 40);
  bench.RunToEnd();
  EXPECT_EQ((bench.tokens[{2, 0}]), (bench.tokens[{1, 0}]));
  EXPECT_EQ(bench.outputs.back().finish, FinishReason::kLength);
  EXPECT_EQ(bench.scheduler.stats().prefix_hit_tokens, 40);

  // A prompt of whole blocks leaves its last token to compute.
  request.id.low = 3;
  request.prompt.resize(40);
  bench.scheduler.Submit(request, bench.now);
  plans = bench.Dispatch();
  EXPECT_EQ(plans[0].rows[0].first_position, 36);
  bench.RunToEnd();

  // On request, for prompt log-probabilities, and for another tenant, all is computed.
  for (int kind = 0; kind < 3; ++kind) {
    Request all = request;
    all.id.low = 4 + static_cast<uint64_t>(kind);
    all.bypass_prefix_cache = kind == 0;
    all.sampling.prompt_logprobs = kind == 1 ? 0 : -1;
    all.cache_salt = kind == 2 ? "else" : "";
    bench.scheduler.Submit(all, bench.now);
    EXPECT_EQ(bench.Dispatch()[0].rows[0].first_position, 0) << kind;
    bench.RunToEnd();
  }
}

TEST(Scheduler, PromptLogprobsComeWholeWithTheFirstToken) {
  EpochSettings settings = Settings();
  settings.max_step_rows = 7;
  Bench bench(settings);
  Request request = MakeRequest(1, 30, 3);
  request.sampling.prompt_logprobs = 0;
  request.sampling.logprobs = 0;
  bench.scheduler.Submit(request, bench.now);
  bench.RunToEnd();
  const ChoiceOutput& first = bench.outputs.front();
  ASSERT_EQ(first.prompt_logprobs.size(), 30u);
  EXPECT_TRUE(first.prompt_logprobs[0].empty());
  for (size_t p = 1; p < 30; ++p) {
    EXPECT_EQ(first.prompt_logprobs[p][0].token, request.prompt[p]);
    EXPECT_FLOAT_EQ(first.prompt_logprobs[p][0].logprob, -0.5f * static_cast<float>(p - 1));
  }
  EXPECT_EQ(first.logprobs.size(), 1u);
  EXPECT_TRUE(bench.outputs.back().prompt_logprobs.empty());
}

TEST(Scheduler, PrioritiesGoFirst) {
  EpochSettings settings = Settings();
  settings.max_sequences = 1;
  settings.max_slots = 2;
  Bench bench(settings);
  for (uint64_t id = 1; id <= 4; ++id) {
    Request request = MakeRequest(id, 4, 2);
    request.priority = id == 3 ? -1 : id == 4 ? 5 : 0;
    bench.scheduler.Submit(request, bench.now);
  }
  bench.RunToEnd();
  std::vector<uint64_t> order;
  for (const ChoiceOutput& output : bench.outputs) {
    if (output.finish != FinishReason::kNone) order.push_back(output.request.low);
  }
  EXPECT_EQ(order, (std::vector<uint64_t>{3, 1, 2, 4}));
}

TEST(Scheduler, PreemptsTheYoungestNeverTheOldest) {
  EpochSettings settings = Settings();
  settings.blocks = 40;  // 160 tokens; three of them want 100 each
  settings.prefix_caching = false;
  Bench bench(settings);
  for (uint64_t id = 1; id <= 3; ++id) bench.scheduler.Submit(MakeRequest(id, 20, 80), bench.now);
  bench.RunToEnd();
  EXPECT_GT(bench.scheduler.stats().preemptions, 0);
  std::vector<uint64_t> ends;
  for (const ChoiceOutput& output : bench.outputs) {
    if (output.finish != FinishReason::kNone) ends.push_back(output.request.low);
  }
  ASSERT_EQ(ends.size(), 3u);
  EXPECT_EQ(ends[0], 1u) << "the oldest was never held up";
  for (uint64_t id = 1; id <= 3; ++id) EXPECT_EQ((bench.tokens[{id, 0}]), Expect(MakeRequest(id, 20, 80), 0, 80));
}

TEST(Scheduler, ALateCancelOfAFormerOwnerLeavesTheNewRunAlone) {
  Bench bench;
  Request request = MakeRequest(1, 10, 50);
  request.attempt = 7;
  bench.scheduler.Submit(request, bench.now);
  bench.scheduler.Cancel({1, 1}, 3);
  bench.Collect();
  EXPECT_EQ((bench.finish[{1, 0}]), FinishReason::kNone);
  bench.scheduler.Cancel({1, 1}, 7);
  bench.Collect();
  EXPECT_EQ((bench.finish[{1, 0}]), FinishReason::kCancelled);
}

TEST(Scheduler, BlocksOfACancelledSequenceComeHomeWhenItsRowsHaveRunOut) {
  Bench bench;
  bench.scheduler.Submit(MakeRequest(1, 10, 50), bench.now);
  ASSERT_EQ(bench.Dispatch().size(), 2u);
  bench.scheduler.Cancel({1, 1});
  bench.Collect();
  EXPECT_EQ((bench.finish[{1, 0}]), FinishReason::kCancelled);
  EXPECT_GT(bench.scheduler.stats().blocks_used, 0);
  EXPECT_FALSE(bench.scheduler.idle());
  bench.Read();
  EXPECT_GT(bench.scheduler.stats().blocks_used, 0);
  bench.Read();
  EXPECT_EQ(bench.scheduler.stats().blocks_used, 0);
  EXPECT_TRUE((bench.tokens[{1, 0}].empty())) << "what was sent runs out unseen";
  EXPECT_TRUE(bench.scheduler.idle());
}

TEST(Scheduler, AStopStringEndsOneChoice) {
  Bench bench;
  const Request request = MakeRequest(1, 6, 40, 2);
  bench.scheduler.Submit(request, bench.now);
  for (int i = 0; i < 10; ++i) {
    bench.Dispatch();
    bench.Read();
  }
  const size_t had = bench.tokens[{1, 1}].size();
  bench.scheduler.StopChoice({1, 1}, 1, 3);
  bench.RunToEnd();
  EXPECT_EQ((bench.tokens[{1, 1}].size()), had);
  EXPECT_EQ((bench.finish[{1, 1}]), FinishReason::kStop);
  EXPECT_EQ((bench.tokens[{1, 0}].size()), 40u);
}

TEST(Scheduler, DeadlinesRefuseWhatWaitsAndEndWhatRuns) {
  EpochSettings settings = Settings();
  settings.max_sequences = 1;
  settings.max_slots = 2;
  Bench bench(settings);
  for (uint64_t id = 1; id <= 2; ++id) {
    Request request = MakeRequest(id, 6, 100);
    request.deadline_ns = 5000;
    bench.scheduler.Submit(request, bench.now);
  }
  EXPECT_EQ(bench.scheduler.NextDeadline(), 5000);
  bench.Dispatch();
  bench.scheduler.Tick(4999);
  bench.Collect();
  EXPECT_TRUE(bench.finish.empty());
  bench.scheduler.Tick(5000);
  bench.Collect();
  EXPECT_EQ((bench.finish[{1, 0}]), FinishReason::kError);
  ASSERT_EQ(bench.refusals.size(), 1u);
  EXPECT_EQ(bench.refusals[0].code, RefusalCode::kDeadlineExceeded);
  EXPECT_EQ(bench.refusals[0].request.low, 2u);
  EXPECT_FALSE(bench.scheduler.NextDeadline().has_value());
  bench.RunToEnd();
  EXPECT_TRUE(bench.scheduler.idle());
}

TEST(Scheduler, AReplayGoesOnWithTheTokensItHas) {
  Bench bench;
  Request request = MakeRequest(1, 8, 30, 2);
  const auto first = Expect(request, 0, 30);
  const auto second = Expect(request, 1, 30);
  request.attempt = 4;
  request.choices[0].tokens.assign(first.begin(), first.begin() + 12);
  request.choices[1].tokens = second;
  request.choices[1].finished = true;
  bench.scheduler.Submit(request, bench.now);
  Request stale = request;
  stale.attempt = 3;
  bench.scheduler.Submit(stale, bench.now);
  bench.RunToEnd();
  EXPECT_EQ(bench.outputs.front().first_index, 12);
  EXPECT_EQ((bench.tokens[{1, 0}]), std::vector<TokenId>(first.begin() + 12, first.end()));
  EXPECT_EQ(bench.tokens.count({1, 1}), 0u) << "nothing more to do for it";
  // One that has all its tokens already only ends.
  request.id.low = 2;
  request.choices.resize(1);
  request.choices[0].tokens = first;
  bench.scheduler.Submit(request, bench.now);
  bench.Collect();
  EXPECT_EQ((bench.finish[{2, 0}]), FinishReason::kLength);
}

TEST(Scheduler, ALostEpochLosesNoToken) {
  const Request request = MakeRequest(1, 20, 40);
  Bench bench;
  bench.scheduler.Submit(request, bench.now);
  for (int i = 0; i < 10; ++i) {
    bench.Dispatch();
    bench.Read();
  }
  const size_t had = bench.tokens[{1, 0}].size();
  bench.scheduler.EndEpoch();
  EXPECT_FALSE(bench.scheduler.NextPlan(bench.now).has_value());
  EXPECT_EQ(bench.scheduler.stats().waiting, 1);
  StepResult stale{.epoch = Epoch(1), .step = StepNumber(11), .samples = {}, .prompt_logprobs = {}};
  EXPECT_TRUE(bench.scheduler.OnResult(stale, bench.now).ok()) << "dropped";
  EpochSettings settings = Settings();
  settings.epoch = Epoch(2);
  settings.stages = 2;
  ToyPipeline toy(settings);
  bench.scheduler.BeginEpoch(settings);
  std::optional<StepPlan> plan = bench.scheduler.NextPlan(bench.now);
  ASSERT_TRUE(plan.has_value());
  EXPECT_EQ(plan->step, StepNumber(1));
  EXPECT_EQ(plan->starts[0].history.size(), 20 + had);
  EXPECT_EQ(plan->starts[0].prompt_length, 20);
  while (true) {
    while (plan.has_value()) {
      toy.Execute(*plan);
      plan = bench.scheduler.NextPlan(bench.now);
    }
    if (!toy.has_result()) break;
    ASSERT_TRUE(bench.scheduler.OnResult(toy.TakeResult(), bench.now).ok());
    bench.Collect();
    plan = bench.scheduler.NextPlan(bench.now);
  }
  EXPECT_EQ(toy.errors(), "");
  EXPECT_EQ((bench.tokens[{1, 0}]), Expect(request, 0, 40));
}

TEST(Scheduler, AResultThatBreaksTheProtocolIsAnError) {
  const auto broken = [](auto change) {
    Bench bench;
    bench.scheduler.Submit(MakeRequest(1, 4, 5), bench.now);
    bench.Dispatch();
    StepResult result = bench.toy.TakeResult();
    change(result);
    return bench.scheduler.OnResult(result, bench.now);
  };
  EXPECT_TRUE(broken([](StepResult&) {}).ok());
  EXPECT_FALSE(broken([](StepResult& r) { r.step = StepNumber(2); }).ok());
  EXPECT_FALSE(broken([](StepResult& r) { r.samples.clear(); }).ok());
  EXPECT_FALSE(broken([](StepResult& r) { r.samples.push_back(r.samples[0]); }).ok());
  EXPECT_FALSE(broken([](StepResult& r) { r.samples[0].slot = SlotId(7); }).ok());
  EXPECT_FALSE(broken([](StepResult& r) { r.samples[0].token = kVocabulary; }).ok());
  EXPECT_FALSE(broken([](StepResult& r) { r.samples[0].token = -1; }).ok());
  Bench idle;
  EXPECT_FALSE(idle.scheduler.OnResult({.epoch = Epoch(1), .step = StepNumber(1), .samples = {}, .prompt_logprobs = {}}, 1).ok());
}

TEST(Scheduler, RefusesWhatCannotBeServed) {
  Scheduler early;
  early.Submit(MakeRequest(1, 4, 4), 1);
  EXPECT_EQ(early.TakeRefusals().at(0).code, RefusalCode::kUnavailable);

  EpochSettings settings = Settings();
  settings.max_queued_requests = 3;
  Bench bench(settings);
  const auto code_of = [&](Request request) -> std::optional<RefusalCode> {
    bench.scheduler.Submit(std::move(request), bench.now);
    const auto refusals = bench.scheduler.TakeRefusals();
    return refusals.empty() ? std::nullopt : std::optional(refusals[0].code);
  };
  EXPECT_EQ(code_of(MakeRequest(1, 0, 4)), RefusalCode::kInvalidArgument);
  EXPECT_EQ(code_of(MakeRequest(2, 128, 4)), RefusalCode::kInvalidArgument);
  EXPECT_EQ(code_of(MakeRequest(3, 4, 0)), RefusalCode::kInvalidArgument);
  EXPECT_EQ(code_of(MakeRequest(4, 4, 4, 33)), RefusalCode::kInvalidArgument);
  Request wrong = MakeRequest(5, 4, 4);
  wrong.prompt[2] = kVocabulary;
  EXPECT_EQ(code_of(wrong), RefusalCode::kInvalidArgument);
  EXPECT_EQ(code_of(MakeRequest(6, 4, 4, 3)), std::nullopt);
  EXPECT_EQ(code_of(MakeRequest(7, 4, 4)), RefusalCode::kResourceExhausted);
  Request replay = MakeRequest(8, 4, 4);
  replay.choices[0].tokens = {1};
  EXPECT_EQ(code_of(replay), std::nullopt) << "it was accepted once";
  bench.RunToEnd();
}

TEST(Scheduler, ARouterThatGoesTakesItsRequestsWithIt) {
  Bench bench;
  bench.scheduler.Submit(MakeRequest(1, 4, 50), bench.now);
  Request other = MakeRequest(2, 4, 5);
  other.router = RouterId(2);
  bench.scheduler.Submit(other, bench.now);
  bench.Dispatch();
  bench.scheduler.DropRouter(RouterId(1));
  bench.RunToEnd();
  EXPECT_EQ(bench.tokens.count({1, 0}), 0u);
  EXPECT_EQ((bench.tokens[{2, 0}].size()), 5u);
  EXPECT_TRUE(bench.scheduler.idle());
  EXPECT_EQ(bench.scheduler.leaked_blocks(), 0);
}

}  // namespace
}  // namespace pagoda::coordinator
