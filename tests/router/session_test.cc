// One request's life with a scripted token stream: duplicates, gaps, old attempts, stop strings
// across tokens, replay.
#include "router/session.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/stream_errors.h"
#include "router/dispatcher_wire.h"
#include "tests/router/byte_tokenizer.h"

namespace pagoda::router {
namespace {

using Kind = Session::Update::Kind;

GenerationRequest Request(int choices = 1, int max_tokens = 100) {
  GenerationRequest request;
  request.text = ByteTextModel();
  request.prompt = {1, 2, 3};
  request.choices = choices;
  request.sampling.max_tokens = max_tokens;
  request.sampling.stop_token_ids = {ByteTokenizer::kEnd};
  return request;
}

// Sends `text` as tokens of `choice` from `first` on.
Session::Update Send(Session& session, int first, std::string_view text, int choice = 0,
                     uint32_t attempt = 1, FinishReason finish = FinishReason::kNone) {
  std::vector<TokenId> tokens;
  for (unsigned char byte : text) tokens.push_back(byte);
  TokenBatch batch;
  batch.attempt = attempt;
  batch.choice = choice;
  batch.first_index = first;
  batch.tokens = tokens;
  batch.finish = finish;
  return session.OnTokens(batch);
}

TEST(SessionTest, TextComesOnceInOrder) {
  Session session(Request());
  EXPECT_EQ(session.NextSubmission().attempt, 1u);
  Session::Update update = Send(session, 0, "Hel");
  EXPECT_EQ(update.kind, Kind::kDelta);
  EXPECT_TRUE(update.first_token);
  EXPECT_EQ(update.delta.text, "Hel");
  EXPECT_EQ(Send(session, 0, "Hel").kind, Kind::kIgnored) << "all of it is known";
  update = Send(session, 1, "ello");
  EXPECT_EQ(update.delta.text, "lo") << "what is known is dropped by its index";
  EXPECT_FALSE(update.first_token);
  EXPECT_EQ(session.output_tokens(), 5);
}

TEST(SessionTest, TheTenantsShareGoesWithEverySubmission) {
  GenerationRequest request = Request();
  request.tenant = "acme";
  request.tenant_weight = 2.5;
  Session session(std::move(request));
  for (int attempt = 1; attempt <= 2; ++attempt) {
    const auto message = SubmitMessage(session, session.NextSubmission(), {}, NowNs());
    EXPECT_EQ(message->submit().tenant(), "acme");
    EXPECT_EQ(message->submit().tenant_weight(), 2.5);
  }
}

TEST(SessionTest, MissingTokensAreNoticed) {
  Session session(Request());
  session.NextSubmission();
  Send(session, 0, "a");
  EXPECT_EQ(Send(session, 2, "c").kind, Kind::kGap);
  EXPECT_EQ(Send(session, -1, "c").kind, Kind::kGap);
  EXPECT_EQ(session.output_tokens(), 1);
}

TEST(SessionTest, TokensOfAnOlderAttemptAreDropped) {
  Session session(Request());
  session.NextSubmission();
  Send(session, 0, "ab");
  const Session::Submission replay = session.NextSubmission();
  EXPECT_EQ(replay.attempt, 2u);
  ASSERT_EQ(replay.choices.size(), 1u);
  EXPECT_THAT(
      std::vector<TokenId>(replay.choices[0].tokens.begin(), replay.choices[0].tokens.end()),
      testing::ElementsAre('a', 'b'));
  EXPECT_EQ(Send(session, 2, "X", 0, /*attempt=*/1).kind, Kind::kIgnored);
  EXPECT_EQ(Send(session, 2, "c", 0, /*attempt=*/2).delta.text, "c");
}

TEST(SessionTest, AStopStringAcrossTokensEndsTheChoiceAndTellsTheCoordinator) {
  GenerationRequest request = Request();
  request.stop = {"STOP"};
  Session session(std::move(request));
  session.NextSubmission();
  EXPECT_EQ(Send(session, 0, "ab").delta.text, "ab");
  EXPECT_EQ(Send(session, 2, "cST").delta.text, "c")
      << "what may become a stop string is held back";
  const Session::Update update = Send(session, 5, "OPmore");
  EXPECT_EQ(update.delta.text, "");
  EXPECT_EQ(update.delta.finish, FinishReason::kStop);
  EXPECT_EQ(update.delta.stop_string, "STOP");
  ASSERT_TRUE(update.stop.has_value());
  EXPECT_EQ(update.stop->count, 7);
  EXPECT_TRUE(session.finished());
  EXPECT_EQ(Send(session, 7, "x").kind, Kind::kIgnored);
}

TEST(SessionTest, AStopStringIsFoundAcrossAReplay) {
  GenerationRequest request = Request();
  request.stop = {"STOP"};
  Session session(std::move(request));
  session.NextSubmission();
  Send(session, 0, "abST");
  session.NextSubmission();
  const Session::Update update = Send(session, 4, "OPx", 0, 2);
  EXPECT_EQ(update.delta.finish, FinishReason::kStop);
  EXPECT_EQ(session.output_tokens(), 6);
}

TEST(SessionTest, HeldBackTextIsShownAtTheEnd) {
  GenerationRequest request = Request();
  request.stop = {"STOP"};
  Session session(std::move(request));
  session.NextSubmission();
  const Session::Update update = Send(session, 0, "abST", 0, 1, FinishReason::kLength);
  EXPECT_EQ(update.delta.text, "abST");
  EXPECT_EQ(update.delta.finish, FinishReason::kLength);
  EXPECT_FALSE(update.stop.has_value());
}

TEST(SessionTest, NoStopStringBeforeMinTokens) {
  GenerationRequest request = Request();
  request.stop = {"b"};
  request.sampling.min_tokens = 3;
  Session session(std::move(request));
  session.NextSubmission();
  EXPECT_EQ(Send(session, 0, "ab").delta.finish, FinishReason::kNone);
}

TEST(SessionTest, HalfACharacterIsNeverShown) {
  Session session(Request());
  session.NextSubmission();
  const std::string fox = "🦊";
  std::string shown;
  for (size_t i = 0; i < fox.size(); ++i) {
    const Session::Update update = Send(session, static_cast<int>(i), fox.substr(i, 1));
    EXPECT_TRUE(update.delta.text.empty() || i == 3);
    shown += update.delta.text;
  }
  EXPECT_EQ(shown, fox);
}

TEST(SessionTest, TheEndTokenIsCountedButNotShown) {
  Session session(Request());
  session.NextSubmission();
  const std::vector<TokenId> tokens = {'a', ByteTokenizer::kEnd};
  TokenBatch batch;
  batch.attempt = 1;
  batch.tokens = tokens;
  batch.finish = FinishReason::kStop;
  batch.stop_token = ByteTokenizer::kEnd;
  const Session::Update update = session.OnTokens(batch);
  EXPECT_EQ(update.delta.text, "a");
  EXPECT_THAT(update.delta.tokens, testing::ElementsAre('a', ByteTokenizer::kEnd));
  EXPECT_FALSE(update.delta.stop_token.has_value())
      << "the model's own end token is no reason to name";
}

TEST(SessionTest, AClientsStopTokenIsNamed) {
  GenerationRequest request = Request();
  request.client_stop_token_ids = {'b'};
  Session session(std::move(request));
  session.NextSubmission();
  const std::vector<TokenId> tokens = {'a', 'b'};
  TokenBatch batch;
  batch.attempt = 1;
  batch.tokens = tokens;
  batch.finish = FinishReason::kStop;
  batch.stop_token = 'b';
  const Session::Update update = session.OnTokens(batch);
  EXPECT_EQ(update.delta.text, "a");
  EXPECT_EQ(update.delta.stop_token, 'b');
}

TEST(SessionTest, ChoicesAreIndependentAndFinishedOnesAreNotReplayed) {
  Session session(Request(2));
  session.NextSubmission();
  Send(session, 0, "aa", 0, 1, FinishReason::kLength);
  EXPECT_FALSE(session.finished());
  Send(session, 0, "b", 1);
  const Session::Submission replay = session.NextSubmission();
  EXPECT_TRUE(replay.choices[0].finished);
  EXPECT_FALSE(replay.choices[1].finished);
  EXPECT_EQ(Send(session, 0, "zz", 0, 2).kind, Kind::kIgnored);
  Send(session, 1, "c", 1, 2, FinishReason::kStop);
  EXPECT_TRUE(session.finished());
  EXPECT_EQ(Send(session, 0, "x", 2, 2).kind, Kind::kIgnored) << "there is no third choice";
}

TEST(SessionTest, NothingPastMaxTokensEvenFromABrokenCoordinator) {
  Session session(Request(1, 3));
  session.NextSubmission();
  const Session::Update update = Send(session, 0, "abcdef");
  EXPECT_EQ(update.delta.text, "abc");
  EXPECT_EQ(update.delta.finish, FinishReason::kLength);
  ASSERT_TRUE(update.stop.has_value());
  EXPECT_TRUE(session.finished());
}

TEST(SessionTest, ATokenOutsideOfTheVocabularyFailsTheRequest) {
  Session session(Request());
  session.NextSubmission();
  const std::vector<TokenId> tokens = {100'000};
  TokenBatch batch;
  batch.attempt = 1;
  batch.tokens = tokens;
  EXPECT_EQ(session.OnTokens(batch).kind, Kind::kFailed);
}

TEST(SessionTest, AStreamOfADeletedDeploymentEndsAndIsNotTriedAgain) {
  Session session(Request());
  session.NextSubmission();
  TokenBatch batch;
  batch.attempt = 1;
  batch.finish = FinishReason::kError;
  batch.error = std::string(kDeletedError);
  const Session::Update update = session.OnTokens(batch);
  EXPECT_EQ(update.kind, Session::Update::Kind::kFailed);
  EXPECT_TRUE(absl::IsNotFound(update.error));
  EXPECT_FALSE(std::string(update.error.message()).starts_with("NOT_FOUND"));
}

TEST(SessionTest, ErrorsAndUnaskedCancelsAreToldApart) {
  Session session(Request());
  session.NextSubmission();
  EXPECT_EQ(Send(session, 0, "", 0, 1, FinishReason::kCancelled).kind, Kind::kLost);
  EXPECT_EQ(Send(session, 0, "", 0, 1, FinishReason::kError).kind, Kind::kFailed);
  TokenBatch batch;
  batch.attempt = 1;
  batch.finish = FinishReason::kError;
  batch.error = "UNAVAILABLE: the pipeline was deleted";
  EXPECT_EQ(session.OnTokens(batch).kind, Kind::kLost);
  batch.error = "DEADLINE_EXCEEDED: too late";
  EXPECT_EQ(session.OnTokens(batch).error.code(), absl::StatusCode::kDeadlineExceeded);
}

}  // namespace
}  // namespace pagoda::router
