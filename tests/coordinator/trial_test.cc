// The requests that kill: trials of suspects, quarantine. All of it pure: time is a number.
#include <gtest/gtest.h>

#include "tests/coordinator/toy_line.h"

namespace pagoda::coordinator {
namespace {

using testing::kMs;
using testing::kVocabulary;
using testing::Line;
using testing::MakeRequest;
using testing::Settings;
using testing::ToyToken;

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

struct Draw {
  uint64_t random;
  uint64_t operator()(uint64_t bound) {
    random ^= random << 13;
    random ^= random >> 7;
    random ^= random << 17;
    return random % bound;
  }
};

TEST(TrialTest, RandomKillsConvictNobody) {
  int kills = 0;
  int64_t trials = 0;
  for (uint64_t seed = 1; seed <= 40; ++seed) {
    Line line;
    Draw draw{seed * 0x9e3779b97f4a7c15ULL};
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
    Draw draw{seed * 0x9e3779b97f4a7c15ULL};
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

}  // namespace
}  // namespace pagoda::coordinator
