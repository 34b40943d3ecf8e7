// A mutex whose holder can wait for a condition, over std::mutex. In place of absl::Mutex: Debian's Abseil is built without
// instrumentation, so that ThreadSanitizer sees neither its locks nor what they order.
// Thread rule: every method may be called from any thread. Not recursive.
// Waits read the steady clock, so that a jump of the wall clock neither ends nor prolongs one.
#pragma once

#include <chrono>
#include <condition_variable>
#include <mutex>

#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"
#include "absl/time/time.h"

namespace pagoda {

class ABSL_LOCKABLE Mutex {
 public:
  using Condition = absl::FunctionRef<bool()>;

  Mutex() = default;
  Mutex(const Mutex&) = delete;
  Mutex& operator=(const Mutex&) = delete;

  void Lock() ABSL_EXCLUSIVE_LOCK_FUNCTION() { mutex_.lock(); }
  void Unlock() ABSL_UNLOCK_FUNCTION() {
    WakeReady();
    mutex_.unlock();
  }

  // Lets go of the lock until `condition` holds; holds the lock again on return. The condition reads only what this mutex
  // guards, since it is asked when the mutex is unlocked, by whichever thread that is; there is nothing to signal.
  void Await(Condition condition) ABSL_EXCLUSIVE_LOCKS_REQUIRED(this) {
    AwaitWithTimeout(condition, absl::InfiniteDuration());
  }
  // The same, for at most `timeout`. Returns whether the condition holds.
  bool AwaitWithTimeout(Condition condition, absl::Duration timeout) ABSL_EXCLUSIVE_LOCKS_REQUIRED(this) {
    if (condition()) return true;
    if (timeout <= absl::ZeroDuration()) return false;
    WakeReady();  // the wait unlocks: whatever was changed until here may be what others wait for
    Waiter waiter(condition, waiters_);
    waiters_ = &waiter;
    std::unique_lock lock(mutex_, std::adopt_lock);
    const bool holds = waiter.Wait(lock, timeout);
    lock.release();
    Waiter** place = &waiters_;
    while (*place != &waiter) place = &(*place)->next;
    *place = waiter.next;
    return holds;
  }

 private:
  // One waiting thread; lives on its stack, in a list that the mutex guards.
  struct Waiter {
    Waiter(Condition c, Waiter* n) : condition(c), next(n) {}

    bool Wait(std::unique_lock<std::mutex>& lock, absl::Duration timeout) {
      if (timeout >= kForever) {
        wake.wait(lock, condition);
        return true;
      }
      return wake.wait_until(lock, std::chrono::steady_clock::now() + absl::ToChronoNanoseconds(timeout), condition);
    }

    const Condition condition;
    Waiter* next;
    std::condition_variable wake;
  };

  // Beyond this the sum of clock and time-out might overflow.
  static constexpr absl::Duration kForever = absl::Hours(24 * 365);

  // Called with the lock held: a waiter cannot be gone before it was woken, nor can this mutex.
  void WakeReady() {
    for (Waiter* waiter = waiters_; waiter != nullptr; waiter = waiter->next) {
      if (waiter->condition()) waiter->wake.notify_one();
    }
  }

  std::mutex mutex_;
  Waiter* waiters_ = nullptr;  // guarded by mutex_
};

class ABSL_SCOPED_LOCKABLE MutexLock {
 public:
  explicit MutexLock(Mutex* mutex) ABSL_EXCLUSIVE_LOCK_FUNCTION(mutex) : mutex_(mutex) { mutex_->Lock(); }
  ~MutexLock() ABSL_UNLOCK_FUNCTION() { mutex_->Unlock(); }
  MutexLock(const MutexLock&) = delete;
  MutexLock& operator=(const MutexLock&) = delete;

 private:
  Mutex* const mutex_;
};

}  // namespace pagoda
