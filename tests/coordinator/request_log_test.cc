#include "coordinator/request_log.h"

#include <gtest/gtest.h>

#include "common/log.h"

namespace pagoda::coordinator {
namespace {

Request MakeRequest(uint64_t id, int choices, uint32_t attempt = 0, uint64_t router = 1) {
  Request request;
  request.id = {.high = 7, .low = id};
  request.client_request_id = "client-" + std::to_string(id);
  request.router = RouterId(router);
  request.attempt = attempt;
  request.prompt = {424242, 424243, 424244};
  request.choices.resize(static_cast<size_t>(choices));
  return request;
}

ChoiceOutput Output(uint64_t id, int choice, FinishReason finish, int output_tokens, uint32_t attempt = 0) {
  ChoiceOutput output;
  output.request = {.high = 7, .low = id};
  output.attempt = attempt;
  output.choice = choice;
  output.finish = finish;
  output.output_tokens = output_tokens;
  return output;
}

int Count(const std::string& text, const std::string& part) {
  int count = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++count;
  return count;
}

class RequestLogTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() { InitLog("coordinator", LogLevel::kInfo, false); }
  void SetUp() override { ::testing::internal::CaptureStderr(); }
  std::string Lines() { return ::testing::internal::GetCapturedStderr(); }

  RequestLog log{PipelineId(3)};
};

TEST_F(RequestLogTest, TellsArrivalAndEndOnceWithBothIds) {
  const Request request = MakeRequest(1, 2);
  LogReceived(request, PipelineId(3));
  log.Received(request);
  ChoiceOutput first = Output(1, 0, FinishReason::kNone, 0);
  first.tokens = {515151};
  first.queue_ns = 12'000;
  first.prefill_ns = 345'000;
  log.Observe(first);
  ChoiceOutput later = Output(1, 0, FinishReason::kStop, 5);
  later.first_index = 4;
  log.Observe(later);
  EXPECT_EQ(log.open(), 1u) << "the other choice goes on";
  log.Observe(Output(1, 1, FinishReason::kLength, 8));
  EXPECT_EQ(log.open(), 0u);
  log.Idle();
  const std::string lines = Lines();
  EXPECT_EQ(Count(lines, "\"event\":\"request_received\""), 1) << lines;
  EXPECT_EQ(Count(lines, "\"event\":\"request_finished\""), 1) << lines;
  EXPECT_EQ(Count(lines, "\"request_id\":\"client-1\""), 2) << lines;
  EXPECT_EQ(Count(lines, "\"request\":\"" + request.id.ToString() + "\""), 2) << lines;
  for (const char* field : {"\"pipeline\":3", "\"prompt_tokens\":3", "\"output_tokens\":13", "\"finish_reason\":\"length\"",
                            "\"queue_us\":12", "\"prefill_us\":345"}) {
    EXPECT_NE(lines.find(field), std::string::npos) << field << " in " << lines;
  }
  EXPECT_EQ(lines.find("4242"), std::string::npos) << "no token of the prompt";
  EXPECT_EQ(lines.find("5151"), std::string::npos) << "nor of the output";
}

TEST_F(RequestLogTest, WhateverTheEndNothingStaysOpen) {
  for (uint64_t id = 1; id <= 4; ++id) log.Received(MakeRequest(id, 1, 0, id));
  Refusal refusal;
  refusal.request = {.high = 7, .low = 1};
  log.Refused(refusal);
  log.DropRouter(RouterId(2));
  log.Observe(Output(3, 0, FinishReason::kCancelled, 2));
  EXPECT_EQ(log.open(), 1u);
  log.Idle();
  EXPECT_EQ(log.open(), 0u);
  const std::string lines = Lines();
  for (const char* reason : {"refused", "router_gone", "cancelled", "nothing_left"}) {
    EXPECT_EQ(Count(lines, "\"finish_reason\":\"" + std::string(reason) + "\""), 1) << lines;
  }
}

TEST_F(RequestLogTest, ALateWordOfAnEarlierAttemptEndsNothing) {
  log.Received(MakeRequest(1, 1, 0));
  Request replay = MakeRequest(1, 2, 1);
  replay.choices[0].finished = true;
  log.Received(replay);
  log.Received(MakeRequest(1, 1, 0));
  log.Observe(Output(1, 0, FinishReason::kCancelled, 1, 0));
  EXPECT_EQ(log.open(), 1u);
  log.Observe(Output(1, 1, FinishReason::kStop, 9, 1));
  EXPECT_EQ(log.open(), 0u);
  EXPECT_EQ(Count(Lines(), "\"event\":\"request_finished\""), 1);
}

}  // namespace
}  // namespace pagoda::coordinator
