// Streams through a whole router whose fake coordinators are cut, restarted and emptied: the text must be what it would have
// been undisturbed.
#include "tests/router/router_fixture.h"

namespace pagoda::router {
namespace {

class FailoverTest : public RouterFixture {};

TEST_F(FailoverTest, AStreamGoesOnWhereACutCoordinatorComesBack) {
  FakeCoordinator& only = AddCoordinator();
  StartRouter();
  EXPECT_EQ(StreamWithFault([&] { only.CutStreams(); }).front(), kAnswer);
  EXPECT_GE(only.counts().replays, 1);
  EXPECT_GE(Metric("pagoda_router_retries_total{reason=\"coordinator_lost\"}"), 1);
}

TEST_F(FailoverTest, AStreamMovesToAnotherCoordinator) {
  AddCoordinator();
  AddCoordinator();
  StartRouter();
  const auto texts = StreamWithFault(
      [&] {
        for (auto& coordinator : coordinators_) {
          if (coordinator->counts().running == 0) continue;
          coordinator.reset();  // for good
          return;
        }
        ADD_FAILURE() << "nothing runs";
      },
      2);
  EXPECT_EQ(texts[0], kAnswer);
  EXPECT_NE(texts[1], kAnswer);
  for (auto& coordinator : coordinators_) {
    if (coordinator) {
      EXPECT_EQ(coordinator->counts().replays, 1);
    }
  }
}

TEST_F(FailoverTest, AClientsOwnDeadlineIsNotThisServersError) {
  FakeCoordinator& only = AddCoordinator();
  StartRouter();
  only.Pause(true);
  const HttpAnswer answer = Http(router_->http_port(), "POST", "/v1/completions", R"({"prompt":"a"})", {}, "Pagoda-Deadline-Ms: 300\r\n");
  EXPECT_EQ(answer.status, 504) << answer.body;
  EXPECT_EQ(Metric(R"(pagoda_router_requests_total{code="499",endpoint="/v1/completions"})"), 1);
  EXPECT_EQ(Metric(R"(pagoda_router_requests_total{code="504",endpoint="/v1/completions"})"), 0);
}

TEST_F(FailoverTest, AStreamLeavesALeaderThatAnotherOneReplaced) {
  FakeCoordinator& old = AddCoordinator();
  FakeCoordinator& standby = AddCoordinator([&](auto& options) { options.follows = old.address(); });
  StartRouter();
  const auto texts = StreamWithFault([&] {
    EXPECT_EQ(old.counts().running, 1);
    old.Pause(true);  // it goes on saying that it is there, and that it leads
    standby.Lead();
  });
  EXPECT_EQ(texts.front(), kAnswer);
  EXPECT_EQ(standby.counts().replays, 1);
  old.Pause(false);
  EXPECT_EQ(Complete(R"("max_tokens":200)").status, 200);
  EXPECT_EQ(standby.counts().submits, 2) << "what the old one says counts no more";
}

TEST_F(FailoverTest, AStreamLeavesAPipelineThatIsGoneOrAssembledAnew) {
  FakeCoordinator& only = AddCoordinator([](auto& options) { options.pipelines = 2; });
  StartRouter();
  EXPECT_EQ(StreamWithFault([&] { only.NewEpoch(only.counts().last_pipeline); }).front(), kAnswer);
  EXPECT_EQ(StreamWithFault([&] { only.DropPipeline(only.counts().last_pipeline); }).front(),
            kAnswer);
  EXPECT_EQ(only.counts().replays, 2);
  // The second had another pipeline to go to: what it left behind would be computed for nobody.
  EXPECT_GE(only.counts().cancels, 1);
}

TEST_F(FailoverTest, AStreamGoesWhereItsKvWent) {
  FakeCoordinator& only = AddCoordinator([](auto& options) { options.pipelines = 4; });
  StartRouter();
  std::string prompt;
  for (int i = 0; i < 100; ++i) prompt += "word" + std::to_string(i) + " ";
  uint64_t from = 0;
  bool done = false;
  const HttpAnswer answer = Http(router_->http_port(), "POST", "/v1/completions",
                                 R"({"stream":true,"max_tokens":200,"seed":1,"prompt":")" + prompt + "\"}", [&](size_t received) {
                                   if (done || received < 1500) return;
                                   done = true;
                                   from = only.counts().last_pipeline;
                                   only.MoveKv(from, from == 4 ? 3 : 4);
                                 });
  EXPECT_EQ(TextsOf(answer.body, 1).front(), kAnswer);
  EXPECT_EQ(only.counts().replays, 1);
  EXPECT_EQ(only.counts().last_pipeline, from == 4 ? 3u : 4u) << "others would have been next in turn";
}

// Another spec was applied under a stream, and what drains loses a worker.
TEST_F(FailoverTest, AStreamGoesBackToWhatDrainsAndNotToTheNewSpec) {
  FakeCoordinator& only = AddCoordinator([](auto& options) { options.pipelines = 2; });
  only.SetNumerics(1, "cpu-1 kv=f16 activations=8");
  only.SetNumerics(2, "cpu-1 kv=int8 activations=8");
  StartRouter();
  uint64_t of_its_own = 0;
  const auto assemble_anew = [&] {
    of_its_own = only.counts().last_pipeline;
    only.Drain(of_its_own);
    only.NewEpoch(of_its_own);
  };
  EXPECT_EQ(StreamWithFault(assemble_anew).front(), kAnswer);
  EXPECT_EQ(only.counts().replays, 1);
  EXPECT_EQ(only.counts().last_pipeline, of_its_own);
  EXPECT_EQ(Metric("pagoda_router_profile_changes_total"), 0);
  EXPECT_EQ(Complete(R"("max_tokens":3)").status, 200);
  EXPECT_NE(only.counts().last_pipeline, of_its_own) << "nothing new goes there";
}

TEST_F(FailoverTest, AStreamTakesOtherNumericsRatherThanEndAndIsCounted) {
  FakeCoordinator& only = AddCoordinator([](auto& options) { options.pipelines = 2; });
  only.SetNumerics(1, "cpu-1 kv=f16 activations=8");
  only.SetNumerics(2, "cpu-1 kv=int8 activations=8");
  StartRouter();
  EXPECT_EQ(StreamWithFault([&] { only.DropPipeline(only.counts().last_pipeline); }).front(), kAnswer);
  EXPECT_EQ(Metric("pagoda_router_profile_changes_total"), 1);
}

TEST_F(FailoverTest, AStreamWhoseModelIsGoneSaysSo) {
  FakeCoordinator& only = AddCoordinator([](auto& options) { options.pipelines = 2; });
  only.SetReady(2, false);
  StartRouter([](Router::Options& options) { options.dispatcher.hold_ms = 700; });
  bool done = false;
  const HttpAnswer answer = Complete(R"("stream":true,"max_tokens":200)", [&](size_t received) {
    if (done || received < 1500) return;
    done = true;
    only.SetDigest(2, "another");
    only.SetReady(2, true);
    only.DropPipeline(1);
  });
  EXPECT_TRUE(done);
  EXPECT_NE(answer.body.find("another one was deployed as 'fake-model'"), std::string::npos) << answer.body.substr(answer.body.size() - 400);
  EXPECT_NE(answer.body.find("\"code\":\"model_changed\""), std::string::npos) << answer.body.substr(answer.body.size() - 400);
}

TEST_F(FailoverTest, AStreamThatNoLongerFitsSaysSo) {
  FakeCoordinator& only = AddCoordinator();
  StartRouter([](Router::Options& options) { options.dispatcher.hold_ms = 700; });
  bool done = false;
  const HttpAnswer answer = Complete(R"("stream":true,"max_tokens":200)", [&](size_t received) {
    if (done || received < 1500) return;
    done = true;
    only.SetMaxModelLen(1, 100);
    only.NewEpoch(1);
  });
  EXPECT_NE(answer.body.find("takes no more than 100 by now"), std::string::npos) << answer.body.substr(answer.body.size() - 400);
}

TEST_F(FailoverTest, AStopStringAndLogprobsSurviveTheCut) {
  FakeCoordinator& only = AddCoordinator();
  StartRouter();
  bool cut = false;
  const HttpAnswer answer = Complete(
      R"("stream":true,"max_tokens":200,"stop":"Then it sl","logprobs":1)", [&](size_t received) {
        if (!cut && received > 2500) {
          cut = true;
          only.CutStreams();
        }
      });
  EXPECT_TRUE(cut);
  const std::string text = TextsOf(answer.body, 1).front();
  EXPECT_EQ(text, std::string(kAnswer).substr(0, std::string(kAnswer).find("Then it sl")));
  EXPECT_TRUE(Eventually([&] { return only.counts().stops == 1; }));
}

TEST_F(FailoverTest, ARefusedRequestTriesAnotherPipelineThenIsToldToWait) {
  FakeCoordinator& only = AddCoordinator([](auto& options) { options.pipelines = 2; });
  StartRouter();
  only.RefuseNext(1, absl::StatusCode::kResourceExhausted, 0);
  EXPECT_EQ(Complete(R"("max_tokens":3)").status, 200);
  only.RefuseNext(2, absl::StatusCode::kResourceExhausted, 2500);
  const HttpAnswer answer = Complete(R"("max_tokens":3)");
  EXPECT_EQ(answer.status, 429) << answer.body;
  EXPECT_NE(answer.head.find("Retry-After: 3"), std::string::npos) << answer.head;
  EXPECT_EQ(json::parse(answer.body)["error"]["code"], "rate_limit_exceeded");
  only.RefuseNext(1, absl::StatusCode::kInvalidArgument, 0);
  EXPECT_EQ(Complete(R"("max_tokens":3)").status, 400);
}

TEST_F(FailoverTest, AnAcceptedStreamOutlivesRefusals) {
  FakeCoordinator& only = AddCoordinator();
  StartRouter();
  const auto texts = StreamWithFault([&] {
    only.RefuseNext(3, absl::StatusCode::kResourceExhausted, 0);
    only.CutStreams();
  });
  EXPECT_EQ(texts.front(), kAnswer);
}

TEST_F(FailoverTest, AFailureAfterTheFirstTokenIsAnEventAndBeforeItAStatus) {
  FakeCoordinator& only = AddCoordinator();
  StartRouter();
  only.FailNext(1);
  EXPECT_EQ(Complete(R"("stream":true,"max_tokens":50)").status, 500);
  bool failed = false;
  const HttpAnswer answer =
      Complete(R"("stream":true,"max_tokens":100,"ignore_eos":true)", [&](size_t received) {
        if (!failed && received > 800) only.FailNext(1);
        failed |= received > 800;
      });
  EXPECT_EQ(answer.status, 200);
  EXPECT_NE(answer.body.find("data: {\"error\":{\"message\":"), std::string::npos);
  EXPECT_TRUE(answer.body.ends_with("data: [DONE]\n\n"));
}

TEST_F(FailoverTest, TheDeadlineEndsAWaitingRequest) {
  FakeCoordinator& only = AddCoordinator();
  StartRouter([](Router::Options& options) { options.request_timeout_ms = 400; });
  only.Pause(true);
  const MonotonicNs begin = NowNs();
  EXPECT_EQ(Complete(R"("max_tokens":5)").status, 504);
  EXPECT_LT(NowNs() - begin, 5 * kNsPerSecond);
  EXPECT_TRUE(Eventually([&] { return only.counts().cancels == 1; }));
}

TEST_F(FailoverTest, NoReadyPipelineIsServiceUnavailable) {
  FakeCoordinator& only = AddCoordinator();
  StartRouter();
  only.SetReady(1, false);
  ASSERT_TRUE(
      Eventually([&] { return Http(router_->http_port(), "GET", "/health", "").status == 503; }));
  EXPECT_EQ(Http(router_->http_port(), "GET", "/readyz", "").status, 200)
      << "clients still come here: they are told why, which a Service without endpoints would not do";
  const HttpAnswer answer = Complete(R"("max_tokens":5)");
  EXPECT_EQ(answer.status, 503);
  EXPECT_NE(answer.head.find("Retry-After"), std::string::npos);
  EXPECT_EQ(json::parse(answer.body)["error"]["code"], "loading");
  const auto exposed = [&] { return Http(router_->http_port(), "GET", "/metrics", "").body; };
  const std::string series = "pagoda_router_pipelines_ready{model_name=";
  EXPECT_NE(exposed().find(series), std::string::npos) << "zero, but there";
  only.DropPipeline(1);
  EXPECT_TRUE(Eventually([&] { return exposed().find(series) == std::string::npos; }))
      << "the model is gone, and its series with it";
}

TEST_F(FailoverTest, AModelThatWasNeverAssembledIsNotReadyRatherThanTooSmall) {
  base_.max_model_len = 0;  // what a coordinator says before it has placed the model
  FakeCoordinator& only = AddCoordinator();
  only.SetReady(1, false);
  StartRouter({}, "/livez");
  ASSERT_TRUE(Eventually([&] { return Http(router_->http_port(), "GET", "/v1/models", "").body.find(base_.model) != std::string::npos; }));
  HttpAnswer answer;
  ASSERT_TRUE(Eventually([&] {  // its tokenizer comes first
    answer = Complete(R"("max_tokens":5)");
    return answer.body.find("no pipeline of it is assembled yet") != std::string::npos;
  })) << answer.body;
  EXPECT_EQ(answer.status, 503);
  EXPECT_NE(answer.head.find("Retry-After"), std::string::npos);
}

TEST_F(FailoverTest, NewRequestsWaitForALostCoordinatorAndNotForEver) {
  FakeCoordinator& only = AddCoordinator();
  StartRouter([](Router::Options& options) { options.dispatcher.hold_ms = 2000; });
  const std::string address = only.address();
  coordinators_.front().reset();
  ASSERT_TRUE(
      Eventually([&] { return Http(router_->http_port(), "GET", "/health", "").status == 503; }));
  EXPECT_EQ(Http(router_->http_port(), "GET", "/readyz", "").status, 200) << "within the time that requests wait";
  HttpAnswer held;
  std::thread client([&] { held = Complete(R"("max_tokens":5)"); });
  std::this_thread::sleep_for(std::chrono::milliseconds(200));  // it is on its way before the successor
  FakeCoordinator::Options options = base_;
  options.listen = address;
  auto successor = FakeCoordinator::Start(options);
  ASSERT_TRUE(successor.ok()) << successor.status();
  client.join();
  EXPECT_EQ(held.status, 200) << held.body;
  successor->reset();
  ASSERT_TRUE(
      Eventually([&] { return Http(router_->http_port(), "GET", "/readyz", "").status == 503; }));
  const MonotonicNs begin = NowNs();
  held = Complete(R"("max_tokens":5)");
  EXPECT_TRUE(held.status == 503 || held.status == 404) << held.status;
  EXPECT_LT(NowNs() - begin, 8 * kNsPerSecond);
}

TEST_F(FailoverTest, ACoordinatorOnItsWayOutIsWaitedForAndAFullOneIsNot) {
  FakeCoordinator& only = AddCoordinator();
  StartRouter([](Router::Options& options) { options.dispatcher.hold_ms = 3000; });
  only.RefuseNext(3, absl::StatusCode::kUnavailable, 0);
  EXPECT_EQ(Complete(R"("max_tokens":3)").status, 200);
  only.RefuseNext(1, absl::StatusCode::kResourceExhausted, 0);
  EXPECT_EQ(Complete(R"("max_tokens":3)").status, 429);
  only.RefuseNext(1'000'000, absl::StatusCode::kUnavailable, 0);
  EXPECT_EQ(Complete(R"("max_tokens":3)").status, 503) << "not for ever";
}

TEST_F(FailoverTest, AnAcceptedStreamOutlivesAnyNumberOfLosses) {
  FakeCoordinator& only = AddCoordinator([](auto& options) { options.pipelines = 2; });
  StartRouter();
  int losses = 0;
  size_t next = 600;
  const HttpAnswer answer =
      Complete(R"("stream":true,"max_tokens":200,"seed":1)", [&](size_t received) {
        if (received < next || losses == 12) return;
        next = received + 150;
        ++losses;
        if (losses % 2 == 0) {
          only.CutStreams();
        } else {
          only.NewEpoch(only.counts().last_pipeline);
        }
      });
  EXPECT_GE(losses, 8);
  EXPECT_EQ(TextsOf(answer.body, 1).front(), kAnswer);
}

// The fake speaks protocol 1 and knows no streams: the body alone is enough.
TEST_F(FailoverTest, AResumableStreamIsMadeAgainBehindACoordinatorOfTheVersionBefore) {
  AddCoordinator();
  StartRouter();
  const std::string body =
      R"({"prompt":"Hello there","stream":true,"max_tokens":200,"seed":1})";
  const auto send = [&](const std::string& headers, const std::string& text) {
    return Http(router_->http_port(), "POST", "/v1/completions", text, {}, headers);
  };
  const HttpAnswer whole = send("Pagoda-Resumable: 1\r\nX-Request-Id: mine\r\n", body);
  ASSERT_EQ(whole.status, 200) << whole.body;
  EXPECT_NE(whole.head.find("Pagoda-Resumable: 1"), std::string::npos);
  size_t at = 0;
  int ids = 0;
  while ((at = whole.body.find("\nid: ", at)) != std::string::npos) {
    const size_t end = whole.body.find('\n', at + 1);
    const std::string id = whole.body.substr(at + 5, end - at - 5);
    at = end;
    if (++ids % 10 != 0) continue;
    const HttpAnswer rest =
        send("X-Request-Id: mine\r\nLast-Event-ID: " + id + "\r\n", body);
    ASSERT_EQ(rest.status, 200) << rest.body;
    EXPECT_EQ(rest.body, whole.body.substr(end + 2)) << "after " << id;
  }
  EXPECT_GT(ids, 20);
  EXPECT_EQ(send("X-Request-Id: mine\r\nLast-Event-ID: 1:5\r\n", "").status, 503)
      << "no coordinator can be asked";
}

// Its first connection ends with all its prompts at once, whichever of them is met first.
TEST_F(FailoverTest, AClientThatComesBackForTwoPromptsWhileTheyRunIsServed) {
  AddCoordinator();
  StartRouter();
  const std::string body = R"({"prompt":["Hello","there"],"stream":true,"max_tokens":200,"seed":1})";
  const std::string name = "X-Request-Id: two\r\n";
  HttpAnswer second;
  const HttpAnswer first = Http(router_->http_port(), "POST", "/v1/completions", body,
                                [&](size_t received) {
                                  if (second.status != 0 || received < 1500) return;
                                  second = Http(router_->http_port(), "POST", "/v1/completions", body, {},
                                                name + "Last-Event-ID: 1000:n.n\r\n");
                                },
                                "Pagoda-Resumable: 1\r\n" + name);
  EXPECT_NE(first.body.find("by another connection"), std::string::npos);
  EXPECT_EQ(second.status, 200) << second.body;
  EXPECT_TRUE(second.body.ends_with("data: [DONE]\n\n"));
  int ends = 0;
  for (size_t at = 0; (at = second.body.find("\"finish_reason\":\"", at)) != std::string::npos; ++at) ++ends;
  EXPECT_EQ(ends, 2) << "each prompt's answer ends once";
}

TEST_F(FailoverTest, LoadIsSpreadAndPrefixesStick) {
  FakeCoordinator& only = AddCoordinator([](auto& options) { options.pipelines = 2; });
  StartRouter();
  std::vector<std::thread> clients;
  for (int i = 0; i < 8; ++i) {
    clients.emplace_back(
        [&] { EXPECT_EQ(Complete(R"("max_tokens":100,"ignore_eos":true)").status, 200); });
  }
  for (std::thread& client : clients) client.join();
  const auto spread = only.counts().submits_by_pipeline;
  EXPECT_GE(spread[0], 2);
  EXPECT_GE(spread[1], 2);

  std::string prompt;
  for (int i = 0; i < 200; ++i) prompt += "word" + std::to_string(i) + " ";
  const auto send = [&] {
    Http(router_->http_port(), "POST", "/v1/completions",
         R"({"max_tokens":2,"prompt":")" + prompt + "\"}");
    return only.counts().last_pipeline;
  };
  const uint64_t first = send();
  for (int i = 0; i < 4; ++i)
    EXPECT_EQ(send(), first) << "the same prefix goes to the same pipeline when idle";
}

TEST_F(FailoverTest, TooManyRequestsAreRefused) {
  FakeCoordinator& only = AddCoordinator();
  StartRouter([](Router::Options& options) { options.dispatcher.max_requests_in_flight = 2; });
  only.Pause(true);
  const HttpAnswer answer =
      Http(router_->http_port(), "POST", "/v1/completions", R"({"prompt":["a","b","c"]})");
  EXPECT_EQ(answer.status, 429) << answer.body;
  EXPECT_EQ(Metric("pagoda_router_requests_in_flight"), 0)
      << "those that were started are cancelled";
  only.Pause(false);
}

}  // namespace
}  // namespace pagoda::router
