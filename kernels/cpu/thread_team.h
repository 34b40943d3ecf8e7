// The threads of a CPU backend. The caller's thread is one of them; the others wait between jobs: they spin for a moment,
// then sleep in the kernel, so that an idle team takes no CPU. A job is a number of independent tasks: each thread starts
// with its own contiguous share and helps the others when it is done. A thread that is still asleep when the others have
// finished the job is not waited for.
// Thread rule: one thread calls Run, not from within a task.
#pragma once

#include <type_traits>
#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

namespace pagoda::kernels::cpu {

struct TeamOptions {
  int threads = 1;
  bool pin = false;  // binds the constructing thread too, as thread 0
  int spin_us = 20;
};

class ThreadTeam {
 public:
  explicit ThreadTeam(const TeamOptions& options);
  ~ThreadTeam();
  ThreadTeam(const ThreadTeam&) = delete;
  ThreadTeam& operator=(const ThreadTeam&) = delete;

  int threads() const { return threads_; }

  // body(thread, task) for every task in [0, tasks), on any thread, and returns when all are done.
  template <typename Body>
  void Run(int64_t tasks, Body&& body) {
    using Plain = std::remove_reference_t<Body>;
    RunJob(tasks, [](void* context, int thread, int64_t task) { (*static_cast<Plain*>(context))(thread, task); },
           const_cast<void*>(static_cast<const void*>(&body)));
  }

 private:
  using TaskFunction = void (*)(void* context, int thread, int64_t task);
  struct alignas(64) Share {
    std::atomic<int64_t> next{0};
    int64_t end = 0;
  };

  void RunJob(int64_t tasks, TaskFunction function, void* context);
  void Work(int thread);
  void Loop(int thread);
  uint64_t AwaitNewJob(uint64_t seen_job);

  const int threads_;
  const int spin_us_;
  std::unique_ptr<Share[]> shares_;
  TaskFunction function_ = nullptr;
  void* context_ = nullptr;

  // bits 0..15: threads inside the job; bit 16: the job is open; above: the job's number.
  alignas(64) std::atomic<uint64_t> gate_{0};
  alignas(64) std::atomic<uint32_t> signal_{0};  // what sleepers wait on
  std::atomic<int> sleepers_{0};
  std::atomic<bool> stop_{false};
  std::vector<std::thread> helpers_;
};

}  // namespace pagoda::kernels::cpu
