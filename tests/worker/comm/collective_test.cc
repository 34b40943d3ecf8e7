#include "worker/comm/collective.h"

#include <numeric>

#include "gtest/gtest.h"
#include "tests/worker/comm/ranks.h"

namespace pagoda::worker {
namespace {

constexpr absl::Duration kTimeout = absl::Seconds(20);

// Every part its own buffer, of the size that rank gives.
struct Parts {
  std::vector<std::vector<std::byte>> data;
  std::vector<std::span<std::byte>> spans;
  explicit Parts(const std::vector<size_t>& sizes) {
    for (const size_t size : sizes) data.emplace_back(size);
    for (auto& part : data) spans.emplace_back(part);
  }
};

class CollectiveTest : public testing::TestWithParam<std::tuple<TransportKind, int>> {
 protected:
  TransportKind kind() const { return std::get<0>(GetParam()); }
  int size() const { return std::get<1>(GetParam()); }
  // Uneven, with an empty one and one over many packets.
  std::vector<size_t> Sizes() const {
    const std::vector<size_t> all = {2304, 0, 70001, 1, 300000};
    return {all.begin(), all.begin() + size()};
  }
};

TEST_P(CollectiveTest, GatherGivesAllPartsToAll) {
  Ranks ranks(kind(), {size()});
  ranks.Run(Epoch(1), [&](PeerId self, Transport& transport) {
    Collective group(transport, self, size());
    for (uint64_t step = 1; step <= 3; ++step) {
      group.BeginStep(StepNumber(step));
      for (uint64_t call = 0; call < 4; ++call) {
        Parts parts(Sizes());
        const auto mine = Pattern(Sizes()[self.rank], step * 100 + call * 10 + self.rank);
        const auto status = group.Gather(mine, parts.spans, {}, kTimeout, nullptr);
        ASSERT_TRUE(status.ok()) << status;
        for (int rank = 0; rank < size(); ++rank) {
          EXPECT_EQ(parts.data[rank], Pattern(Sizes()[rank], step * 100 + call * 10 + rank))
              << rank;
        }
      }
    }
  });
}

TEST_P(CollectiveTest, GatherAmongSomeLeavesTheOthersAlone) {
  if (size() < 3) GTEST_SKIP() << "needs three ranks";
  Ranks ranks(kind(), {size()});
  const std::vector<int> members = {0, 2};
  ranks.Run(Epoch(1), [&](PeerId self, Transport& transport) {
    Collective group(transport, self, size());
    group.BeginStep(StepNumber(1));
    if (self.rank == 0 || self.rank == 2) {
      Parts parts(Sizes());
      const auto mine = Pattern(Sizes()[self.rank], self.rank);
      const auto status = group.Gather(mine, parts.spans, members, kTimeout, nullptr);
      ASSERT_TRUE(status.ok()) << status;
      for (const int rank : members) EXPECT_EQ(parts.data[rank], Pattern(Sizes()[rank], rank));
    }
    // The ranks that were not in the call above still agree about what comes next.
    Parts parts(Sizes());
    const auto mine = Pattern(Sizes()[self.rank], 50 + self.rank);
    const auto status = group.Gather(mine, parts.spans, {}, kTimeout, nullptr);
    ASSERT_TRUE(status.ok()) << status;
    for (int rank = 0; rank < size(); ++rank)
      EXPECT_EQ(parts.data[rank], Pattern(Sizes()[rank], 50 + rank));
  });
}

TEST_P(CollectiveTest, GatherToAndBroadcastFromEachRoot) {
  Ranks ranks(kind(), {size()});
  ranks.Run(Epoch(1), [&](PeerId self, Transport& transport) {
    Collective group(transport, self, size());
    group.BeginStep(StepNumber(9));
    for (int root = 0; root < size(); ++root) {
      Parts parts(Sizes());
      const auto mine = Pattern(Sizes()[self.rank], root * 10 + self.rank);
      ASSERT_TRUE(group.GatherTo(root, mine, parts.spans, kTimeout, nullptr).ok());
      if (self.rank == root) {
        for (int rank = 0; rank < size(); ++rank) {
          EXPECT_EQ(parts.data[rank], Pattern(Sizes()[rank], root * 10 + rank))
              << root << ' ' << rank;
        }
      }
      const auto told = Pattern(12345, 1000 + root);
      std::vector<std::byte> heard = self.rank == root ? told : std::vector<std::byte>(told.size());
      ASSERT_TRUE(group.Broadcast(root, heard, kTimeout, nullptr).ok());
      EXPECT_EQ(heard, told);
    }
  });
}

TEST_P(CollectiveTest, OwnPartMayLieInPlace) {
  Ranks ranks(kind(), {size()});
  ranks.Run(Epoch(1), [&](PeerId self, Transport& transport) {
    Collective group(transport, self, size());
    group.BeginStep(StepNumber(1));
    std::vector<float> all(size() * 8, -1.0f);
    std::vector<std::span<std::byte>> parts;
    for (int rank = 0; rank < size(); ++rank) {
      parts.push_back(std::as_writable_bytes(std::span(all).subspan(rank * 8, 8)));
    }
    std::iota(all.begin() + self.rank * 8, all.begin() + self.rank * 8 + 8, self.rank * 8.0f);
    ASSERT_TRUE(group.Gather(parts[self.rank], parts, {}, kTimeout, nullptr).ok());
    for (size_t i = 0; i < all.size(); ++i) EXPECT_EQ(all[i], static_cast<float>(i));
  });
}

INSTANTIATE_TEST_SUITE_P(, CollectiveTest,
                         testing::Combine(testing::ValuesIn(AllTransportKinds()),
                                          testing::Range(1, 6)),
                         [](const auto& info) {
                           return std::get<0>(info.param).name + "_" +
                                  std::to_string(std::get<1>(info.param));
                         });

}  // namespace
}  // namespace pagoda::worker
