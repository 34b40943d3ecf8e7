#include "worker/engine/engine.h"

#include "common/log.h"

namespace pagoda::worker {
namespace {

constexpr int kMaxUnreadRebuilds = 256;  // plans that only earlier stages work on, queued at a later one

constexpr absl::Duration kIdle = absl::Seconds(10);
constexpr absl::Duration kConnectTimeout = absl::Seconds(10);
constexpr int64_t kProgressEveryNs = 200 * kNsPerMs;

}  // namespace

absl::StatusOr<kernels::KvType> ParseKvType(const std::string& text) {
  if (text == "f16" || text == "auto" || text.empty()) return kernels::KvType::kF16;
  if (text == "f32") return kernels::KvType::kF32;
  if (text == "bf16") return kernels::KvType::kBF16;
  if (text == "i8" || text == "int8") return kernels::KvType::kI8;
  if (text == "f8" || text == "fp8") return kernels::KvType::kF8;
  return absl::InvalidArgumentError(absl::StrCat("KV cache type ", text, ": auto, f32, f16, bf16, i8 or fp8 (CUDA)"));
}

Engine::Engine(EngineOptions options)
    : backend_(std::move(options.backend)),
      transport_(std::move(options.transport)),
      open_model_(std::move(options.open_model)),
      kv_cache_bytes_(options.kv_cache_bytes),
      replay_bytes_(options.replay_bytes),
      on_device_lost_(std::move(options.on_device_lost)),
      kv_window_(options.kv_window != nullptr ? std::move(options.kv_window) : std::make_shared<KvWindow>()),
      pull_kv_(std::move(options.pull_kv)),
      sink_(*options.sink),
      data_address_(transport_->address()),
      inbox_([transport = transport_.get()] { transport->Wake(); }),
      spans_(options.tracer),
      thread_([this] { Main(); }) {}

Engine::~Engine() {
  inbox_.Push(Shutdown{});
  thread_.join();
}

void Engine::PostPlan(StepPlan plan) {
  const Epoch epoch = plan.epoch;
  const StepNumber step = plan.step;
  if (inbox_.PushPlan(std::move(plan), static_cast<size_t>(plan_limit_.load()))) return;
  const std::optional<HeldReport> held = Held();
  sink_.OnFault({.epoch = epoch,
                 .step = step,
                 .self = held.has_value() ? held->self : PeerId{},
                 .operation = "queue the plan",
                 .message = absl::StrCat("more than ", plan_limit_.load(), " plans are unread")});
}

std::optional<HeldReport> Engine::Held() const {
  MutexLock lock(&mutex_);
  return held_;
}

void Engine::Main() {
  while (true) {
    std::optional<EngineEvent> event = inbox_.Take();
    if (!event.has_value()) {
      transport_->Idle(spans_.open() ? absl::Seconds(1) : kIdle);
      spans_.OnIdle(NowNs());
      continue;
    }
    if (std::holds_alternative<Shutdown>(*event)) break;
    std::visit([this](auto&& what) { Handle(std::move(what)); }, std::move(*event));
  }
  EndEpoch();
}

void Engine::Handle(Assignment assignment) {
  EndEpoch();
  // S + 1 are in flight; a rebuild of earlier stages is reported by them, so a busy later stage may have more of those unread.
  plan_limit_.store(static_cast<int>(assignment.stages.size()) + 2 + kMaxUnreadRebuilds);
  monitor_.BeginEpoch(assignment.epoch.value());
  assignment_ = std::move(assignment);
  last_step_ = StepNumber(0);
  const absl::Status status = Load(*assignment_);
  SetHeld();
  if (!status.ok()) {
    Fail(StepNumber(0), operation_, status);
    return;
  }
  sink_.OnLoad({.epoch = assignment_->epoch,
                .phase = LoadPhase::kLoaded,
                .progress = 1,
                .weights_bytes = shard_->bytes,
                .kv_bytes = decoder_->kv_bytes(),
                .workspace_bytes = decoder_->workspace_bytes(),
                .shard_digest = shard_->digest,
                .held = kv_record_->held()});
}

absl::Status Engine::Load(const Assignment& assignment) {
  MonotonicNs reported = 0;
  const LoadProgress progress = [&](double part) {
    if (NowNs() - reported >= kProgressEveryNs) {
      reported = NowNs();
      sink_.OnLoad({.epoch = assignment.epoch, .phase = LoadPhase::kLoading, .progress = part});
    }
    return !inbox_.stop()->load();
  };
  progress(0);
  operation_ = absl::StrCat("open model ", assignment.model);
  PAGODA_ASSIGN_OR_RETURN(const std::shared_ptr<const checkpoint::Checkpoint> model,
                          open_model_(assignment, progress));
  const StageAssignment& stage = assignment.stages[static_cast<size_t>(assignment.self.stage)];
  const ShardRequest request{.model = model,
                             .layer_begin = stage.layer_begin,
                             .layer_end = stage.layer_end,
                             .tensor_parallel = stage.tensor_parallel,
                             .rank = assignment.self.rank,
                             .activation_bits = assignment.activation_bits};
  const int64_t free_before = backend_->FreeMemoryBytes();
  if (shard_ == nullptr || shard_->digest != ShardDigest(request, backend_->numerics_profile())) {
    operation_ = "load the shard";
    decoder_ = nullptr;  // makes room
    shard_ = nullptr;
    PAGODA_ASSIGN_OR_RETURN(shard_, LoadShard(request, *backend_, progress));
  }
  PAGODA_RETURN_IF_ERROR(PrepareKv(assignment));
  if (!backend_->host_memory()) {  // planned against actual: what the device has less of than before
    LogInfo("device_memory", {{"weights_bytes", shard_->bytes},
                              {"kv_bytes", decoder_->kv_bytes()},
                              {"workspace_bytes", decoder_->workspace_bytes()},
                              {"free_before", free_before},
                              {"free_now", backend_->FreeMemoryBytes()}});
  }
  return absl::OkStatus();
}

// The KV cache of the last epoch, when it has the shape that this one asks for; else a new one.
absl::Status Engine::PrepareKv(const Assignment& assignment) {
  operation_ = "allocate the KV cache and workspace";
  const std::string shape = absl::StrCat(shard_->digest, " ", assignment.blocks, " blocks of ", assignment.block_tokens, " ",
                                         assignment.kv_cache_type, ", ", assignment.max_step_rows, " rows");
  if (decoder_ != nullptr && kv_shape_ == shape) return absl::OkStatus();
  decoder_ = nullptr;
  PAGODA_ASSIGN_OR_RETURN(const kernels::KvType kv_type, ParseKvType(assignment.kv_cache_type));
  PAGODA_ASSIGN_OR_RETURN(decoder_, Decoder::Make(shard_, *backend_,
                                                  {.max_rows = assignment.max_step_rows,
                                                   .max_head_rows = 32,
                                                   .kv_blocks = assignment.blocks,
                                                   .block_tokens = assignment.block_tokens,
                                                   .kv_type = kv_type}));
  if (kv_cache_bytes_ > 0 && decoder_->kv_bytes() > kv_cache_bytes_) {
    const int64_t needed = decoder_->kv_bytes();
    decoder_ = nullptr;
    return absl::ResourceExhaustedError(
        absl::StrCat("the KV cache takes ", needed, " bytes, --kv-cache-bytes allows ", kv_cache_bytes_));
  }
  kv_record_ = std::make_unique<KvRecord>(KvRecord::Shape{.blocks = assignment.blocks,
                                                          .block_tokens = assignment.block_tokens,
                                                          .hidden = shard_->spec.hidden,
                                                          .output_bytes = replay_bytes_});
  kv_shape_ = shape;
  return absl::OkStatus();
}

void Engine::Handle(const LinkUp& link_up) {
  if (!assignment_.has_value() || link_up.epoch != assignment_->epoch || decoder_ == nullptr) return;
  const absl::Status status = transport_->Connect(link_up.epoch, assignment_->self, link_up.peers, kConnectTimeout,
                                                  link_up.secret, inbox_.stop());
  if (!status.ok()) {
    Fail(StepNumber(0), "connect to the peers", status);
    return;
  }
  std::vector<StageShape> stages;
  for (const StageAssignment& stage : assignment_->stages) stages.push_back({.tensor_parallel = stage.tensor_parallel});
  executor_ = std::make_unique<StepExecutor>(
      ExecutorOptions{.self = assignment_->self,
                      .stages = std::move(stages),
                      .max_slots = assignment_->max_slots,
                      .max_sample_rows = assignment_->max_sample_rows,
                      .kv_blocks = assignment_->blocks,
                      .block_tokens = assignment_->block_tokens,
                      .max_rows = assignment_->max_step_rows,
                      .deadline = assignment_->step_deadline,
                      .stop = inbox_.stop(),
                      .monitor = &monitor_},
      *decoder_, *kv_record_, *transport_);
  OpenKvWindow(link_up);
  sink_.OnLoad({.epoch = assignment_->epoch,
                .phase = LoadPhase::kLinked,
                .progress = 1,
                .weights_bytes = shard_->bytes,
                .kv_bytes = decoder_->kv_bytes(),
                .workspace_bytes = decoder_->workspace_bytes(),
                .shard_digest = shard_->digest});
}

void Engine::Handle(const StepPlan& plan) {
  if (!assignment_.has_value() || plan.epoch != assignment_->epoch) return;
  if (executor_ == nullptr || plan.step.value() != last_step_.value() + 1) {
    Fail(plan.step, "receive the plan",
         absl::InternalError(executor_ == nullptr ? std::string("a plan came before the peers were linked")
                                                  : absl::StrCat("step ", plan.step.value(), " came after step ",
                                                                 last_step_.value())));
    return;
  }
  last_step_ = plan.step;
  for (const StartSlot& start : plan.starts) {
    LogDebug("sequence_started", {{"request", start.request.ToString()},
                                  {"choice", start.choice},
                                  {"slot", start.slot},
                                  {"epoch", plan.epoch.value()},
                                  {"step", plan.step.value()},
                                  {"tokens", start.history.size()}});
  }
  monitor_.BeginStep(plan.step.value());
  const MonotonicNs begin_ns = NowNs();
  const absl::Status status = RunPlan(plan);
  if (!status.ok()) {
    Fail(plan.step, executor_->operation(), status, executor_->RequestsOf(plan));
    return;
  }
  const Transport::Counters counters = transport_->counters();
  monitor_.EndStep(executor_->times(), static_cast<int64_t>(counters.bytes_sent));
  sink_.OnStep(*assignment_, executor_->times(), counters);
  const StageAssignment& stage = assignment_->stages[static_cast<size_t>(assignment_->self.stage)];
  spans_.OnStep({.pipeline = assignment_->pipeline,
                 .epoch = assignment_->epoch,
                 .self = assignment_->self,
                 .layer_begin = stage.layer_begin,
                 .layer_end = stage.layer_end},
                plan, begin_ns, NowNs(), executor_->times());
}

absl::Status Engine::RunPlan(const StepPlan& plan) {
  PAGODA_RETURN_IF_ERROR(PostReceives(plan));
  PAGODA_RETURN_IF_ERROR(executor_->Apply(plan));
  PAGODA_RETURN_IF_ERROR(executor_->TakeInput(plan));
  PAGODA_RETURN_IF_ERROR(PostReceives(plan));
  PAGODA_RETURN_IF_ERROR(executor_->Run(plan));
  PAGODA_RETURN_IF_ERROR(executor_->SendOn(plan));
  PAGODA_ASSIGN_OR_RETURN(StepResult result, executor_->Finish(plan));
  if (executor_->Reports(plan)) sink_.OnResult(std::move(result));
  return absl::OkStatus();
}

// Of this plan and of the next one, when it is known already: then its rows land while this one computes.
absl::Status Engine::PostReceives(const StepPlan& plan) {
  if (!executor_->IsPosted(plan.step)) PAGODA_RETURN_IF_ERROR(executor_->Expect(plan));
  for (const StepPlan* next : inbox_.Upcoming(1)) {
    if (next->epoch != plan.epoch || next->step.value() != plan.step.value() + 1) break;
    if (!executor_->IsPosted(next->step)) PAGODA_RETURN_IF_ERROR(executor_->Expect(*next));
  }
  return absl::OkStatus();
}

void Engine::Handle(const Release& release) {
  if (assignment_.has_value() && assignment_->epoch > release.epoch) return;  // of an older epoch: long over
  EndEpoch();
  if (!release.keep_weights) {
    decoder_ = nullptr;
    kv_record_ = nullptr;
    shard_ = nullptr;
  }
  SetHeld();
  sink_.OnLeft(release.epoch);
}

void Engine::EndEpoch() {
  spans_.EndEpoch();
  kv_window_->Close();
  executor_ = nullptr;
  transport_->Abort();
  assignment_.reset();
}

void Engine::Fail(StepNumber step, const std::string& operation, const absl::Status& status,
                  const std::string& requests) {
  // Stopped by us because something else ends the epoch: that is no fault.
  const bool stopped = absl::IsCancelled(status) && inbox_.stop()->load();
  const FaultReport fault{.epoch = assignment_->epoch,
                          .step = step,
                          .self = assignment_->self,
                          .operation = operation,
                          .message = std::string(status.message())};
  EndEpoch();
  if (stopped) return;
  LogError("epoch_failed", {{"epoch", fault.epoch.value()},
                            {"step", step.value()},
                            {"stage", fault.self.stage},
                            {"rank", fault.self.rank},
                            {"operation", fault.operation},
                            {"requests", requests},
                            {"error", status.ToString()}});
  sink_.OnFault(fault);
  if (const absl::Status health = backend_->Health(); !health.ok() && on_device_lost_) on_device_lost_(health);
}

void Engine::SetHeld() {
  MutexLock lock(&mutex_);
  if (shard_ == nullptr) held_.reset();
  if (shard_ == nullptr || !assignment_.has_value()) return;
  held_ = HeldReport{.shard_digest = shard_->digest,
                     .pipeline = assignment_->pipeline,
                     .epoch = assignment_->epoch,
                     .self = assignment_->self};
}

}  // namespace pagoda::worker
