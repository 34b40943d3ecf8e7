// The one thread that owns everything that changes in a router: connections, sessions, the cluster
// view, the policy. gRPC's threads and the preparation pool hand it work by Post; nothing else
// locks. Owner: main (or a test). Thread rule: Post and Stop from any thread, all else on the
// loop's thread.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

namespace pagoda::router {

class EventLoop {
 public:
  EventLoop();
  ~EventLoop();
  EventLoop(const EventLoop&) = delete;
  EventLoop& operator=(const EventLoop&) = delete;

  // Runs `task` on the loop's thread, in the order of posting. What is posted after Run has
  // returned is never run.
  void Post(std::function<void()> task);
  // Runs `task` each `interval_ms` until the loop ends.
  void Every(int64_t interval_ms, std::function<void()> task);
  // Blocks the calling thread, which becomes the loop's thread, until Stop. May be called again
  // after that; a Stop before Run is forgotten, one that was posted is not.
  void Run();
  void Stop();

  // The Asio part, for http/ (event_loop_asio.h).
  struct State;
  State& state() { return *state_; }

 private:
  std::unique_ptr<State> state_;
};

}  // namespace pagoda::router
