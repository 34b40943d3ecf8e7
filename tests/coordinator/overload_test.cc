// The queue under load and the requests that kill: fair shares, early refusal, deadlines, trials of suspects, quarantine;
// and what is kept of streams that their clients may come back for. All of it pure: time is a number.
#include <gtest/gtest.h>

#include <map>
#include <set>

#include "coordinator/resume_table.h"
#include "coordinator/scheduler.h"
#include "tests/coordinator/toy_pipeline.h"

namespace pagoda::coordinator {
namespace {

using testing::ToyPipeline;
using testing::ToyToken;

constexpr int64_t kMs = 1'000'000;
constexpr int kVocabulary = 1000;

EpochSettings Settings(int max_sequences = 4) {
  EpochSettings settings;
  settings.epoch = Epoch(1);
  settings.blocks = 256;
  settings.block_tokens = 4;
  settings.max_model_len = 256;
  settings.vocabulary = kVocabulary;
  settings.max_sequences = max_sequences;
  settings.max_slots = 2 * max_sequences;
  settings.max_sample_rows = max_sequences;
  return settings;
}

Request MakeRequest(uint64_t id, int max_tokens, const std::string& tenant = "", int prompt_length = 6) {
  Request request;
  request.id = {1, id};
  request.router = RouterId(1);
  request.attempt = 1;
  request.tenant = tenant;
  request.client_request_id = absl::StrCat("client-", id);
  for (int i = 0; i < prompt_length; ++i) {
    request.prompt.push_back(static_cast<TokenId>((id * 131 + static_cast<uint64_t>(i) * 7) % kVocabulary));
  }
  request.choices.resize(1);
  request.sampling.max_tokens = max_tokens;
  request.sampling.seed = id;
  return request;
}

// A pipeline whose step takes 10 ms, whatever is in it.
class Line {
 public:
  explicit Line(const EpochSettings& settings = Settings()) : settings_(settings) { Open(); }
  ~Line() { EXPECT_EQ(toy->errors(), ""); }

  void Open() {
    toy = std::make_unique<ToyPipeline>(settings_);
    scheduler.BeginEpoch(settings_);
  }
  void Die() {
    scheduler.EndEpoch(EpochEnd::kLost);
    Collect();
    Open();
  }
  void Submit(Request request) {
    scheduler.Submit(std::move(request), now);
    Collect();
  }
  void Dispatch() {
    while (std::optional<StepPlan> plan = scheduler.NextPlan(now)) {
      last_slots.clear();
      last_starts = plan->starts;
      for (const PlanRows& rows : plan->rows) last_slots.insert(rows.slot);
      toy->Execute(*plan);
    }
    Collect();
  }
  void Step() {
    Dispatch();
    now += 10 * kMs;
    scheduler.Tick(now);
    if (toy->has_result()) {
      EXPECT_TRUE(scheduler.OnResult(toy->TakeResult(), now).ok());
    }
    Collect();
  }
  void RunOut(int most = 10'000) {
    for (int i = 0; i < most && !scheduler.idle(); ++i) Step();
    EXPECT_TRUE(scheduler.idle());
    EXPECT_EQ(scheduler.leaked_blocks(), 0);
  }
  void Collect() {
    for (ChoiceOutput& output : scheduler.TakeOutputs()) {
      auto& list = tokens[output.request.low];
      list.insert(list.end(), output.tokens.begin(), output.tokens.end());
      if (output.finish == FinishReason::kNone) continue;
      ended.push_back(output.request.low);
      ended_ns[output.request.low] = now;
      if (output.finish == FinishReason::kError) errors[output.request.low] = output.error;
    }
    for (Refusal& refusal : scheduler.TakeRefusals()) refused[refusal.request.low] = refusal;
    for (const DeathNotice& notice : scheduler.TakeDeathNotices()) {
      deaths[notice.request.low] = {notice.deaths, notice.deaths_alone};
    }
  }

  Scheduler scheduler;
  std::unique_ptr<ToyPipeline> toy;
  int64_t now = 1000 * kMs;
  std::map<uint64_t, std::vector<TokenId>> tokens;
  std::vector<uint64_t> ended;
  std::map<uint64_t, int64_t> ended_ns;
  std::map<uint64_t, std::string> errors;
  std::map<uint64_t, Refusal> refused;
  std::map<uint64_t, std::pair<int, int>> deaths;
  std::set<SlotId> last_slots;
  std::vector<StartSlot> last_starts;

 private:
  const EpochSettings settings_;
};

TEST(OverloadTest, ATenantThatFloodsTheQueueWaitsBehindItself) {
  Line line(Settings(1));
  for (uint64_t id = 1; id <= 20; ++id) line.Submit(MakeRequest(id, 5, "noisy"));
  line.Step();  // the first runs
  line.Submit(MakeRequest(100, 5, "quiet"));
  line.Submit(MakeRequest(101, 5, "quiet"));
  line.RunOut();
  const auto place = [&](uint64_t id) {
    return std::find(line.ended.begin(), line.ended.end(), id) - line.ended.begin();
  };
  EXPECT_LE(place(100), 2) << "its turn is next, or after the one whose turn it was";
  EXPECT_LE(place(101), 4) << "from there they take turns";
  EXPECT_EQ(line.ended.size(), 22u) << "nobody starves";
  for (uint64_t id = 2; id <= 20; ++id) EXPECT_LT(place(id - 1), place(id)) << "one tenant's requests keep their order";
}

TEST(OverloadTest, AShareIsWeighted) {
  Line line(Settings(1));
  for (uint64_t id = 1; id <= 30; ++id) {
    Request request = MakeRequest(id, 4, id % 2 == 0 ? "heavy" : "light");
    request.tenant_weight = id % 2 == 0 ? 3 : 1;
    line.Submit(std::move(request));
  }
  line.RunOut();
  int heavy = 0;
  for (size_t i = 0; i < 16; ++i) heavy += line.ended[i] % 2 == 0;
  EXPECT_GE(heavy, 11) << "three of four while both have something queued";
  EXPECT_LE(heavy, 13);
}

TEST(OverloadTest, PriorityGoesBeforeShares) {
  Line line(Settings(1));
  for (uint64_t id = 1; id <= 5; ++id) line.Submit(MakeRequest(id, 3, "a"));
  Request urgent = MakeRequest(50, 3, "a");
  urgent.priority = -1;
  line.Submit(std::move(urgent));
  line.RunOut();
  EXPECT_EQ(line.ended.front(), 50u);
}

TEST(OverloadTest, TheWaitIsForetoldFromHowTheQueueMoved) {
  Line line(Settings(2));
  for (uint64_t id = 1; id <= 40; ++id) line.Submit(MakeRequest(id, 10));
  for (int i = 0; i < 60; ++i) line.Step();
  const int waiting = line.scheduler.stats().waiting;
  ASSERT_GT(waiting, 5);
  const int64_t foretold_ns = line.scheduler.PredictedWaitNs("", 0);
  const int64_t asked_ns = line.now;
  line.Submit(MakeRequest(100, 10));
  while (line.tokens[100].empty()) line.Step();
  const double waited = static_cast<double>(line.now - asked_ns);
  EXPECT_GT(static_cast<double>(foretold_ns), 0.6 * waited);
  EXPECT_LT(static_cast<double>(foretold_ns), 1.5 * waited);
  line.RunOut();
}

TEST(OverloadTest, WhoWouldBeLateIsRefusedAtOnceWithATimeToComeBack) {
  Line line(Settings(2));
  for (uint64_t id = 1; id <= 30; ++id) line.Submit(MakeRequest(id, 10));
  for (int i = 0; i < 60; ++i) line.Step();
  Request hasty = MakeRequest(100, 10);
  hasty.deadline_ns = line.now + 150 * kMs;
  line.Submit(hasty);
  ASSERT_TRUE(line.refused.count(100));
  EXPECT_EQ(line.refused[100].code, RefusalCode::kResourceExhausted);
  EXPECT_GE(line.refused[100].retry_after_ms, 100);
  EXPECT_NE(line.refused[100].message.find("deadline cannot be met"), std::string::npos) << line.refused[100].message;
  Request patient = MakeRequest(101, 10);
  patient.deadline_ns = line.now + 60'000 * kMs;
  line.Submit(patient);
  hasty.id = {1, 102};
  hasty.accepted = true;
  line.Submit(hasty);
  EXPECT_FALSE(line.refused.count(101));
  EXPECT_FALSE(line.refused.count(102)) << "what was accepted elsewhere is not turned away";
  line.RunOut();
  hasty.id = {1, 103};
  hasty.accepted = false;
  hasty.deadline_ns = line.now + 20 * kMs;
  line.Submit(hasty);
  EXPECT_FALSE(line.refused.count(103)) << "an idle pipeline tries: it may be quicker than it was";
  line.RunOut();
}

TEST(OverloadTest, AFullQueueStillTakesOfWhoHasLittleInIt) {
  EpochSettings settings = Settings(1);
  settings.max_queued_requests = 32;
  Line line(settings);
  for (uint64_t id = 1; id <= 60; ++id) line.Submit(MakeRequest(id, 5, "flood"));
  ASSERT_FALSE(line.refused.empty());
  for (uint64_t id = 101; id <= 104; ++id) line.Submit(MakeRequest(id, 5, "quiet"));
  EXPECT_FALSE(line.refused.count(101));
  EXPECT_FALSE(line.refused.count(102));
  EXPECT_TRUE(line.refused.count(103)) << "a sixteenth of the queue, no more";
  line.Submit(MakeRequest(200, 5));
  EXPECT_TRUE(line.refused.count(200)) << "nobody's request: there are no tenants";
  line.RunOut();
  EXPECT_LT(line.ended_ns[101], line.ended_ns[20]) << "and it does not wait behind the flood";
}

TEST(OverloadTest, AQueueThatIsTooLongInTimeRefuses) {
  EpochSettings settings = Settings(1);
  settings.max_queue_wait_ns = 500 * kMs;
  Line line(settings);
  for (uint64_t id = 1; id <= 6; ++id) line.Submit(MakeRequest(id, 20));
  EXPECT_TRUE(line.refused.empty()) << "nothing is known yet: never refuse on a guess";
  for (int i = 0; i < 50; ++i) line.Step();
  line.Submit(MakeRequest(100, 20));
  ASSERT_TRUE(line.refused.count(100));
  EXPECT_GE(line.refused[100].retry_after_ms, 1000);
  line.RunOut();
  line.Submit(MakeRequest(101, 20));
  EXPECT_FALSE(line.refused.count(101));
  line.RunOut();
}

TEST(OverloadTest, AQueuedRequestThatCannotBeInTimeAnyMoreGivesItsPlaceAway) {
  Line line(Settings(1));
  line.Submit(MakeRequest(1, 10));
  line.RunOut();  // ten steps a request are known
  line.Submit(MakeRequest(2, 10));
  line.Step();
  Request tight = MakeRequest(3, 10);
  tight.deadline_ns = line.now + 230 * kMs;  // enough now: 100 in the queue and 100 to run
  line.Submit(tight);
  ASSERT_FALSE(line.refused.count(3));
  Request urgent = MakeRequest(4, 10);
  urgent.priority = -1;
  line.Submit(urgent);  // comes in between
  line.Submit(MakeRequest(5, 10));
  line.RunOut();
  EXPECT_TRUE(line.refused.count(3) || line.errors.count(3) || line.ended_ns[3] <= tight.deadline_ns);
  if (line.refused.count(3)) {
    EXPECT_EQ(line.refused[3].code, RefusalCode::kDeadlineExceeded);
  }
  EXPECT_EQ(line.tokens[5].size(), 10u);
}

TEST(OverloadTest, APauseAfterABurstOfForksIsNotTakenForASlowQueue) {
  Line line(Settings(4));
  const auto fan = [](uint64_t id) {
    Request request = MakeRequest(id, 1);
    request.choices.resize(4);
    return request;
  };
  for (uint64_t id = 1; id <= 6; ++id) line.Submit(fan(id));
  line.RunOut();
  line.now += 60'000 * kMs;
  for (uint64_t id = 11; id <= 26; ++id) line.Submit(fan(id));
  for (int i = 0; i < 3; ++i) line.Step();
  EXPECT_LT(line.scheduler.PredictedWaitNs("", 0), 2'000 * kMs);
  EXPECT_TRUE(line.refused.empty());
  line.RunOut();
}

TEST(OverloadTest, WhatNoTokenEndsIsForetoldByItsOwnLength) {
  Line line(Settings(1));
  for (uint64_t id = 1; id <= 8; ++id) line.Submit(MakeRequest(id, 10));
  line.RunOut();  // ten tokens a request are known
  line.Submit(MakeRequest(9, 10));
  line.Step();
  Request ended = MakeRequest(10, 100);
  ended.deadline_ns = line.now + 400 * kMs;
  ended.sampling.stop_token_ids = {kVocabulary - 1};
  line.Submit(ended);
  EXPECT_FALSE(line.refused.count(10)) << "others' end after ten tokens: it may";
  Request endless = MakeRequest(11, 100);
  endless.deadline_ns = line.now + 900 * kMs;
  line.Submit(endless);
  EXPECT_TRUE(line.refused.count(11)) << "a hundred steps of 10 ms are more than 900 ms";
  line.RunOut();
}

TEST(TrialTest, ADeathIsCountedForWhatWasInFlightAlone) {
  Line line;
  line.Submit(MakeRequest(1, 20));
  line.Submit(MakeRequest(2, 20));
  line.Dispatch();
  for (uint64_t id = 3; id <= 9; ++id) line.Submit(MakeRequest(id, 5));  // wait, or run later
  line.Die();
  EXPECT_EQ(line.deaths.size(), 2u);
  EXPECT_EQ(line.deaths[1], std::pair(1, 0));
  line.scheduler.EndEpoch(EpochEnd::kPlanned);
  line.Collect();
  EXPECT_EQ(line.deaths[1], std::pair(1, 0)) << "a planned end blames nobody";
  line.Open();
  line.RunOut();
}

TEST(TrialTest, ASuspectRunsAloneForAWhileAndIsCleared) {
  Line line;
  line.Submit(MakeRequest(1, 30));
  line.Submit(MakeRequest(2, 30));
  for (int death = 0; death < 2; ++death) {
    line.Step();
    line.Dispatch();
    line.Die();
  }
  EXPECT_EQ(line.deaths[1], std::pair(2, 0));
  EXPECT_EQ(line.deaths[2], std::pair(2, 0));
  line.Submit(MakeRequest(3, 30));
  int alone = 0, together = 0;
  while (!line.scheduler.idle()) {
    line.Step();
    if (line.scheduler.idle()) break;
    (line.last_slots.size() == 1 ? alone : together)++;
  }
  EXPECT_EQ(line.scheduler.stats().trials, 2);
  EXPECT_GE(alone, 2 * limits::kTrialTokens);
  EXPECT_GE(together, 15) << "once cleared they run with the others";
  EXPECT_EQ(line.deaths[1], std::pair(0, 0));
  EXPECT_EQ(line.deaths[2], std::pair(0, 0));
  EXPECT_TRUE(line.errors.empty());
  for (uint64_t id = 1; id <= 3; ++id) EXPECT_EQ(line.tokens[id].size(), 30u);
}

// Whatever has the poison's rows in flight dies.
TEST(TrialTest, OnlyTheRequestThatKillsAloneTwiceIsQuarantined) {
  Line line;
  Request poison = MakeRequest(13, 40);
  std::vector<Request> innocents;
  for (uint64_t id = 1; id <= 3; ++id) innocents.push_back(MakeRequest(id, 40));
  for (const Request& request : innocents) line.Submit(request);
  line.Step();
  line.Submit(poison);
  int died = 0;
  for (int i = 0; i < 2000 && !line.scheduler.idle(); ++i) {
    std::set<SlotId> poisoned;
    bool starts = false;
    while (std::optional<StepPlan> plan = line.scheduler.NextPlan(line.now)) {
      for (const StartSlot& start : plan->starts) starts = starts || start.request.low == 13;
      line.toy->Execute(*plan);
    }
    line.now += 10 * kMs;
    if (starts) {
      ++died;
      line.Die();
      continue;
    }
    if (line.toy->has_result()) {
      ASSERT_TRUE(line.scheduler.OnResult(line.toy->TakeResult(), line.now).ok());
    }
    line.Collect();
  }
  EXPECT_EQ(died, 4) << "twice in company, twice alone";
  ASSERT_EQ(line.errors.size(), 1u);
  EXPECT_EQ(line.errors.count(13), 1u);
  EXPECT_TRUE(line.errors[13].rfind("ABORTED:", 0) == 0 && line.errors[13].find("client-13") != std::string::npos)
      << line.errors[13];
  for (const Request& request : innocents) EXPECT_EQ(line.tokens[request.id.low].size(), 40u);
  // Sent anew under another id it is known; another prompt is not.
  poison.id = {1, 14};
  line.Submit(poison);
  ASSERT_TRUE(line.refused.count(14));
  EXPECT_EQ(line.refused[14].code, RefusalCode::kAborted);
  line.now += (limits::kQuarantineMs + 1) * kMs;
  poison.id = {1, 15};
  line.Submit(poison);
  EXPECT_FALSE(line.refused.count(15)) << "not for ever";
  line.RunOut();
}

TEST(TrialTest, RandomKillsConvictNobody) {
  int kills = 0;
  int64_t trials = 0;
  for (uint64_t seed = 1; seed <= 40; ++seed) {
    Line line;
    uint64_t random = seed * 0x9e3779b97f4a7c15ULL;
    const auto draw = [&](uint64_t bound) {
      random ^= random << 13;
      random ^= random >> 7;
      random ^= random << 17;
      return random % bound;
    };
    // A kill every four seconds, on average: far more than anybody has, and each hits all that run.
    for (uint64_t id = 1; id <= 40; ++id) line.Submit(MakeRequest(id, 200));
    for (int i = 0; i < 40'000 && !line.scheduler.idle(); ++i) {
      line.Step();
      if (draw(400) == 0) {
        line.Dispatch();
        line.Die();
        ++kills;
      }
    }
    trials += line.scheduler.stats().trials;
    ASSERT_TRUE(line.scheduler.idle()) << "seed " << seed;
    EXPECT_TRUE(line.errors.empty()) << "seed " << seed << ": " << line.errors.begin()->second;
    for (uint64_t id = 1; id <= 40; ++id) {
      const Request request = MakeRequest(id, 200);
      std::vector<TokenId> history = request.prompt, expected;
      for (int i = 0; i < 200; ++i) {
        expected.push_back(ToyToken(history, id, 0, i, kVocabulary, false));
        history.push_back(expected.back());
      }
      EXPECT_EQ(line.tokens[id], expected) << "seed " << seed;
    }
  }
  EXPECT_GT(kills, 100);
  EXPECT_GT(trials, 20) << "nobody was suspected: the test does not test";
}

// Suspects in a pool in which the sequences hardly fit: trials that find no room, preemption by and of them.
TEST(TrialTest, SuspectsGetOnWhenBlocksAreScarce) {
  for (uint64_t seed = 1; seed <= 60; ++seed) {
    EpochSettings settings = Settings();
    settings.blocks = 64 + static_cast<int>(seed % 7);
    Line line(settings);
    uint64_t random = seed * 0x9e3779b97f4a7c15ULL;
    const auto draw = [&](uint64_t bound) {
      random ^= random << 13;
      random ^= random >> 7;
      random ^= random << 17;
      return random % bound;
    };
    for (uint64_t id = 1; id <= 10; ++id) {
      Request request = MakeRequest(id, 30 + static_cast<int>(draw(120)), "", 20 + static_cast<int>(draw(60)));
      request.choices.resize(1 + draw(3));
      request.deaths = draw(2) == 0 ? 2 : 0;
      line.Submit(std::move(request));
    }
    int deaths = 0;
    for (int i = 0; i < 20'000 && !line.scheduler.idle(); ++i) {
      line.Step();
      if (draw(300) != 0) continue;
      line.Dispatch();
      line.Die();
      ++deaths;
    }
    ASSERT_TRUE(line.scheduler.idle()) << "seed " << seed << ": it stands still";
    EXPECT_EQ(line.scheduler.leaked_blocks(), 0) << "seed " << seed;
    EXPECT_TRUE(line.errors.empty() || deaths > 1) << "seed " << seed;
  }
}

TEST(TrialTest, TheCountsComeWithTheRequestFromAnotherPipeline) {
  Line line;
  Request request = MakeRequest(1, 20);
  request.deaths = 2;
  request.deaths_alone = 1;
  request.accepted = true;
  line.Submit(request);
  line.Submit(MakeRequest(2, 20));
  line.Dispatch();
  EXPECT_EQ(line.last_slots.size(), 1u) << "alone";
  line.Die();
  EXPECT_EQ(line.errors.count(1), 1u);
  EXPECT_EQ(line.deaths[1], std::pair(2, 2));
  line.RunOut();
  EXPECT_EQ(line.tokens[2].size(), 20u);
}

ChoiceOutput Tokens(const Request& request, int first, std::vector<TokenId> tokens, FinishReason finish = FinishReason::kNone) {
  ChoiceOutput output;
  output.request = request.id;
  output.attempt = request.attempt;
  output.resumable = true;
  output.first_index = first;
  output.tokens = std::move(tokens);
  output.finish = finish;
  return output;
}

TEST(ResumeTableTest, ALogIsFoundByItsNameUntilItsTimeIsOver) {
  ResumeTable table;
  Request request = MakeRequest(1, 20);
  ASSERT_TRUE(table.Begin({.tenant = "t", .resume_id = "mine", .part = 0, .router_state = "state"}, request, PipelineId(4), 0));
  table.Append(Tokens(request, 0, {5, 6}), 0);
  table.Append(Tokens(request, 1, {6, 7}), 0);
  table.Append(Tokens(request, 9, {9}), 0);
  auto parts = table.Find("t", "mine", 0);
  ASSERT_EQ(parts.size(), 1u);
  EXPECT_EQ(parts[0].choices[0].tokens, (std::vector<TokenId>{5, 6, 7})) << "what it has is dropped, a gap is not taken";
  EXPECT_EQ(parts[0].router_state, "state");
  EXPECT_EQ(parts[0].pipeline, PipelineId(4));
  EXPECT_TRUE(parts[0].attached);
  EXPECT_TRUE(table.Find("other", "mine", 0).empty()) << "another tenant's";
  EXPECT_FALSE(table.Find("t", "mine", 500 * kMs)[0].attached) << "whoever had it is stopped by the first question";
  table.DetachRouter(RouterId(1), 1000 * kMs);
  EXPECT_EQ(table.Find("t", "mine", 60'499 * kMs).size(), 1u);
  EXPECT_TRUE(table.Find("t", "mine", 120'499 * kMs).empty());
  EXPECT_EQ(table.sizes().streams, 0);
  EXPECT_EQ(table.sizes().bytes, 0u);
}

// Two routers may both believe for a while that the stream is theirs.
TEST(ResumeTableTest, TheLastWhoAskedOutranksTheOthers) {
  ResumeTable table;
  Request request = MakeRequest(1, 20);
  const ResumeTable::Label label{.tenant = "", .resume_id = "a", .part = 0, .router_state = "s"};
  ASSERT_TRUE(table.Begin(label, request, PipelineId(1), 0));
  table.Append(Tokens(request, 0, {1, 2}), 0);
  const uint32_t second = table.Find("", "a", 0)[0].attempt;
  const uint32_t third = table.Find("", "a", 0)[0].attempt;
  EXPECT_GT(second, request.attempt + 1000);
  EXPECT_GT(third, second + 1000);
  request.attempt = third + 1;
  request.choices[0].tokens = {1, 2};
  ASSERT_TRUE(table.Begin(label, request, PipelineId(1), 0));
  Request late = request;
  late.attempt = second + 7;
  ASSERT_TRUE(table.Begin(label, late, PipelineId(2), 0));
  table.Append(Tokens(late, 2, {99}), 0);
  table.Append(Tokens(request, 2, {3}), 0);
  const auto parts = table.Find("", "a", 0);
  EXPECT_EQ(parts[0].choices[0].tokens, (std::vector<TokenId>{1, 2, 3}));
  EXPECT_EQ(parts[0].pipeline, PipelineId(1));
}

TEST(ResumeTableTest, AReplayGoesOnWithTheLogAndAnOlderAttemptDoesNot) {
  ResumeTable table;
  Request request = MakeRequest(1, 20);
  ASSERT_TRUE(table.Begin({.tenant = "", .resume_id = "a", .part = 0, .router_state = "s"}, request, PipelineId(1), 0));
  ChoiceOutput first = Tokens(request, 0, {1, 2});
  first.cached_tokens = 3;
  table.Append(first, 0);
  Request replay = request;
  replay.attempt = 2;
  replay.choices[0].tokens = {1, 2};
  ASSERT_TRUE(table.Begin({.tenant = "", .resume_id = "a", .part = 0, .router_state = ""}, replay, PipelineId(2), 0));
  table.Append(Tokens(request, 2, {77}), 0);
  table.Append(Tokens(replay, 2, {3}, FinishReason::kLength), 0);
  const auto parts = table.Find("", "a", 0);
  ASSERT_EQ(parts.size(), 1u);
  EXPECT_EQ(parts[0].choices[0].tokens, (std::vector<TokenId>{1, 2, 3}));
  EXPECT_TRUE(parts[0].choices[0].finished);
  EXPECT_FALSE(parts[0].attached) << "it ended; it is kept all the same";
  EXPECT_EQ(parts[0].router_state, "s");
  EXPECT_EQ(parts[0].cached_tokens, 3);
}

TEST(ResumeTableTest, AFormerOwnersCancelLeavesANewerAttemptAttached) {
  Request request = MakeRequest(1, 20);
  request.attempt = 5;
  for (const uint32_t attempt : {4u, 5u, 0u}) {
    ResumeTable table;
    ASSERT_TRUE(table.Begin({.tenant = "", .resume_id = "a", .part = 0, .router_state = ""}, request, PipelineId(1), 0));
    table.Detach(request.id, attempt, 0);
    EXPECT_EQ(table.Find("", "a", 0).at(0).attached, attempt == 4) << attempt;
  }
}

TEST(ResumeTableTest, MemoryIsBoundedAndTheAbandonedGoFirst) {
  ResumeTable table({.bytes = 100'000, .streams = 3, .keep_ns = 1000 * kMs});
  std::vector<Request> requests;
  for (uint64_t id = 1; id <= 4; ++id) requests.push_back(MakeRequest(id, 5));
  const auto begin = [&](size_t i, std::string state = "") {
    return table.Begin({.tenant = "", .resume_id = absl::StrCat(i), .part = 0, .router_state = std::move(state)}, requests[i],
                       PipelineId(1), 0);
  };
  ASSERT_TRUE(begin(0) && begin(1) && begin(2));
  EXPECT_FALSE(begin(3)) << "all of them are being served";
  table.Detach(requests[1].id, 0, 0);
  EXPECT_TRUE(begin(3));
  EXPECT_TRUE(table.Find("", "1", 0).empty());
  EXPECT_EQ(table.Find("", "0", 0).size(), 1u);
  table.Detach(requests[0].id, 0, 0);
  table.Drop(requests[2].id);
  EXPECT_FALSE(begin(2, std::string(200'000, 'x'))) << "more bytes than there may be";
  table.Expire(2000 * kMs);
  EXPECT_EQ(table.sizes().streams, 1);
}

}  // namespace
}  // namespace pagoda::coordinator
