// The worker's real engine in this process, driven with plans as a coordinator would drive it, one step ahead of the results:
// what serving costs beyond this is the serving tax. One stage, one rank, no HTTP and no sockets.
// Thread rule: one thread drives; the engine has its own.
#pragma once

#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/mutex.h"
#include "kernels/cpu/cpu_backend.h"
#include "worker/comm/local_transport.h"
#include "worker/engine/engine.h"

namespace pagoda::bench {

struct DriverOptions {
  std::string model;
  int threads = 2;
  kernels::Isa isa = kernels::Isa::kAuto;
  std::string kv_cache_type = "f16";
  int activation_bits = 8;
  int streams = 1;
  int max_context = 512;  // of one stream
  int max_rows = 512;     // of one step
};

class EngineDriver : private worker::EngineSink {
 public:
  // Loads the model; returns when the engine takes plans.
  static absl::StatusOr<std::unique_ptr<EngineDriver>> Start(const DriverOptions& options);
  ~EngineDriver() override;

  struct Timing {
    int64_t prompt_ns = 0;  // from the first plan to the first tokens of all streams
    int64_t decode_ns = 0;  // from there to the last token
    int64_t decoded = 0;    // tokens in that time, all streams
    uint64_t checksum = 0;  // of all tokens: the same in every run
  };
  // Every stream gets `prompt` random tokens and generates `outputs` greedily. Streams start together; their prompts go in
  // steps of at most max_rows rows.
  absl::StatusOr<Timing> Run(int prompt, int outputs, uint64_t seed);

  std::string_view implementation() const { return implementation_; }
  int64_t weights_bytes() const { return load_.weights_bytes; }

 private:
  explicit EngineDriver(const DriverOptions& options) : options_(options) {}
  absl::Status Assemble();
  absl::Status Await(worker::LoadPhase phase);
  absl::StatusOr<worker::StepResult> AwaitResult();

  void OnLoad(const worker::LoadReport& report) override;
  void OnResult(worker::StepResult result) override;
  void OnFault(const worker::FaultReport& fault) override;
  void OnLeft(Epoch) override {}
  void OnStep(const worker::Assignment&, const worker::StepTimes&, const worker::Transport::Counters&) override {}

  const DriverOptions options_;
  worker::LocalHub hub_;
  std::string implementation_;
  int vocabulary_ = 0;
  uint64_t step_ = 0;

  Mutex mutex_;
  worker::LoadReport load_ ABSL_GUARDED_BY(mutex_);
  std::deque<worker::StepResult> results_ ABSL_GUARDED_BY(mutex_);
  std::optional<std::string> fault_ ABSL_GUARDED_BY(mutex_);

  std::unique_ptr<worker::Engine> engine_;  // last: it calls the sink
};

}  // namespace pagoda::bench
