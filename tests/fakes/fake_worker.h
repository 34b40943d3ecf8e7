// A worker without a model: speaks WorkerControl over real gRPC and runs plans with the toy pipeline of the scheduler's
// tests. Rank 0 of the last stage answers, the others only keep up. One fake is one process life: Kill() is a kill -9.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

namespace pagoda::testing {

struct FakeWorkerOptions {
  std::string coordinator;  // host:port
  std::string name;
  int vocabulary = 0;
  int64_t memory_bytes = int64_t{1} << 30;
  int step_delay_ms = 0;
  bool heartbeats = true;
};

class FakeWorker {
 public:
  explicit FakeWorker(FakeWorkerOptions options);
  ~FakeWorker();  // as Kill

  void Kill();        // the stream breaks at once
  void StopBeating(); // from now on: as a wedged process (plans are not answered either)
  bool linked() const;
  int steps() const;
  int assignments() const;
  std::string errors() const;  // broken rules of the plan's contract

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace pagoda::testing
