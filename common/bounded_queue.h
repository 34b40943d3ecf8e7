// A bounded queue between threads: many producers, one consumer. Full means refuse (TryPush), never grow.
// Thread rule: every method may be called from any thread; one thread consumes.
#pragma once

#include <cstddef>
#include <deque>
#include <optional>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/time/time.h"
#include "common/mutex.h"

namespace pagoda {

template <typename T>
class BoundedQueue {
 public:
  explicit BoundedQueue(size_t capacity) : capacity_(capacity) {}

  // False when full or closed; `item` is then unchanged.
  bool TryPush(T&& item) {
    MutexLock lock(&mutex_);
    if (closed_ || items_.size() >= capacity_) return false;
    items_.push_back(std::move(item));
    return true;
  }

  // Takes everything there is, at once. Waits up to `timeout` for a first item. Empty on time-out or when closed.
  std::vector<T> PopAll(absl::Duration timeout) {
    MutexLock lock(&mutex_);
    mutex_.AwaitWithTimeout([this]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return Ready(); }, timeout);
    std::vector<T> all(std::make_move_iterator(items_.begin()), std::make_move_iterator(items_.end()));
    items_.clear();
    return all;
  }

  std::optional<T> Pop(absl::Duration timeout) {
    MutexLock lock(&mutex_);
    mutex_.AwaitWithTimeout([this]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return Ready(); }, timeout);
    if (items_.empty()) return std::nullopt;
    std::optional<T> item(std::move(items_.front()));
    items_.pop_front();
    return item;
  }

  // Later pushes fail, waiting pops return; what is queued can still be popped.
  void Close() {
    MutexLock lock(&mutex_);
    closed_ = true;
  }
  bool closed() const {
    MutexLock lock(&mutex_);
    return closed_;
  }
  size_t size() const {
    MutexLock lock(&mutex_);
    return items_.size();
  }

 private:
  bool Ready() const ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return closed_ || !items_.empty(); }

  const size_t capacity_;
  mutable Mutex mutex_;
  std::deque<T> items_ ABSL_GUARDED_BY(mutex_);
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace pagoda
