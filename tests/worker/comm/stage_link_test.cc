#include "worker/comm/stage_link.h"

#include <chrono>
#include <map>
#include <thread>

#include "gtest/gtest.h"
#include "tests/worker/comm/ranks.h"

namespace pagoda::worker {
namespace {

constexpr absl::Duration kTimeout = absl::Seconds(20);
constexpr int kHidden = 577;
constexpr int kMaxRows = 33;

std::vector<StageShape> Shapes(const std::vector<int>& stages) {
  std::vector<StageShape> shapes;
  for (const int ranks : stages) shapes.push_back({.tensor_parallel = ranks});
  return shapes;
}

int RowsOf(uint64_t step) { return static_cast<int>(1 + step * 7 % kMaxRows); }
// Names the sender: what arrives proves the rule of rank j mod T.
float Value(int stage, int rank, uint64_t step, size_t index) {
  return static_cast<float>(stage * 100000 + rank * 10000 + step * 100 + index % 97);
}

struct Layout {
  TransportKind kind;
  std::vector<int> stages;
};

class StageLinkTest : public testing::TestWithParam<std::tuple<TransportKind, std::vector<int>>> {};

TEST_P(StageLinkTest, RowsComeFromRankModuloWidthAndTokensGoHome) {
  const auto& [kind, stages] = GetParam();
  constexpr uint64_t kSteps = 40;
  Ranks ranks(kind, stages);
  // Until all have ended: a link takes what it has not sent yet with it.
  std::map<PeerId, StageLink> links;
  for (size_t i = 0; i < ranks.addresses().size(); ++i) {
    const PeerId self = ranks.addresses()[i].peer;
    links.try_emplace(self, ranks.transport(i), self, Shapes(stages), kHidden, kMaxRows);
  }
  ranks.Run(Epoch(3), [&](PeerId self, Transport&) {
    StageLink& link = links.at(self);
    std::vector<float> rows(kHidden * kMaxRows);
    for (uint64_t step = 1; step <= kSteps; ++step) {
      // Late to the last steps: who sends is done before its messages have left.
      if (!link.first() && step + 3 == kSteps) std::this_thread::sleep_for(std::chrono::milliseconds(50));
      if (!link.first()) {
        if (step == 1) {
          ASSERT_TRUE(link.PostReceiveHidden(StepNumber(1), RowsOf(1)).ok());
        }
        if (step < kSteps) {
          ASSERT_TRUE(link.PostReceiveHidden(StepNumber(step + 1), RowsOf(step + 1)).ok());
        }
        const auto got = link.ReceiveHidden(StepNumber(step), kTimeout, nullptr);
        ASSERT_TRUE(got.ok()) << got.status();
        for (size_t i = 0; i < static_cast<size_t>(RowsOf(step)) * kHidden; ++i) {
          ASSERT_EQ((*got)[i], Value(self.stage - 1, self.rank % stages[self.stage - 1], step, i));
        }
      }
      if (!link.last()) {
        for (size_t i = 0; i < rows.size(); ++i) rows[i] = Value(self.stage, self.rank, step, i);
        const auto sent =
            link.SendHidden(StepNumber(step), rows.data(), RowsOf(step), kTimeout, nullptr);
        ASSERT_TRUE(sent.ok()) << sent;
      } else if (self.rank == 0) {
        std::vector<StageLink::SlotToken> tokens;
        for (int i = 0; i < RowsOf(step) - 1; ++i)
          tokens.push_back({.slot = i, .token = static_cast<int>(step) * 10 + i});
        ASSERT_TRUE(link.SendTokens(StepNumber(step), tokens).ok());
      }
      if (link.first() && self.rank == 0) {
        const auto tokens =
            link.ReceiveTokens(StepNumber(step), RowsOf(step) - 1, kTimeout, nullptr);
        ASSERT_TRUE(tokens.ok()) << tokens.status();
        ASSERT_EQ(tokens->size(), static_cast<size_t>(RowsOf(step) - 1));
        for (int i = 0; i < RowsOf(step) - 1; ++i) {
          EXPECT_EQ((*tokens)[i].slot, i);
          EXPECT_EQ((*tokens)[i].token, static_cast<int>(step) * 10 + i);
        }
      }
    }
  });
}

TEST_P(StageLinkTest, ASilentPeerIsNamed) {
  const auto& [kind, stages] = GetParam();
  if (stages.size() < 2) GTEST_SKIP() << "needs two stages";
  Ranks ranks(kind, stages);
  ranks.Run(Epoch(1), [&](PeerId self, Transport& transport) {
    StageLink link(transport, self, Shapes(stages), kHidden, kMaxRows);
    if (self.stage != 1) {
      transport.Idle(absl::Milliseconds(60));
      return;
    }
    ASSERT_TRUE(link.PostReceiveHidden(StepNumber(17), 1).ok());
    const auto got = link.ReceiveHidden(StepNumber(17), absl::Milliseconds(20), nullptr);
    EXPECT_EQ(got.status().code(), absl::StatusCode::kDeadlineExceeded);
    const std::string peer =
        absl::StrCat("stage 0 rank ", self.rank % stages[0], " hidden, step 17");
    EXPECT_NE(std::string(got.status().message()).find(peer), std::string::npos) << got.status();
  });
}

INSTANTIATE_TEST_SUITE_P(
    , StageLinkTest,
    testing::Combine(testing::ValuesIn(AllTransportKinds()),
                     testing::Values(std::vector<int>{1}, std::vector<int>{1, 1},
                                     std::vector<int>{3, 1}, std::vector<int>{1, 3},
                                     std::vector<int>{2, 3, 1})),
    [](const auto& info) {
      std::string name = std::get<0>(info.param).name;
      for (const int ranks : std::get<1>(info.param)) name += "_" + std::to_string(ranks);
      return name;
    });

TEST(StageLinkLocal, AStoppedWaitIsTakenUpAgain) {
  Ranks ranks({.name = "local", .transports = ""}, {1, 1});
  std::atomic<bool> stop = false;
  std::atomic<bool> go = false;
  ranks.Run(Epoch(1), [&](PeerId self, Transport& transport) {
    StageLink link(transport, self, Shapes({1, 1}), kHidden, kMaxRows);
    const std::vector<float> rows(kHidden, 4.0f);
    if (link.first()) {
      transport.Idle(absl::Milliseconds(10));
      stop = true;
      ranks.transport(1).Wake();
      while (!go) std::this_thread::yield();
      ASSERT_TRUE(link.SendHidden(StepNumber(1), rows.data(), 1, kTimeout, nullptr).ok());
      return;
    }
    ASSERT_TRUE(link.PostReceiveHidden(StepNumber(1), 1).ok());
    EXPECT_EQ(link.ReceiveHidden(StepNumber(1), kTimeout, &stop).status().code(),
              absl::StatusCode::kCancelled);
    stop = false;
    go = true;
    const auto got = link.ReceiveHidden(StepNumber(1), kTimeout, &stop);
    ASSERT_TRUE(got.ok()) << got.status();
    EXPECT_EQ((*got)[kHidden - 1], 4.0f);
  });
}

TEST(StageLinkLocal, SendsBlockOnlyWhenTooManyAreUnfinished) {
  Ranks ranks({.name = "local", .transports = ""}, {1, 1});
  std::atomic<bool> slow = false;
  ranks.hub().SetFate([&](PeerId, PeerId, MessageTag tag, size_t) {
    return MessageFate{.drop = false,
                       .delay = slow && tag.channel == Channel::kHidden ? absl::Milliseconds(30)
                                                                        : absl::ZeroDuration()};
  });
  ranks.Run(Epoch(1), [&](PeerId self, Transport& transport) {
    if (self.stage != 0) return;
    slow = true;
    StageLink link(transport, self, Shapes({1, 1}), kHidden, kMaxRows);
    const std::vector<float> rows(kHidden, 1.0f);
    const absl::Time begin = absl::Now();
    for (uint64_t step = 1; step <= 4; ++step) {
      ASSERT_TRUE(link.SendHidden(StepNumber(step), rows.data(), 1, kTimeout, nullptr).ok());
    }
    EXPECT_LT(absl::Now() - begin, absl::Milliseconds(25));
    ASSERT_TRUE(link.SendHidden(StepNumber(5), rows.data(), 1, kTimeout, nullptr).ok());
    EXPECT_GE(absl::Now() - begin, absl::Milliseconds(29));
  });
}

}  // namespace
}  // namespace pagoda::worker
