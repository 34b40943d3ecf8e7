#include "bench/engine/engine_driver.h"

#include <random>

#include "checkpoint/checkpoint.h"
#include "common/clock.h"

namespace pagoda::bench {
namespace {

using worker::StepPlan;
using worker::StepResult;

constexpr int kBlockTokens = 16;
constexpr absl::Duration kPatience = absl::Minutes(3);
const Epoch kEpoch(1);

int BlocksOf(int tokens) { return (tokens + kBlockTokens - 1) / kBlockTokens; }

struct Stream {
  int position = 0;
  int sampled = 0;
  int blocks = 0;
};

}  // namespace

absl::StatusOr<std::unique_ptr<EngineDriver>> EngineDriver::Start(const DriverOptions& options) {
  auto driver = std::unique_ptr<EngineDriver>(new EngineDriver(options));
  PAGODA_RETURN_IF_ERROR(driver->Assemble());
  return driver;
}

EngineDriver::~EngineDriver() = default;

absl::Status EngineDriver::Assemble() {
  PAGODA_ASSIGN_OR_RETURN(std::unique_ptr<kernels::Backend> backend,
                          kernels::MakeCpuBackend({.threads = options_.threads, .isa = options_.isa}));
  implementation_ = std::string(backend->implementation());
  PAGODA_ASSIGN_OR_RETURN(std::unique_ptr<checkpoint::Checkpoint> opened, checkpoint::Checkpoint::Open(options_.model));
  const std::shared_ptr<const checkpoint::Checkpoint> model = std::move(opened);
  vocabulary_ = static_cast<int>(model->spec().vocabulary);
  engine_ = std::make_unique<worker::Engine>(worker::EngineOptions{
      .backend = std::move(backend),
      .transport = hub_.Make(),
      .open_model = [model](const worker::Assignment&, const std::function<bool(double)>&)
          -> absl::StatusOr<std::shared_ptr<const checkpoint::Checkpoint>> { return model; },
      .sink = this});
  engine_->Post(worker::Assignment{.pipeline = PipelineId(1),
                                   .epoch = kEpoch,
                                   .model = options_.model,
                                   .self = {},
                                   .stages = {{.layer_begin = 0, .layer_end = static_cast<int>(model->spec().layers)}},
                                   .max_model_len = options_.max_context,
                                   .block_tokens = kBlockTokens,
                                   .blocks = options_.streams * BlocksOf(options_.max_context),
                                   .kv_cache_type = options_.kv_cache_type,
                                   .activation_bits = options_.activation_bits,
                                   .max_step_rows = options_.max_rows,
                                   .max_slots = options_.streams,
                                   .max_sample_rows = options_.streams,
                                   .step_deadline = kPatience});
  PAGODA_RETURN_IF_ERROR(Await(worker::LoadPhase::kLoaded));
  engine_->Post(worker::LinkUp{.epoch = kEpoch, .peers = {{.peer = {}, .address = engine_->data_address()}}});
  return Await(worker::LoadPhase::kLinked);
}

absl::Status EngineDriver::Await(worker::LoadPhase phase) {
  MutexLock lock(&mutex_);
  const auto ready = [&]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return load_.phase == phase || fault_.has_value(); };
  if (!mutex_.AwaitWithTimeout(ready, kPatience)) return absl::DeadlineExceededError("the model did not load");
  return fault_.has_value() ? absl::InternalError(*fault_) : absl::OkStatus();
}

absl::StatusOr<StepResult> EngineDriver::AwaitResult() {
  MutexLock lock(&mutex_);
  const auto ready = [this]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return !results_.empty() || fault_.has_value(); };
  if (!mutex_.AwaitWithTimeout(ready, kPatience)) return absl::DeadlineExceededError("no result");
  if (results_.empty()) return absl::InternalError(*fault_);
  StepResult result = std::move(results_.front());
  results_.pop_front();
  return result;
}

void EngineDriver::OnLoad(const worker::LoadReport& report) {
  MutexLock lock(&mutex_);
  load_ = report;
}

void EngineDriver::OnResult(StepResult result) {
  MutexLock lock(&mutex_);
  results_.push_back(std::move(result));
}

void EngineDriver::OnFault(const worker::FaultReport& fault) {
  MutexLock lock(&mutex_);
  fault_ = absl::StrCat(fault.operation, ": ", fault.message);
}

absl::StatusOr<EngineDriver::Timing> EngineDriver::Run(int prompt, int outputs, uint64_t seed) {
  if (prompt < 1 || outputs < 1 || prompt + outputs > options_.max_context) {
    return absl::InvalidArgumentError(absl::StrCat(prompt, " + ", outputs, " tokens in a context of ", options_.max_context));
  }
  std::mt19937_64 random(seed);
  auto params = std::make_shared<worker::SamplerParams>();
  params->temperature = 0;
  std::vector<Stream> streams(static_cast<size_t>(options_.streams));
  StepPlan first{.epoch = kEpoch};
  for (int s = 0; s < options_.streams; ++s) {
    std::vector<TokenId> tokens(static_cast<size_t>(prompt));
    for (TokenId& token : tokens) token = static_cast<TokenId>(random() % static_cast<uint64_t>(vocabulary_));
    first.starts.push_back({.slot = s, .prompt_length = prompt, .history = std::move(tokens), .params = params});
  }
  Timing timing;
  int64_t first_tokens = 0, taken = 0, posted = 0;
  const MonotonicNs begin = NowNs();
  MonotonicNs decode_begin = begin;
  const auto take = [&]() -> absl::Status {
    PAGODA_ASSIGN_OR_RETURN(const StepResult result, AwaitResult());
    ++taken;
    for (const worker::SampledToken& sample : result.samples) {
      timing.checksum = timing.checksum * 1099511628211u + static_cast<uint64_t>(sample.token) + 1;
    }
    if (first_tokens < options_.streams) {
      first_tokens += static_cast<int64_t>(result.samples.size());
      if (first_tokens < options_.streams) return absl::OkStatus();
      decode_begin = NowNs();
      return absl::OkStatus();
    }
    timing.decoded += static_cast<int64_t>(result.samples.size());
    return absl::OkStatus();
  };
  bool prompts = true;
  while (true) {
    StepPlan plan = posted == 0 ? std::move(first) : StepPlan{.epoch = kEpoch};
    plan.step = StepNumber(step_ + 1);
    int left = options_.max_rows;
    bool pending = false;
    for (int s = 0; s < options_.streams; ++s) {
      Stream& stream = streams[static_cast<size_t>(s)];
      const bool in_prompt = stream.position < prompt;
      pending |= in_prompt;
      if (stream.sampled == outputs || left == 0 || in_prompt != prompts) continue;  // decode when all prompts are done
      worker::PlanRows rows{.slot = s, .first_position = stream.position};
      rows.count = in_prompt ? std::min(left, prompt - stream.position) : 1;
      left -= rows.count;
      stream.position += rows.count;
      for (; stream.blocks < BlocksOf(stream.position); ++stream.blocks) {
        rows.new_blocks.push_back(stream.blocks * options_.streams + s);
      }
      plan.rows.push_back(std::move(rows));
      if (stream.position < prompt) continue;
      plan.samples.push_back({.rows_index = static_cast<int>(plan.rows.size()) - 1, .slot = s, .output_index = stream.sampled});
      if (++stream.sampled == outputs) plan.ends.push_back(s);
    }
    if (plan.rows.empty() && prompts && !pending) {  // the last prompt step is on its way
      prompts = false;
      while (taken < posted) PAGODA_RETURN_IF_ERROR(take());
      timing.prompt_ns = decode_begin - begin;
      continue;
    }
    if (plan.rows.empty()) break;
    engine_->PostPlan(std::move(plan));
    ++step_;
    ++posted;
    while (taken + 1 < posted) PAGODA_RETURN_IF_ERROR(take());
  }
  while (taken < posted) PAGODA_RETURN_IF_ERROR(take());
  timing.decode_ns = NowNs() - decode_begin;
  return timing;
}

}  // namespace pagoda::bench
