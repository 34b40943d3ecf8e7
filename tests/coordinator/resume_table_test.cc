// What is kept of streams that their clients may come back for. Pure: time is a number.
#include "coordinator/resume_table.h"

#include <gtest/gtest.h>

#include "tests/coordinator/toy_line.h"

namespace pagoda::coordinator {
namespace {

using testing::kMs;
using testing::MakeRequest;

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

TEST(ResumeTableTest, APipelineIsNeededWhileAClientMayComeBackToIt) {
  ResumeTable table({.bytes = 100'000, .streams = 3, .keep_ns = 60'000 * kMs});
  const Request request = MakeRequest(1, 20);
  ASSERT_TRUE(table.Begin({.tenant = "", .resume_id = "a", .part = 0, .router_state = "", .model_digest = "d", .numerics = "n"}, request,
                          PipelineId(1), 0));
  EXPECT_TRUE(table.HasLately(PipelineId(1), 9000 * kMs)) << "it runs";
  Request newer = request;
  newer.attempt = request.attempt + 1;
  ASSERT_TRUE(table.Begin({.tenant = "", .resume_id = "a", .part = 0, .router_state = "", .model_digest = "d", .numerics = "n"}, newer,
                          PipelineId(1), 0));
  table.Drop(request.id, request.attempt);
  EXPECT_TRUE(table.HasLately(PipelineId(1), 9000 * kMs)) << "what was refused is an older attempt";
  EXPECT_FALSE(table.HasLately(PipelineId(2), 0));
  table.Detach(request.id, 0, 1000 * kMs);
  EXPECT_TRUE(table.HasLately(PipelineId(1), 1000 * kMs));
  EXPECT_FALSE(table.HasLately(PipelineId(1), 1001 * kMs)) << "that is too long ago";
  const std::vector<ResumeTable::Part> parts = table.Find("", "a", 2000 * kMs);
  ASSERT_EQ(parts.size(), 1u);
  EXPECT_EQ(parts[0].model_digest, "d");
  EXPECT_EQ(parts[0].numerics, "n");
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
