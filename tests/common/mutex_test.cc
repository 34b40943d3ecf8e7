#include "common/mutex.h"

#include <gtest/gtest.h>

#include <chrono>
#include <memory>
#include <thread>
#include <vector>

namespace pagoda {
namespace {

constexpr absl::Duration kPatience = absl::Seconds(60);

TEST(MutexTest, KeepsOthersOut) {
  Mutex mutex;
  int64_t count = 0;
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int j = 0; j < 10000; ++j) {
        MutexLock lock(&mutex);
        ++count;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(count, 40000);
}

// Nobody signals: letting go of the lock is what wakes whoever can go on.
TEST(MutexTest, AwaitReturnsWhenAnotherThreadMakesItTrue) {
  Mutex mutex;
  int turn = 0;
  std::thread other([&] {
    for (int i = 0; i < 1000; ++i) {
      MutexLock lock(&mutex);
      ASSERT_TRUE(mutex.AwaitWithTimeout([&] { return turn % 2 == 1; }, kPatience)) << "round " << i;
      ++turn;
    }
  });
  for (int i = 0; i < 1000; ++i) {
    MutexLock lock(&mutex);
    mutex.Await([&] { return turn % 2 == 0; });
    ++turn;
  }
  other.join();
  EXPECT_EQ(turn, 2000);
}

// What a thread changed before it began to wait is seen by those who wait for it.
TEST(MutexTest, WaitingWakesOthersToo) {
  Mutex mutex;
  bool asked = false, answered = false;
  std::thread other([&] {
    MutexLock lock(&mutex);
    mutex.Await([&] { return asked; });
    answered = true;
  });
  MutexLock lock(&mutex);
  asked = true;
  EXPECT_TRUE(mutex.AwaitWithTimeout([&] { return answered; }, kPatience));
  mutex.Unlock();
  other.join();
  mutex.Lock();
}

TEST(MutexTest, EachWaiterHasItsOwnCondition) {
  Mutex mutex;
  int passed = 0;
  std::vector<std::thread> threads;
  for (int i = 7; i >= 0; --i) {
    threads.emplace_back([&, i] {
      MutexLock lock(&mutex);
      ASSERT_TRUE(mutex.AwaitWithTimeout([&] { return passed == i; }, kPatience)) << "waiter " << i;
      ++passed;
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(passed, 8);
}

TEST(MutexTest, TimesOutOnTheSteadyClockAndHoldsTheLockThen) {
  Mutex mutex;
  bool never = false;
  MutexLock lock(&mutex);
  const auto start = std::chrono::steady_clock::now();
  EXPECT_FALSE(mutex.AwaitWithTimeout([&] { return never; }, absl::Milliseconds(20)));
  EXPECT_GE(std::chrono::steady_clock::now() - start, std::chrono::milliseconds(20));
  EXPECT_FALSE(mutex.AwaitWithTimeout([&] { return never; }, absl::ZeroDuration()));
  EXPECT_FALSE(mutex.AwaitWithTimeout([&] { return never; }, -absl::InfiniteDuration()));
  EXPECT_TRUE(mutex.AwaitWithTimeout([&] { return !never; }, absl::ZeroDuration()));
  bool taken = true;
  std::thread other([&] {
    MutexLock inner(&mutex);
    taken = true;
  });
  taken = false;
  std::this_thread::yield();
  EXPECT_FALSE(taken);
  mutex.Unlock();
  other.join();
  mutex.Lock();
  EXPECT_TRUE(taken);
}

// A thread that was let through may destroy the mutex at once, while the one that woke it is still leaving Unlock.
TEST(MutexTest, TheOneWhoWaitedMayDestroyIt) {
  struct Shared {
    Mutex mutex;
    bool done = false;
  };
  for (int i = 0; i < 500; ++i) {
    auto* shared = new Shared;
    std::thread other([shared] {
      MutexLock lock(&shared->mutex);
      shared->done = true;
    });
    {
      MutexLock lock(&shared->mutex);
      shared->mutex.Await([shared] { return shared->done; });
    }
    delete shared;
    other.join();
  }
}

}  // namespace
}  // namespace pagoda
