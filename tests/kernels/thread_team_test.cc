#include "kernels/cpu/thread_team.h"

#include <gtest/gtest.h>
#include <time.h>

#include <atomic>
#include <chrono>
#include <random>

namespace pagoda::kernels::cpu {
namespace {

TEST(ThreadTeam, RunsEveryTaskOnce) {
  for (int threads = 1; threads <= 4; ++threads) {
    ThreadTeam team({.threads = threads, .spin_us = 5});
    std::mt19937_64 random(threads);
    for (int round = 0; round < 2000; ++round) {
      const int64_t tasks = static_cast<int64_t>(random() % 40);
      std::vector<std::atomic<int>> runs(tasks);
      team.Run(tasks, [&](int thread, int64_t task) {
        EXPECT_LT(thread, threads);
        runs[task].fetch_add(1);
      });
      for (auto& count : runs) ASSERT_EQ(count.load(), 1) << "threads " << threads << " round " << round;
    }
  }
}

TEST(ThreadTeam, WakesAfterSleeping) {
  ThreadTeam team({.threads = 3, .spin_us = 0});
  for (int round = 0; round < 20; ++round) {
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
    std::atomic<int64_t> sum{0};
    team.Run(100, [&](int, int64_t task) { sum += task; });
    ASSERT_EQ(sum.load(), 4950);
  }
}

TEST(ThreadTeam, TakesNoProcessorTimeWhenIdle) {
  ThreadTeam team({.threads = 3});
  team.Run(10, [](int, int64_t) {});
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  const auto cpu_ms = [] {
    timespec now;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return now.tv_sec * 1e3 + now.tv_nsec / 1e6;
  };
  const double before = cpu_ms();
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  EXPECT_LT(cpu_ms() - before, 20);
}

}  // namespace
}  // namespace pagoda::kernels::cpu
