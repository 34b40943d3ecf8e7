#include "tests/worker/comm/ranks.h"

#include <atomic>
#include <thread>

#include "gtest/gtest.h"
#include "worker/comm/ucx_transport.h"

namespace pagoda::worker {

std::vector<TransportKind> AllTransportKinds() {
  return {{.name = "local", .transports = ""},
          {.name = "ucx_shm", .transports = "posix,sysv,self"},
          {.name = "ucx_tcp", .transports = "tcp,self"}};
}

Ranks::Ranks(const TransportKind& kind, std::vector<int> stages) {
  if (kind.transports.empty()) hub_ = std::make_unique<LocalHub>();
  for (int stage = 0; stage < static_cast<int>(stages.size()); ++stage) {
    for (int rank = 0; rank < stages[stage]; ++rank) {
      if (hub_ != nullptr) {
        transports_.push_back(hub_->Make());
      } else {
        UcxOptions options;
        options.transports = kind.transports;
        auto transport = MakeUcxTransport(options);
        PAGODA_CHECK(transport.ok(), "", transport.status().ToString());
        transports_.push_back(std::move(*transport));
      }
      addresses_.push_back(
          {.peer = {.stage = stage, .rank = rank}, .address = transports_.back()->address()});
    }
  }
}

Ranks::~Ranks() = default;

void Ranks::RunUnconnected(const Body& body) {
  std::vector<std::thread> threads;
  for (size_t i = 0; i < transports_.size(); ++i) {
    threads.emplace_back([&, i] { body(addresses_[i].peer, *transports_[i]); });
  }
  for (std::thread& thread : threads) thread.join();
}

void Ranks::Run(Epoch epoch, const Body& body) {
  std::atomic<size_t> ended = 0;
  RunUnconnected([&](PeerId self, Transport& transport) {
    const absl::Status status = transport.Connect(epoch, self, addresses_, absl::Seconds(10));
    EXPECT_TRUE(status.ok()) << "stage " << self.stage << " rank " << self.rank << ": " << status;
    if (status.ok()) body(self, transport);
    // What it has sent may still wait for room, and only its owner moves that.
    ++ended;
    while (ended.load() < transports_.size()) transport.Idle(absl::Milliseconds(1));
  });
}

std::vector<std::byte> Pattern(size_t size, uint64_t seed) {
  std::vector<std::byte> data(size);
  uint64_t state = seed * 0x9e3779b97f4a7c15ULL + 1;
  for (std::byte& byte : data) {
    state = state * 6364136223846793005ULL + 1442695040888963407ULL;
    byte = static_cast<std::byte>(state >> 56);
  }
  return data;
}

}  // namespace pagoda::worker
