#include "worker/comm/local_transport.h"

#include <thread>

#include "gtest/gtest.h"
#include "tests/worker/comm/ranks.h"

namespace pagoda::worker {
namespace {

const TransportKind kLocal = {.name = "local", .transports = ""};

TEST(LocalTransport, ADroppedMessageIsMissedByName) {
  Ranks ranks(kLocal, {1, 1});
  ranks.hub().SetFate([](PeerId, PeerId, MessageTag tag, size_t) {
    return MessageFate{.drop = tag.step == 2, .delay = {}};
  });
  ranks.Run(Epoch(1), [](PeerId self, Transport& transport) {
    std::vector<std::byte> data(10);
    for (uint64_t step = 1; step <= 3; ++step) {
      const MessageTag tag{.channel = Channel::kHidden, .step = step, .sequence = 0};
      if (self.stage == 0) {
        EXPECT_TRUE(transport.Send({.stage = 1, .rank = 0}, tag, data)->done());
        continue;
      }
      const auto transfer = transport.Receive({.stage = 0, .rank = 0}, tag, data);
      Transfer* const waited = transfer.get();
      const auto status = transport.Wait({&waited, 1}, absl::Milliseconds(30), nullptr);
      EXPECT_EQ(status.code(),
                step == 2 ? absl::StatusCode::kDeadlineExceeded : absl::StatusCode::kOk)
          << status;
    }
  });
}

TEST(LocalTransport, AKilledPeerIsUnavailable) {
  Ranks ranks(kLocal, {1, 1});
  ranks.Run(Epoch(1), [&](PeerId self, Transport& transport) {
    if (self.stage == 0) {
      transport.Idle(absl::Milliseconds(5));
      ranks.hub().Kill(transport.address());
      return;
    }
    std::vector<std::byte> data(10);
    const auto transfer = transport.Receive(
        {.stage = 0, .rank = 0}, {.channel = Channel::kGather, .step = 1, .sequence = 0}, data);
    Transfer* const waited = transfer.get();
    const auto status = transport.Wait({&waited, 1}, absl::Seconds(10), nullptr);
    EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
    EXPECT_NE(std::string(status.message()).find("stage 0 rank 0 gather, step 1"),
              std::string::npos)
        << status;
  });
}

TEST(LocalTransport, ConnectNamesWhoDidNotCome) {
  Ranks ranks(kLocal, {2, 1});
  ranks.RunUnconnected([&](PeerId self, Transport& transport) {
    if (self.stage == 1) return;
    const auto status =
        transport.Connect(Epoch(4), self, ranks.addresses(), absl::Milliseconds(50));
    EXPECT_EQ(status.code(), absl::StatusCode::kDeadlineExceeded);
    EXPECT_NE(std::string(status.message()).find("stage 1 rank 0"), std::string::npos) << status;
    EXPECT_EQ(std::string(status.message()).find("stage 0"), std::string::npos) << status;
  });
}

}  // namespace
}  // namespace pagoda::worker
