// Campaigns for the leadership of a store, keeps it, and tells when it is had and when it is lost. Unreachable is not lost:
// whoever leads goes on with what runs, and the store's fence keeps it from starting anything new.
// One thread of its own; the callbacks are called on it (`Campaign` in Begin on the caller's).
#pragma once

#include <atomic>
#include <functional>
#include <string>
#include <thread>

#include "coordinator/store/store.h"

namespace pagoda::coordinator {

class Leadership {
 public:
  struct Events {
    std::function<void(const Leader&)> lead;                // this one leads from now on
    std::function<void(const std::string& why)> lost;       // and not any more
    std::function<void(const std::string& address)> follow; // another one leads; empty: nobody is known to
  };
  Leadership(Store& store, Candidate self, Events events);
  ~Leadership() { Stop(); }

  // Campaigns once and then goes on in the background.
  void Begin();
  // Lets go of the leadership and ends the thread.
  void Stop();

 private:
  void Run();
  void Step();

  Store& store_;
  const Candidate self_;
  const Events events_;
  bool leads_ = false;  // Begin's thread, then its own
  bool unreachable_ = false;
  std::string followed_ = "?";
  std::atomic<bool> stopping_{false};
  std::thread thread_;
};

}  // namespace pagoda::coordinator
