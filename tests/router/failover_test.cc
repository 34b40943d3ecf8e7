// A whole router in this process, real gRPC and HTTP, fake coordinators that are cut, restarted and
// emptied under it: a stream's text must be what it would have been undisturbed.
#include <arpa/inet.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <functional>
#include <nlohmann/json.hpp>
#include <thread>

#include "common/clock.h"
#include "common/log.h"
#include "pagoda/v1/inference.grpc.pb.h"
#include "router/router.h"
#include "tests/fakes/fake_coordinator.h"

namespace pagoda::router {
namespace {

using fakes::FakeCoordinator;
using nlohmann::json;

constexpr char kAnswer[] =
    "The quick brown fox jumps over the lazy dog. Olé, 世界! 🦊 Then it sleeps for a long "
    "time.";

struct HttpAnswer {
  int status = 0;
  std::string head;
  std::string body;  // chunked coding taken off
};

std::string Unchunked(std::string_view text) {
  std::string out;
  while (!text.empty()) {
    const size_t size = std::stoul(std::string(text.substr(0, text.find("\r\n"))), nullptr, 16);
    text.remove_prefix(text.find("\r\n") + 2);
    if (size == 0) break;
    out += text.substr(0, size);
    text.remove_prefix(size + 2);
  }
  return out;
}

HttpAnswer Http(int port, const std::string& method, const std::string& path,
                const std::string& body,
                const std::function<void(size_t received)>& progress = {},
                const std::string& headers = "") {
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  EXPECT_EQ(connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  const std::string request = method + " " + path +
                              " HTTP/1.1\r\nHost: test\r\nConnection: close\r\n" + headers +
                              "Content-Length: " + std::to_string(body.size()) + "\r\n\r\n" + body;
  EXPECT_EQ(send(fd, request.data(), request.size(), 0), static_cast<ssize_t>(request.size()));
  std::string all;
  char buffer[4096];
  while (true) {
    const ssize_t got = recv(fd, buffer, sizeof(buffer), 0);
    if (got <= 0) break;
    all.append(buffer, static_cast<size_t>(got));
    if (progress) progress(all.size());
  }
  close(fd);
  HttpAnswer answer;
  const size_t end = all.find("\r\n\r\n");
  if (end == std::string::npos) return answer;
  answer.head = all.substr(0, end);
  answer.status = std::stoi(answer.head.substr(9, 3));
  answer.body = all.substr(end + 4);
  if (answer.head.find("chunked") != std::string::npos) answer.body = Unchunked(answer.body);
  return answer;
}

// The text of each choice of a streamed completion; fails the test unless every choice ended once.
std::vector<std::string> TextsOf(const std::string& events, int choices) {
  std::vector<std::string> texts(static_cast<size_t>(choices));
  std::vector<int> finishes(static_cast<size_t>(choices));
  EXPECT_TRUE(events.ends_with("data: [DONE]\n\n")) << events.substr(0, 500);
  size_t at = 0;
  while ((at = events.find("data: {", at)) != std::string::npos) {
    const size_t end = events.find("\n\n", at);
    const json event = json::parse(events.substr(at + 6, end - at - 6));
    at = end;
    if (event.contains("error")) {
      ADD_FAILURE() << event;
      continue;
    }
    for (const json& choice : event["choices"]) {
      texts[choice["index"]] += choice["text"].get<std::string>();
      finishes[choice["index"]] += !choice["finish_reason"].is_null();
    }
  }
  for (int count : finishes) EXPECT_EQ(count, 1);
  return texts;
}

class FailoverTest : public testing::Test {
 protected:
  void SetUp() override {
    const std::string path = fakes::DefaultModelPath();
    if (path.empty()) GTEST_SKIP() << "the default model is not on this machine";
    auto options = fakes::OptionsForModel(path, kAnswer);
    ASSERT_TRUE(options.ok()) << options.status();
    base_ = *options;
    base_.step_ms = 5;
    InitLog("test", LogLevel::kError, true);
  }
  void TearDown() override {
    if (router_) {
      router_->BeginShutdown(1000);
      thread_.join();
    }
    router_.reset();
  }
  FakeCoordinator& AddCoordinator(
      const std::function<void(FakeCoordinator::Options&)>& change = {}) {
    FakeCoordinator::Options options = base_;
    options.name = "fake-" + std::to_string(coordinators_.size());
    if (change) change(options);
    auto started = FakeCoordinator::Start(options);
    EXPECT_TRUE(started.ok()) << started.status();
    coordinators_.push_back(*std::move(started));
    return *coordinators_.back();
  }
  void StartRouter(const std::function<void(Router::Options&)>& change = {}) {
    Router::Options options;
    for (const auto& coordinator : coordinators_)
      options.upstream.coordinators.push_back(coordinator->address());
    options.upstream.router_name = "test";
    options.upstream.silence_timeout_ms = 2000;
    options.access_log = false;
    if (change) change(options);
    auto router = Router::Start(options);
    ASSERT_TRUE(router.ok()) << router.status();
    router_ = *std::move(router);
    thread_ = std::thread([this] { router_->Run(); });
    ASSERT_TRUE(Eventually(
        [this] { return Http(router_->http_port(), "GET", "/readyz", "").status == 200; }));
  }
  static bool Eventually(const std::function<bool()>& condition, int64_t timeout_ms = 15'000) {
    const MonotonicNs deadline = NowNs() + timeout_ms * kNsPerMs;
    while (!condition()) {
      if (NowNs() > deadline) return false;
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    return true;
  }
  HttpAnswer Complete(const std::string& fields, const std::function<void(size_t)>& progress = {}) {
    return Http(router_->http_port(), "POST", "/v1/completions",
                R"({"prompt":"Hello there",)" + fields + "}", progress);
  }
  // Streams an answer and does `fault` once it has begun. `choices` texts.
  std::vector<std::string> StreamWithFault(const std::function<void()>& fault, int choices = 1) {
    bool done = false;
    const HttpAnswer answer =
        Complete(R"("stream":true,"max_tokens":200,"seed":1,"n":)" + std::to_string(choices),
                 [&](size_t received) {
                   if (done || received < 1500) return;
                   done = true;
                   fault();
                 });
    EXPECT_TRUE(done);
    EXPECT_EQ(answer.status, 200) << answer.body;
    return TextsOf(answer.body, choices);
  }
  double Metric(const std::string& series) {
    const std::string text = Http(router_->http_port(), "GET", "/metrics", "").body;
    const size_t at = text.find("\n" + series + " ");
    return at == std::string::npos ? -1 : std::stod(text.substr(at + series.size() + 2));
  }

  FakeCoordinator::Options base_;
  std::vector<std::unique_ptr<FakeCoordinator>> coordinators_;
  std::unique_ptr<Router> router_;
  std::thread thread_;
};

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
      Eventually([&] { return Http(router_->http_port(), "GET", "/readyz", "").status == 503; }));
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

TEST_F(FailoverTest, NewRequestsWaitForALostCoordinatorAndNotForEver) {
  FakeCoordinator& only = AddCoordinator();
  StartRouter([](Router::Options& options) { options.dispatcher.hold_ms = 2000; });
  const std::string address = only.address();
  coordinators_.front().reset();
  ASSERT_TRUE(
      Eventually([&] { return Http(router_->http_port(), "GET", "/readyz", "").status == 503; }));
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

class GrpcTest : public FailoverTest {
 protected:
  void Connect() {
    channel_ = grpc::CreateChannel("127.0.0.1:" + std::to_string(router_->grpc_port()),
                                   grpc::InsecureChannelCredentials());
    stub_ = v1::Inference::NewStub(channel_);
  }
  struct Result {
    grpc::Status status;
    std::vector<v1::GenerateResponse> responses;
    std::string text(int index = 0) const {
      std::string out;
      for (const auto& response : responses) {
        if (response.index() == index) out += response.text();
      }
      return out;
    }
  };
  Result Generate(const v1::GenerateRequest& request, grpc::ClientContext* context) {
    const auto stream = stub_->Generate(context, request);
    Result result;
    v1::GenerateResponse response;
    while (stream->Read(&response)) result.responses.push_back(response);
    result.status = stream->Finish();
    return result;
  }
  Result Generate(const v1::GenerateRequest& request) {
    grpc::ClientContext context;
    return Generate(request, &context);
  }
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::Inference::Stub> stub_;
};

TEST_F(GrpcTest, GeneratesFromTextTokensAndChat) {
  AddCoordinator();
  StartRouter();
  Connect();
  v1::GenerateRequest request;
  request.set_text("Hello");
  request.set_request_id("mine");
  request.mutable_logprobs()->set_logprobs(2);
  Result result = Generate(request);
  ASSERT_TRUE(result.status.ok()) << result.status.error_message();
  EXPECT_EQ(result.text(), kAnswer);
  EXPECT_TRUE(result.responses.front().has_prompt_info());
  EXPECT_FALSE(result.responses.back().has_prompt_info());
  EXPECT_EQ(result.responses.back().finish().reason(), v1::FINISH_REASON_STOP);
  EXPECT_EQ(result.responses.front().request_id(), "mine");
  EXPECT_EQ(result.responses.front().logprobs(0).entries_size(), 3);
  int tokens = 0;
  for (const auto& response : result.responses) tokens += response.token_ids_size();
  EXPECT_EQ(tokens, result.responses.back().finish().output_tokens());

  request.mutable_chat()->add_messages()->set_role("user");
  request.set_n(2);
  EXPECT_EQ(Generate(request).text(0), kAnswer);
  request.mutable_tokens()->add_token_ids(5);
  request.set_skip_text(true);
  result = Generate(request);
  EXPECT_TRUE(result.status.ok());
  EXPECT_EQ(result.text(), "");
  request.set_skip_text(false);
  request.mutable_stopping()->add_stop("lazy");
  result = Generate(request);
  EXPECT_EQ(result.text(0), "The quick brown fox jumps over the ");
}

TEST_F(GrpcTest, StatusCodesDeadlinesAndCancels) {
  FakeCoordinator& only = AddCoordinator();
  StartRouter();
  Connect();
  v1::GenerateRequest request;
  EXPECT_EQ(Generate(request).status.error_code(), grpc::StatusCode::INVALID_ARGUMENT)
      << "no prompt";
  request.set_text("a");
  request.mutable_sampling()->set_temperature(std::numeric_limits<double>::quiet_NaN());
  EXPECT_EQ(Generate(request).status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  request.mutable_sampling()->set_temperature(0);
  request.set_model("none");
  EXPECT_EQ(Generate(request).status.error_code(), grpc::StatusCode::NOT_FOUND);
  request.clear_model();
  only.RefuseNext(1, absl::StatusCode::kResourceExhausted, 700);
  grpc::ClientContext refused;
  EXPECT_EQ(Generate(request, &refused).status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  const auto trailer = refused.GetServerTrailingMetadata().find("retry-after-ms");
  ASSERT_NE(trailer, refused.GetServerTrailingMetadata().end());
  EXPECT_EQ(std::string(trailer->second.data(), trailer->second.size()), "700");

  only.Pause(true);
  grpc::ClientContext late;
  late.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(300));
  EXPECT_EQ(Generate(request, &late).status.error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  EXPECT_LE(only.counts().last_deadline_ms, 300);
  EXPECT_TRUE(Eventually([&] { return only.counts().cancels >= 1; }));
  only.Pause(false);

  grpc::ClientContext context;
  request.mutable_stopping()->set_ignore_eos(true);
  request.mutable_stopping()->set_max_tokens(1500);
  const auto stream = stub_->Generate(&context, request);
  v1::GenerateResponse response;
  ASSERT_TRUE(stream->Read(&response));
  context.TryCancel();
  EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_TRUE(Eventually([&] { return only.counts().running == 0; }));
  EXPECT_TRUE(Eventually([&] { return Metric("pagoda_router_requests_in_flight") == 0; }));
}

TEST_F(GrpcTest, TokenizeModelsHealth) {
  AddCoordinator();
  StartRouter();
  Connect();
  grpc::ClientContext c1, c2, c3, c4, c5, c6;
  v1::TokenizeRequest tokenize;
  tokenize.set_text("Hello 世界");
  v1::TokenizeResponse tokens;
  ASSERT_TRUE(stub_->Tokenize(&c1, tokenize, &tokens).ok());
  EXPECT_EQ(tokens.max_model_len(), 2048);
  v1::DetokenizeRequest detokenize;
  *detokenize.mutable_token_ids() = tokens.token_ids();
  v1::DetokenizeResponse text;
  ASSERT_TRUE(stub_->Detokenize(&c2, detokenize, &text).ok());
  EXPECT_EQ(text.text(), "Hello 世界");
  detokenize.add_token_ids(-1);
  EXPECT_EQ(stub_->Detokenize(&c3, detokenize, &text).error_code(),
            grpc::StatusCode::INVALID_ARGUMENT);
  v1::ListModelsResponse models;
  ASSERT_TRUE(stub_->ListModels(&c4, {}, &models).ok());
  ASSERT_EQ(models.models_size(), 1);
  v1::GetModelInfoRequest which;
  which.set_model("fake-model");
  v1::ModelInfo info;
  ASSERT_TRUE(stub_->GetModelInfo(&c5, which, &info).ok());
  EXPECT_EQ(info.numerics_profile(), "cpu-1");
  EXPECT_EQ(info.pipelines_ready(), 1);
  which.set_model("none");
  EXPECT_EQ(stub_->GetModelInfo(&c6, which, &info).error_code(), grpc::StatusCode::NOT_FOUND);
}

}  // namespace
}  // namespace pagoda::router
