#include "kernels/cpu/thread_team.h"

#include <immintrin.h>
#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <chrono>
#include <climits>

namespace pagoda::kernels::cpu {
namespace {

constexpr uint64_t kOpen = uint64_t{1} << 16;
constexpr int kJobShift = 17;
constexpr uint64_t kInside = kOpen - 1;

void FutexWait(std::atomic<uint32_t>& word, uint32_t expected) {
  syscall(SYS_futex, reinterpret_cast<uint32_t*>(&word), FUTEX_WAIT_PRIVATE, expected, nullptr, nullptr, 0);
}

void FutexWakeAll(std::atomic<uint32_t>& word) {
  syscall(SYS_futex, reinterpret_cast<uint32_t*>(&word), FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0);
}

// Binds the calling thread to the index-th CPU of `allowed`.
void PinThread(int index, const cpu_set_t& allowed) {
  const int count = CPU_COUNT(&allowed);
  if (count == 0) return;
  int left = index % count;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &allowed) || left-- > 0) continue;
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    sched_setaffinity(0, sizeof one, &one);
    return;
  }
}

// True while `still` holds and the time is not over; checks the clock seldom.
template <typename Condition>
bool SpinWhile(int spin_us, Condition still) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::microseconds(spin_us);
  do {
    for (int i = 0; i < 32; ++i) {
      if (!still()) return false;
      _mm_pause();
    }
  } while (std::chrono::steady_clock::now() < end);
  return still();
}

}  // namespace

ThreadTeam::ThreadTeam(const TeamOptions& options)
    : threads_(options.threads < 1 ? 1 : options.threads),
      spin_us_(options.spin_us),
      shares_(new Share[threads_]) {
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  const bool pin = options.pin && sched_getaffinity(0, sizeof allowed, &allowed) == 0;
  if (pin) PinThread(0, allowed);
  for (int i = 1; i < threads_; ++i) {
    helpers_.emplace_back([this, i, pin, allowed] {
      if (pin) PinThread(i, allowed);
      Loop(i);
    });
  }
}

ThreadTeam::~ThreadTeam() {
  stop_.store(true);
  signal_.fetch_add(1);
  FutexWakeAll(signal_);
  for (std::thread& helper : helpers_) helper.join();
}

void ThreadTeam::RunJob(int64_t tasks, TaskFunction function, void* context) {
  if (threads_ == 1 || tasks <= 1) {
    for (int64_t task = 0; task < tasks; ++task) function(context, 0, task);
    return;
  }
  function_ = function;
  context_ = context;
  for (int i = 0; i < threads_; ++i) {
    shares_[i].next.store(tasks * i / threads_, std::memory_order_relaxed);
    shares_[i].end = tasks * (i + 1) / threads_;
  }
  const uint64_t job = (gate_.load(std::memory_order_relaxed) >> kJobShift) + 1;
  gate_.store(job << kJobShift | kOpen, std::memory_order_seq_cst);
  signal_.fetch_add(1, std::memory_order_seq_cst);
  if (sleepers_.load(std::memory_order_seq_cst) > 0) FutexWakeAll(signal_);
  Work(0);
  gate_.fetch_and(~kOpen, std::memory_order_acq_rel);
  const auto busy = [this] { return (gate_.load(std::memory_order_acquire) & kInside) != 0; };
  while (SpinWhile(spin_us_, busy)) sched_yield();
}

void ThreadTeam::Work(int thread) {
  for (int i = 0; i < threads_; ++i) {
    Share& share = shares_[(thread + i) % threads_];
    for (;;) {
      if (share.next.load(std::memory_order_relaxed) >= share.end) break;
      const int64_t task = share.next.fetch_add(1, std::memory_order_relaxed);
      if (task >= share.end) break;
      function_(context_, thread, task);
    }
  }
}

uint64_t ThreadTeam::AwaitNewJob(uint64_t seen_job) {
  const auto nothing_new = [&] {
    return gate_.load(std::memory_order_acquire) >> kJobShift == seen_job && !stop_.load(std::memory_order_relaxed);
  };
  if (SpinWhile(spin_us_, nothing_new)) {
    sleepers_.fetch_add(1, std::memory_order_seq_cst);
    for (;;) {
      const uint32_t signal = signal_.load(std::memory_order_seq_cst);
      if (!nothing_new()) break;
      FutexWait(signal_, signal);
    }
    sleepers_.fetch_sub(1, std::memory_order_seq_cst);
  }
  return gate_.load(std::memory_order_acquire);
}

void ThreadTeam::Loop(int thread) {
  uint64_t seen_job = 0;
  while (!stop_.load(std::memory_order_relaxed)) {
    uint64_t gate = AwaitNewJob(seen_job);
    seen_job = gate >> kJobShift;
    while ((gate & kOpen) != 0 && gate >> kJobShift == seen_job) {
      if (!gate_.compare_exchange_weak(gate, gate + 1, std::memory_order_acq_rel)) continue;
      Work(thread);
      gate_.fetch_sub(1, std::memory_order_release);
      break;
    }
  }
}

}  // namespace pagoda::kernels::cpu
