#include "router/worker_pool.h"

namespace pagoda::router {

WorkerPool::WorkerPool(int threads, size_t capacity) : queue_(capacity) {
  for (int i = 0; i < threads; ++i) threads_.emplace_back([this] { Work(); });
}

WorkerPool::~WorkerPool() {
  queue_.Close();
  for (std::thread& thread : threads_) thread.join();
}

bool WorkerPool::TrySubmit(std::function<void()> task) { return queue_.TryPush(std::move(task)); }

void WorkerPool::Work() {
  while (!queue_.closed()) {
    if (auto task = queue_.Pop(absl::InfiniteDuration())) {
      if (!queue_.closed()) (*task)();
    }
  }
}

}  // namespace pagoda::router
