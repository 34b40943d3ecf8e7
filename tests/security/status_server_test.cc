#include "security/status_server.h"

#include <gtest/gtest.h>
#include <netdb.h>
#include <netinet/in.h>
#include <prometheus/counter.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>

#include "security/certificate_files.h"
#include "security/key_ring.h"

namespace pagoda::security {
namespace {

std::string Get(int port, const std::string& target, const std::string& headers = "") {
  addrinfo* address = nullptr;
  getaddrinfo("127.0.0.1", std::to_string(port).c_str(), nullptr, &address);
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  std::string answer;
  if (connect(fd, address->ai_addr, address->ai_addrlen) == 0) {
    const std::string request = "GET " + target + " HTTP/1.0\r\n" + headers + "\r\n";
    EXPECT_EQ(write(fd, request.data(), request.size()), static_cast<ssize_t>(request.size()));
    char buffer[4096];
    for (ssize_t got; (got = read(fd, buffer, sizeof(buffer))) > 0;) answer.append(buffer, static_cast<size_t>(got));
  }
  close(fd);
  freeaddrinfo(address);
  return answer;
}

int CodeOf(const std::string& answer) { return answer.size() < 12 ? 0 : std::stoi(answer.substr(9, 3)); }

std::shared_ptr<prometheus::Registry> Sample() {
  auto registry = std::make_shared<prometheus::Registry>();
  prometheus::BuildCounter().Name("pagoda_things_total").Help("Things.").Register(*registry).Add({}).Increment(3);
  return registry;
}

TEST(StatusServerTest, WithoutKeysMetricsAreOpen) {
  auto server = StatusServer::Start({.listen = "127.0.0.1:0", .registry = Sample(), .tls = "", .api_key_file = ""});
  ASSERT_TRUE(server.ok()) << server.status();
  const std::string answer = Get((*server)->port(), "/metrics");
  EXPECT_EQ(CodeOf(answer), 200);
  EXPECT_NE(answer.find("pagoda_things_total 3"), std::string::npos) << answer;
  EXPECT_EQ(CodeOf(Get((*server)->port(), "/livez")), 200);
  EXPECT_EQ(CodeOf(Get((*server)->port(), "/other")), 404);
  const std::string taken = "127.0.0.1:" + std::to_string((*server)->port());
  EXPECT_FALSE(StatusServer::Start({.listen = taken, .registry = Sample(), .tls = "", .api_key_file = ""}).ok())
      << "the port is taken";
}

TEST(StatusServerTest, WithKeysOnlyHealthIsOpen) {
  const std::string path = testing::TempDir() + "status_server_test_" + std::to_string(getpid()) + ".yaml";
  NewKey metrics = MakeKey(), inference = MakeKey();
  metrics.key.tenant = inference.key.tenant = "t";
  metrics.key.scopes = {Scope::kMetrics};
  inference.key.scopes = {Scope::kInference};
  ASSERT_TRUE(WriteTextFile(path, KeyRing::ToText({metrics.key, inference.key}), true).ok());
  std::atomic<bool> ready = false;
  auto server = StatusServer::Start({.listen = "127.0.0.1:0",
                                     .registry = Sample(),
                                     .ready = [&] { return ready.load(); },
                                     .tls = "",
                                     .api_key_file = path});
  ASSERT_TRUE(server.ok()) << server.status();
  const int port = (*server)->port();
  EXPECT_EQ(CodeOf(Get(port, "/livez")), 200);
  EXPECT_EQ(CodeOf(Get(port, "/readyz")), 503);
  ready = true;
  EXPECT_EQ(CodeOf(Get(port, "/readyz")), 200);
  for (const char* target : {"/metrics", "/other", "/metrics?x=/livez", "/livez/..%2fmetrics", "//metrics"}) {
    EXPECT_EQ(CodeOf(Get(port, target)), 401) << target;
    EXPECT_EQ(CodeOf(Get(port, target, "Authorization: Bearer sk-pagoda-wrong\r\n")), 401) << target;
  }
  EXPECT_EQ(CodeOf(Get(port, "/metrics", "Authorization: Bearer " + inference.secret + "\r\n")), 403);
  EXPECT_EQ(CodeOf(Get(port, "/metrics", "Authorization: Bearer " + metrics.secret + "\r\n")), 200);
  std::remove(path.c_str());
}

TEST(StatusServerTest, WhoSaysNothingDoesNotKeepProbesOut) {
  auto server = StatusServer::Start({.listen = "127.0.0.1:0", .registry = Sample(), .tls = "", .api_key_file = ""});
  ASSERT_TRUE(server.ok()) << server.status();
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>((*server)->port()));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  std::vector<int> silent;
  for (int i = 0; i < 200; ++i) {
    silent.push_back(socket(AF_INET, SOCK_STREAM, 0));
    ASSERT_EQ(connect(silent.back(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
  }
  EXPECT_EQ(CodeOf(Get((*server)->port(), "/livez")), 200);
  EXPECT_EQ(CodeOf(Get((*server)->port(), "/readyz")), 200);
  for (const int fd : silent) close(fd);
}

}  // namespace
}  // namespace pagoda::security
