// Tries TCP connects for the control thread: does a silent worker's host still take connections for it? One thread of its own,
// one connect after the other, each within kProbeMs. Thread rule: any thread; `done` is called on the prober's.
#pragma once

#include <functional>
#include <string>
#include <thread>

#include "common/bounded_queue.h"
#include "coordinator/diagnosis.h"

namespace pagoda::coordinator {

// Within `timeout_ms`. An address that cannot be read counts as unreachable.
ProbeResult TryConnect(const std::string& address, int timeout_ms);

class Prober {
 public:
  Prober();
  ~Prober() { Stop(); }
  void Probe(std::string address, std::function<void(ProbeResult)> done);
  void Stop();  // nothing is called after it

 private:
  struct Job {
    std::string address;
    std::function<void(ProbeResult)> done;
  };
  BoundedQueue<Job> jobs_;
  std::thread thread_;
};

}  // namespace pagoda::coordinator
