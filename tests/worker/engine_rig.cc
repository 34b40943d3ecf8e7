#include "tests/worker/engine_rig.h"

#include <unistd.h>

#include <filesystem>

#include "checkpoint/checkpoint.h"

namespace pagoda::worker::testing {
namespace {

constexpr absl::Duration kPatience = absl::Seconds(20);
constexpr int kBlockTokens = 16;

ModelOpener OpenPath() {
  return [](const Assignment& assignment, const std::function<bool(double)>&)
             -> absl::StatusOr<std::shared_ptr<const checkpoint::Checkpoint>> {
    PAGODA_ASSIGN_OR_RETURN(std::unique_ptr<checkpoint::Checkpoint> model, checkpoint::Checkpoint::Open(assignment.model));
    return std::shared_ptr<const checkpoint::Checkpoint>(std::move(model));
  };
}

}  // namespace

TempModel::TempModel(const pagoda::testing::TinyModelOptions& options) {
  static std::atomic<int> made{0};
  path_ = (std::filesystem::temp_directory_path() / absl::StrCat("pagoda-", getpid(), "-", made++, ".gguf")).string();
  const absl::Status status = pagoda::testing::WriteTinyGguf(path_, options);
  PAGODA_CHECK(status.ok(), "", std::string(status.message()));
}

TempModel::~TempModel() { std::filesystem::remove(path_); }

pagoda::testing::TinyModelOptions SmallLikeDefault() {
  pagoda::testing::TinyModelOptions options;
  options.type = checkpoint::TensorType::kQ4_1;
  options.embedding_type = checkpoint::TensorType::kQ8_0;
  options.layers = 4;
  options.hidden = 288;
  options.heads = 9;
  options.kv_heads = 3;
  options.head_dim = 32;
  options.ffn = 320;
  options.tied = false;  // a tied head makes a random model repeat its input
  options.seed = 7;
  return options;
}

void RankLog::OnLoad(const LoadReport& report) {
  MutexLock lock(&mutex_);
  loads_.push_back(report);
}
void RankLog::OnResult(StepResult result) {
  MutexLock lock(&mutex_);
  results_.push_back(std::move(result));
}
void RankLog::OnFault(const FaultReport& fault) {
  MutexLock lock(&mutex_);
  faults_.push_back(fault);
}
void RankLog::OnLeft(Epoch epoch) {
  MutexLock lock(&mutex_);
  left_.push_back(epoch);
}
void RankLog::OnStep(const Assignment&, const StepTimes&, const Transport::Counters&) {
  MutexLock lock(&mutex_);
  ++steps_;
}

std::optional<StepResult> RankLog::Result() {
  MutexLock lock(&mutex_);
  const auto ready = [this]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return !results_.empty() || !faults_.empty(); };
  mutex_.AwaitWithTimeout(ready, kPatience);
  if (results_.empty()) return std::nullopt;
  StepResult result = std::move(results_.front());
  results_.pop_front();
  return result;
}

std::optional<FaultReport> RankLog::Fault(absl::Duration timeout) {
  MutexLock lock(&mutex_);
  const auto ready = [this]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return !faults_.empty(); };
  mutex_.AwaitWithTimeout(ready, timeout);
  if (faults_.empty()) return std::nullopt;
  FaultReport fault = faults_.front();
  faults_.pop_front();
  return fault;
}

void RankLog::OnKvFilled(const KvFilled& filled) {
  MutexLock lock(&mutex_);
  filled_.push_back(filled);
}

std::optional<KvFilled> RankLog::Filled() {
  MutexLock lock(&mutex_);
  if (!mutex_.AwaitWithTimeout([this]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return !filled_.empty(); }, kPatience)) return std::nullopt;
  const KvFilled filled = filled_.front();
  filled_.pop_front();
  return filled;
}

bool RankLog::Reached(LoadPhase phase, Epoch epoch) {
  MutexLock lock(&mutex_);
  bool reached = false;
  const auto ready = [&]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) {
    for (const LoadReport& load : loads_) reached = reached || (load.phase == phase && load.epoch == epoch);
    return reached || !faults_.empty();
  };
  mutex_.AwaitWithTimeout(ready, kPatience);
  return reached;
}

bool RankLog::Left(Epoch epoch) {
  MutexLock lock(&mutex_);
  const auto ready = [&]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) {
    return std::find(left_.begin(), left_.end(), epoch) != left_.end();
  };
  return mutex_.AwaitWithTimeout(ready, kPatience);
}

int RankLog::steps() const {
  MutexLock lock(&mutex_);
  return steps_;
}

std::vector<KvRecord::Held> RankLog::held(Epoch epoch) const {
  MutexLock lock(&mutex_);
  for (const LoadReport& load : loads_) {
    if (load.epoch == epoch && load.phase == LoadPhase::kLoaded) return load.held;
  }
  return {};
}

LoadReport RankLog::last_load() const {
  MutexLock lock(&mutex_);
  return loads_.empty() ? LoadReport{} : loads_.back();
}

EngineRig::EngineRig(const RigOptions& options) : options_(options) {
  for (size_t stage = 0; stage < options_.stages.size(); ++stage) {
    for (int rank = 0; rank < options_.stages[stage].tensor_parallel; ++rank) {
      peers_.push_back({.stage = static_cast<int>(stage), .rank = rank});
      logs_.push_back(std::make_unique<RankLog>());
      engines_.push_back(MakeEngine(engines_.size(), *logs_.back()));
    }
  }
}

std::unique_ptr<Engine> EngineRig::MakeEngine(size_t index, RankLog& log) {
  absl::StatusOr<std::unique_ptr<kernels::Backend>> backend =
      options_.make_backend ? options_.make_backend()
                            : kernels::MakeCpuBackend({.threads = options_.threads, .isa = options_.isa});
  PAGODA_CHECK(backend.ok(), "", std::string(backend.status().message()));
  EngineOptions options{.backend = *std::move(backend),
                        .transport = hub_.Make(),
                        .open_model = OpenPath(),
                        .replay_bytes = options_.replay_bytes,
                        .sink = &log};
  if (options_.adjust) options_.adjust(index, options);
  return std::make_unique<Engine>(std::move(options));
}

void EngineRig::Replace(size_t index) {
  engines_[index] = nullptr;  // before its log
  logs_[index] = std::make_unique<RankLog>();
  engines_[index] = MakeEngine(index, *logs_[index]);
}

EngineRig::~EngineRig() = default;

RankLog& EngineRig::reporter() {
  for (size_t i = 0; i < peers_.size(); ++i) {
    if (peers_[i].stage + 1 == static_cast<int>(options_.stages.size()) && peers_[i].rank == 0) return *logs_[i];
  }
  return *logs_[0];
}

std::optional<LinkUp> EngineRig::Load(Epoch epoch) {
  LinkUp link_up{.epoch = epoch};
  for (size_t i = 0; i < engines_.size(); ++i) {
    engines_[i]->Post(Assignment{.pipeline = PipelineId(1),
                                 .epoch = epoch,
                                 .model = options_.model,
                                 .self = peers_[i],
                                 .stages = options_.stages,
                                 .max_model_len = 512,
                                 .block_tokens = kBlockTokens,
                                 .blocks = options_.blocks,
                                 .kv_cache_type = "f16",
                                 .activation_bits = options_.activation_bits,
                                 .max_step_rows = options_.max_rows,
                                 .max_slots = 32,
                                 .max_sample_rows = 32,
                                 .step_deadline = options_.deadline});
    link_up.peers.push_back({.peer = peers_[i], .address = engines_[i]->data_address()});
  }
  for (const auto& log : logs_) {
    if (!log->Reached(LoadPhase::kLoaded, epoch)) return std::nullopt;
  }
  return link_up;
}

bool EngineRig::Assemble(Epoch epoch) {
  const std::optional<LinkUp> link_up = Load(epoch);
  if (!link_up.has_value()) return false;
  for (const auto& engine : engines_) engine->Post(*link_up);
  for (const auto& log : logs_) {
    if (!log->Reached(LoadPhase::kLinked, epoch)) return false;
  }
  return true;
}

void EngineRig::Post(StepPlan plan) {
  for (const auto& engine : engines_) engine->PostPlan(plan);
}

void EngineRig::Release(Epoch epoch, bool keep_weights) {
  for (const auto& engine : engines_) engine->Post(worker::Release{.epoch = epoch, .keep_weights = keep_weights});
}

namespace {

// One running sequence of RunTogether.
struct Running {
  int position = 0;  // next row
  int sampled = 0;   // samples planned
  int blocks = 0;    // given
};

void PlanSequence(const SequenceTask& task, int slot, int slots, int blocks_total, int chunk, Running& running,
                  StepPlan& plan) {
  const int known = static_cast<int>(task.tokens.size());
  if (running.sampled >= task.outputs) return;
  if (running.position == 0 && running.blocks == 0) {
    plan.starts.push_back({.slot = slot,
                           .choice = task.choice,
                           .prompt_length = task.prompt_length,
                           .history = task.tokens,
                           .params = task.params});
  }
  PlanRows rows{.slot = slot, .first_position = running.position, .prompt_logprobs = task.prompt_logprobs};
  rows.count = running.position < known ? std::min(chunk, known - running.position) : 1;
  const int needed = (running.position + rows.count + kBlockTokens - 1) / kBlockTokens;
  for (; running.blocks < needed; ++running.blocks) {
    // Scattered, and different for every (slot, index): 7 has no factor in common with the pool's size.
    rows.new_blocks.push_back((running.blocks * slots + slot) * 7 % blocks_total);
  }
  running.position += rows.count;
  plan.rows.push_back(rows);
  if (running.position < known) return;
  plan.samples.push_back({.rows_index = static_cast<int>(plan.rows.size()) - 1,
                          .slot = slot,
                          .output_index = known - task.prompt_length + running.sampled});
  if (++running.sampled == task.outputs) plan.ends.push_back(slot);
}

void Take(const StepResult& result, std::vector<SequenceOutcome>& outcomes) {
  for (const SampledToken& sample : result.samples) {
    outcomes[static_cast<size_t>(sample.slot)].tokens.push_back(sample.token);
    outcomes[static_cast<size_t>(sample.slot)].logprobs.push_back(sample.logprobs);
  }
  for (const PromptLogprobs& prompt : result.prompt_logprobs) {
    std::vector<Logprobs>& all = outcomes[static_cast<size_t>(prompt.slot)].prompt_logprobs;
    all.insert(all.end(), prompt.positions.begin(), prompt.positions.end());
  }
}

}  // namespace

std::vector<SequenceOutcome> RunTogether(EngineRig& rig, Epoch epoch, const std::vector<SequenceTask>& tasks, int chunk) {
  if (!rig.Assemble(epoch)) return {};
  std::vector<SequenceOutcome> outcomes(tasks.size());
  std::vector<Running> running(tasks.size());
  uint64_t step = 0;
  uint64_t taken = 0;
  while (true) {
    StepPlan plan{.epoch = epoch, .step = StepNumber(step + 1)};
    for (size_t i = 0; i < tasks.size(); ++i) {
      PlanSequence(tasks[i], static_cast<int>(i), static_cast<int>(tasks.size()), rig.options().blocks, chunk,
                   running[i], plan);
    }
    const bool done = plan.rows.empty();
    if (!done) {
      rig.Post(std::move(plan));
      ++step;
    }
    while (taken < step && (done || taken + 1 < step)) {
      const std::optional<StepResult> result = rig.reporter().Result();
      if (!result.has_value() || result->step.value() != taken + 1) return {};
      Take(*result, outcomes);
      ++taken;
    }
    if (done) break;
  }
  rig.Release(epoch, true);
  return outcomes;
}

}  // namespace pagoda::worker::testing
