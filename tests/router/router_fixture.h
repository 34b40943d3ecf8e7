// A whole router in this process, real gRPC and HTTP, with fake coordinators under it that can be cut, restarted and emptied;
// and a client of plain sockets.
#pragma once

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <functional>
#include <nlohmann/json.hpp>
#include <thread>

#include "common/clock.h"
#include "common/log.h"
#include "router/router.h"
#include "tests/fakes/fake_coordinator.h"

namespace pagoda::router {

using fakes::FakeCoordinator;
using nlohmann::json;

inline constexpr char kAnswer[] =
    "The quick brown fox jumps over the lazy dog. Olé, 世界! 🦊 Then it sleeps for a long "
    "time.";

struct HttpAnswer {
  int status = 0;
  std::string head;
  std::string body;  // chunked coding taken off
};

inline std::string Unchunked(std::string_view text) {
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

inline HttpAnswer Http(int port, const std::string& method, const std::string& path,
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
inline std::vector<std::string> TextsOf(const std::string& events, int choices) {
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

class RouterFixture : public testing::Test {
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
  void StartRouter(const std::function<void(Router::Options&)>& change = {}, const std::string& until = "/readyz") {
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
        [&] { return Http(router_->http_port(), "GET", until, "").status == 200; }));
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

}  // namespace pagoda::router
