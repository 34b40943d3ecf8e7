// The queue under load: fair shares, early refusal, deadlines. All of it pure: time is a number.
#include <gtest/gtest.h>

#include "tests/coordinator/toy_line.h"

namespace pagoda::coordinator {
namespace {

using testing::kMs;
using testing::kVocabulary;
using testing::Line;
using testing::MakeRequest;
using testing::Settings;

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

}  // namespace
}  // namespace pagoda::coordinator
