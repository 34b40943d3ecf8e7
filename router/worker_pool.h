// A few threads for work that would hold up the event loop: opening a tokenizer, rendering and
// tokenizing long prompts. Thread rule: TrySubmit from any thread.
#pragma once

#include <functional>
#include <thread>
#include <vector>

#include "common/bounded_queue.h"

namespace pagoda::router {

class WorkerPool {
 public:
  WorkerPool(int threads, size_t capacity);
  ~WorkerPool();  // what runs ends, what is queued is dropped

  // False when the queue is full: refuse the request.
  bool TrySubmit(std::function<void()> task);

 private:
  void Work();

  BoundedQueue<std::function<void()>> queue_;
  std::vector<std::thread> threads_;
};

}  // namespace pagoda::router
