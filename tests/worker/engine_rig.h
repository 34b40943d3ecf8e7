// All ranks of a pipeline as engines of this process, joined by an in-process transport, and a small scheduler that drives them
// with plans as the coordinator would: prefill in chunks, decodes run one step ahead of the results.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "common/mutex.h"
#include "kernels/cpu/cpu_backend.h"
#include "tests/fakes/model_writer.h"
#include "worker/comm/local_transport.h"
#include "worker/engine/engine.h"

namespace pagoda::worker::testing {

// A model file that is removed with this object.
class TempModel {
 public:
  explicit TempModel(const pagoda::testing::TinyModelOptions& options);
  ~TempModel();
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// 4 layers, 9 query heads over 3 KV heads as the default model has, any T from 1 to 9.
pagoda::testing::TinyModelOptions SmallLikeDefault();

struct RigOptions {
  std::string model;
  std::vector<StageAssignment> stages;
  kernels::Isa isa = kernels::Isa::kAuto;
  int threads = 1;
  int activation_bits = 8;
  int blocks = 64;
  int max_rows = 64;
  absl::Duration deadline = absl::Seconds(20);
  int64_t replay_bytes = int64_t{64} << 20;
  std::function<std::unique_ptr<kernels::Backend>()> make_backend = nullptr;  // null: the CPU's, as above
  std::function<void(size_t index, EngineOptions&)> adjust = nullptr;         // of each engine, before it is made
};

// What one rank told its sink.
class RankLog : public EngineSink {
 public:
  void OnLoad(const LoadReport& report) override;
  void OnResult(StepResult result) override;
  void OnFault(const FaultReport& fault) override;
  void OnLeft(Epoch epoch) override;
  void OnKvFilled(const KvFilled& filled) override;
  void OnStep(const Assignment&, const StepTimes& times, const Transport::Counters&) override;

  // Each waits up to 20 s for the next one.
  std::optional<StepResult> Result();
  std::optional<FaultReport> Fault(absl::Duration timeout = absl::Seconds(20));
  std::optional<KvFilled> Filled();
  bool Reached(LoadPhase phase, Epoch epoch);
  bool Left(Epoch epoch);
  int steps() const;
  LoadReport last_load() const;
  std::vector<KvRecord::Held> held(Epoch epoch) const;  // as told when it had loaded

 private:
  mutable Mutex mutex_;
  std::deque<StepResult> results_ ABSL_GUARDED_BY(mutex_);
  std::deque<FaultReport> faults_ ABSL_GUARDED_BY(mutex_);
  std::deque<KvFilled> filled_ ABSL_GUARDED_BY(mutex_);
  std::vector<LoadReport> loads_ ABSL_GUARDED_BY(mutex_);
  std::vector<Epoch> left_ ABSL_GUARDED_BY(mutex_);
  int steps_ ABSL_GUARDED_BY(mutex_) = 0;
};

class EngineRig {
 public:
  explicit EngineRig(const RigOptions& options);
  ~EngineRig();

  // A worker of this place that has nothing yet, as after a loss.
  void Replace(size_t index);
  // Assigns, waits for the weights, links. False after a fault.
  bool Assemble(Epoch epoch);
  // The first half of Assemble: all have loaded, none is linked. Nothing when that failed.
  std::optional<LinkUp> Load(Epoch epoch);
  void Post(StepPlan plan);  // to all ranks
  void Release(Epoch epoch, bool keep_weights);

  size_t size() const { return engines_.size(); }
  Engine& engine(size_t index) { return *engines_[index]; }
  RankLog& log(size_t index) { return *logs_[index]; }
  RankLog& reporter();  // rank 0 of the last stage
  LocalHub& hub() { return hub_; }
  const RigOptions& options() const { return options_; }

 private:
  std::unique_ptr<Engine> MakeEngine(size_t index, RankLog& log);

  const RigOptions options_;
  LocalHub hub_;
  std::vector<PeerId> peers_;
  std::vector<std::unique_ptr<RankLog>> logs_;
  std::vector<std::unique_ptr<Engine>> engines_;
};

// What one sequence is to do, and what it did.
struct SequenceTask {
  std::vector<TokenId> tokens;  // prompt and output so far
  int prompt_length = 0;
  int choice = 0;
  int outputs = 8;              // to generate besides
  std::shared_ptr<const SamplerParams> params;
  bool prompt_logprobs = false;
};
struct SequenceOutcome {
  std::vector<TokenId> tokens;        // generated
  std::vector<Logprobs> logprobs;
  std::vector<Logprobs> prompt_logprobs;
  bool operator==(const SequenceOutcome&) const = default;
};

// Runs all tasks together, `chunk` prompt rows of each per step. Sequence i takes slot i and blocks of its own in a scattered
// order. Empty when a fault came.
std::vector<SequenceOutcome> RunTogether(EngineRig& rig, Epoch epoch, const std::vector<SequenceTask>& tasks, int chunk);

}  // namespace pagoda::worker::testing
