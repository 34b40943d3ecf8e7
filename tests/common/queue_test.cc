#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <thread>
#include <vector>

#include "common/bounded_queue.h"

namespace pagoda {
namespace {

TEST(BoundedQueueTest, RefusesWhenFullAndLeavesTheItem) {
  BoundedQueue<std::unique_ptr<int>> queue(1);
  EXPECT_TRUE(queue.TryPush(std::make_unique<int>(1)));
  auto second = std::make_unique<int>(2);
  EXPECT_FALSE(queue.TryPush(std::move(second)));
  ASSERT_NE(second, nullptr);
  EXPECT_EQ(**queue.Pop(absl::ZeroDuration()), 1);
  EXPECT_TRUE(queue.TryPush(std::move(second)));
}

TEST(BoundedQueueTest, PopAllTakesEverythingInOrder) {
  BoundedQueue<int> queue(10);
  for (int i = 0; i < 5; ++i) ASSERT_TRUE(queue.TryPush(int(i)));
  EXPECT_EQ(queue.PopAll(absl::ZeroDuration()), (std::vector<int>{0, 1, 2, 3, 4}));
  EXPECT_TRUE(queue.PopAll(absl::ZeroDuration()).empty());
  EXPECT_EQ(queue.size(), 0u);
}

TEST(BoundedQueueTest, CloseEndsWaitingAndKeepsWhatIsQueued) {
  BoundedQueue<int> queue(4);
  ASSERT_TRUE(queue.TryPush(7));
  queue.Close();
  EXPECT_FALSE(queue.TryPush(8));
  EXPECT_EQ(queue.Pop(absl::Seconds(60)), 7);
  EXPECT_EQ(queue.Pop(absl::Seconds(60)), std::nullopt) << "a closed queue does not wait";

  BoundedQueue<int> empty(4);
  std::thread closer([&] { empty.Close(); });
  EXPECT_TRUE(empty.PopAll(absl::Seconds(60)).empty());
  closer.join();
}

TEST(BoundedQueueTest, WaitsNoLongerThanToldWhenNothingComes) {
  BoundedQueue<int> queue(4);
  EXPECT_EQ(queue.Pop(absl::Milliseconds(1)), std::nullopt);
}

// Every accepted item comes out once, in the order of its producer.
TEST(BoundedQueueTest, ManyProducersOneConsumer) {
  constexpr int kProducers = 4;
  constexpr int kEach = 5000;
  BoundedQueue<std::pair<int, int>> queue(16);
  std::atomic<int> producing = kProducers;
  std::vector<std::thread> producers;
  for (int producer = 0; producer < kProducers; ++producer) {
    producers.emplace_back([&, producer] {
      for (int i = 0; i < kEach; ++i) {
        while (!queue.TryPush({producer, i})) std::this_thread::yield();
      }
      if (producing.fetch_sub(1) == 1) queue.Close();
    });
  }
  std::vector<int> next(kProducers, 0);
  int total = 0;
  while (total < kProducers * kEach) {
    const auto items = queue.PopAll(absl::Seconds(30));
    ASSERT_FALSE(items.empty()) << "stuck after " << total;
    ASSERT_LE(items.size(), 16u);
    for (const auto& [producer, value] : items) {
      ASSERT_EQ(value, next[static_cast<size_t>(producer)]++);
      ++total;
    }
  }
  for (std::thread& thread : producers) thread.join();
  EXPECT_TRUE(queue.closed());
}

}  // namespace
}  // namespace pagoda
