// The watch for a new leader against gRPC's own health service.
#include "worker/control/leader_watch.h"

#include <grpcpp/ext/health_check_service_server_builder_option.h>
#include <grpcpp/generic/async_generic_service.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/health_check_service_interface.h>
#include <gtest/gtest.h>

#include "common/clock.h"

namespace pagoda::worker {
namespace {

constexpr char kService[] = "pagoda.internal.v1.WorkerControl";

class Coordinator {
 public:
  explicit Coordinator(bool leads, int port = 0) : port_(port) {
    grpc::EnableDefaultHealthCheckService(true);
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:" + std::to_string(port), grpc::InsecureServerCredentials(), &port_);
    builder.RegisterCallbackGenericService(&nothing_);  // a server must serve something
    server_ = builder.BuildAndStart();
    SetLeads(leads);
  }
  ~Coordinator() { server_->Shutdown(std::chrono::system_clock::now()); }
  void SetLeads(bool leads) { server_->GetHealthCheckService()->SetServingStatus(kService, leads); }
  std::string address() const { return "127.0.0.1:" + std::to_string(port_); }
  int port() const { return port_; }

 private:
  int port_;
  grpc::CallbackGenericService nothing_;
  std::unique_ptr<grpc::Server> server_;
};

class Heard {
 public:
  void Add(const std::string& address) {
    MutexLock lock(&mutex_);
    all_.push_back(address);
  }
  std::vector<std::string> WaitFor(size_t count, absl::Duration timeout = absl::Seconds(10)) {
    MutexLock lock(&mutex_);
    mutex_.AwaitWithTimeout([&]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return all_.size() >= count; }, timeout);
    return all_;
  }

 private:
  Mutex mutex_;
  std::vector<std::string> all_ ABSL_GUARDED_BY(mutex_);
};

TEST(LeaderWatchTest, TellsOfEachChangeAndNotOfWhatWasSo) {
  Coordinator a(true), b(false);
  Heard heard;
  LeaderWatch watch({a.address(), b.address(), "127.0.0.1:1"}, nullptr, [&](const std::string& who) { heard.Add(who); });
  EXPECT_EQ(heard.WaitFor(1, absl::Milliseconds(500)).size(), 0u) << "the first one leads already";
  const MonotonicNs begin = NowNs();
  b.SetLeads(true);
  EXPECT_EQ(heard.WaitFor(1), (std::vector<std::string>{b.address()}));
  EXPECT_LT(NowNs() - begin, kNsPerSecond) << "pushed, not asked for";
  a.SetLeads(false);
  b.SetLeads(false);
  a.SetLeads(true);
  EXPECT_EQ(heard.WaitFor(2), (std::vector<std::string>{b.address(), a.address()}));
}

TEST(LeaderWatchTest, OneThatCameBackAsTheLeaderHasTakenOver) {
  Coordinator stays(true);
  auto gone = std::make_unique<Coordinator>(false);
  const int port = gone->port();
  Heard heard;
  LeaderWatch watch({stays.address(), gone->address()}, nullptr, [&](const std::string& who) { heard.Add(who); });
  EXPECT_EQ(heard.WaitFor(1, absl::Milliseconds(500)).size(), 0u);
  gone.reset();
  Coordinator back(true, port);
  EXPECT_EQ(heard.WaitFor(1), (std::vector<std::string>{back.address()}));
}

}  // namespace
}  // namespace pagoda::worker
