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
  bool moves_kv = false;          // says that it can fill KV blocks from a peer
  std::string kv_error = "";      // what it answers then; empty: nothing at all
};

class FakeWorker {
 public:
  explicit FakeWorker(FakeWorkerOptions options);
  ~FakeWorker();  // as Kill

  void Kill();        // the stream breaks at once
  void StopBeating(); // from now on: as a wedged process (plans are not answered either)
  void Leave();       // says that it was told to stop, and waits to be let go
  bool let_go() const;
  int fills() const;  // KV fills that it was asked for, and their ends
  int ended_fills() const;
  bool linked() const;
  int steps() const;
  int assignments() const;
  std::string errors() const;  // broken rules of the plan's contract

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace pagoda::testing
