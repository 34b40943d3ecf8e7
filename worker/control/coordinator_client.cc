#include "worker/control/coordinator_client.h"

#include <algorithm>

#include "common/limits.h"
#include "common/log.h"
#include "common/pulse.h"

namespace pagoda::worker {
namespace {

constexpr absl::Duration kFirstPause = absl::Milliseconds(100);
constexpr absl::Duration kFarewell = absl::Milliseconds(500);  // of a coordinator that does not say how long
constexpr absl::Duration kLongestFarewell = absl::Seconds(20);
constexpr absl::Duration kLongestPause = absl::Seconds(5);
// An engine that computes looks up between steps, and one that loads between tensors. What takes longer hangs.
constexpr int64_t kLongestDeafnessNs = 60 * kNsPerSecond;
// A leader that is lost has a successor within seconds: so long nobody waits longer than a moment between two tries.
constexpr absl::Duration kEager = absl::Seconds(15);
constexpr absl::Duration kEagerPause = absl::Milliseconds(150);
// Who was attached to so recently may be the very one that took over, under another name. A lease is longer than this.
constexpr int64_t kFreshStreamNs = kNsPerSecond;

std::shared_ptr<grpc::Channel> MakeChannel(const std::string& address, const security::SharedTls& tls) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(static_cast<int>(limits::kMaxGrpcMessageBytes));
  arguments.SetMaxSendMessageSize(static_cast<int>(limits::kMaxGrpcMessageBytes));
  // A coordinator that is stopped has a successor soon: its stream must not be held on to.
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 2'000);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 2'000);
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 2'000);  // also the longest that a connect may take
  arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);  // a new attempt is a new connection
  return security::ChannelTo(address, tls, {security::Role::kCoordinator}, arguments);
}

}  // namespace

CoordinatorClient::CoordinatorClient(CoordinatorClientOptions options) : options_(std::move(options)) {}

CoordinatorClient::~CoordinatorClient() { Stop(); }

void CoordinatorClient::Start(Engine& engine) {
  engine_ = &engine;
  reader_ = std::thread([this] { ReadLoop(); });
  heart_ = std::thread([this] { HeartbeatLoop(); });
  if (options_.coordinators.size() > 1) {
    watch_ = std::make_unique<LeaderWatch>(options_.coordinators, options_.tls,
                                           [this](const std::string& address) { OnTookOver(address); });
  }
}

void CoordinatorClient::Stop() {
  {
    MutexLock lock(&mutex_);
    stop_ = true;
  }
  wire::WorkerMessage leaving;
  leaving.mutable_leaving();
  Write(leaving);
  {
    // A coordinator of this version ends the stream in answer.
    MutexLock lock(&mutex_);
    mutex_.AwaitWithTimeout([this]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return context_ == nullptr; }, farewell_);
    if (context_ != nullptr) context_->TryCancel();
    silent_ = true;
  }
  watch_.reset();
  if (reader_.joinable()) reader_.join();
  if (heart_.joinable()) heart_.join();
}

bool CoordinatorClient::stopped() const {
  MutexLock lock(&mutex_);
  return stop_;
}

void CoordinatorClient::SleepUnlessStopped(absl::Duration duration) {
  MutexLock lock(&mutex_);
  mutex_.AwaitWithTimeout([this]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return stop_; }, duration);
}

void CoordinatorClient::ReadLoop() {
  absl::Duration pause = kFirstPause;
  MonotonicNs eager_until_ns = NowNs() + absl::ToInt64Nanoseconds(kEager);
  while (!stopped()) {
    const bool hinted = KnowsLeader();
    if (Attach(NextAddress())) eager_until_ns = NowNs() + absl::ToInt64Nanoseconds(kEager);
    const bool eager = NowNs() < eager_until_ns;
    pause = eager ? kFirstPause : std::min(pause * 2, kLongestPause);
    // With several coordinators one round over all of them is a try.
    const bool round_over = turn_ % options_.coordinators.size() == 0;
    if (hinted || (round_over && !KnowsLeader())) SleepUnlessStopped(eager ? kEagerPause : pause);
  }
}

bool CoordinatorClient::KnowsLeader() const {
  MutexLock lock(&mutex_);
  return !leader_hint_.empty();
}

std::string CoordinatorClient::NextAddress() {
  MutexLock lock(&mutex_);
  if (!leader_hint_.empty()) return std::exchange(leader_hint_, "");
  return options_.coordinators[turn_++ % options_.coordinators.size()];
}

bool CoordinatorClient::Attach(const std::string& address) {
  const auto stub = wire::WorkerControl::NewStub(MakeChannel(address, options_.tls));
  grpc::ClientContext context;
  {
    MutexLock lock(&mutex_);
    if (stop_) return false;
    context_ = &context;
    welcomed_ = false;
    farewell_ = kFarewell;
    attached_ = address;
    attached_at_ns_ = NowNs();
  }
  const std::unique_ptr<Stream> stream = stub->Attach(&context);
  {
    MutexLock lock(&write_mutex_);
    if (stream->Write(RegisterMessage())) stream_ = stream.get();
  }
  wire::WorkerCommand command;
  while (stream->Read(&command)) HandleCommand(command);
  {
    MutexLock lock(&write_mutex_);
    stream_ = nullptr;
  }
  const grpc::Status status = stream->Finish();
  options_.metrics->SetConnected(false);
  MutexLock lock(&mutex_);
  context_ = nullptr;
  if (!stop_ && (welcomed_ || address != unreachable_)) {
    unreachable_ = welcomed_ ? "" : address;
    LogWarning("coordinator_lost", {{"coordinator", address},
                                    {"registered", welcomed_},
                                    {"code", static_cast<int>(status.error_code())},
                                    {"error", status.error_message()}});
  }
  return welcomed_;
}

wire::WorkerMessage CoordinatorClient::RegisterMessage() const {
  wire::WorkerMessage message;
  *message.mutable_register_() = options_.identity;
  if (const std::optional<HeldReport> held = engine_->Held(); held.has_value()) {
    wire::HeldShard& shard = *message.mutable_register_()->mutable_held();
    shard.set_shard_digest(held->shard_digest);
    shard.set_pipeline(held->pipeline.value());
    shard.set_epoch(held->epoch.value());
    shard.set_stage(held->self.stage);
    shard.set_rank(held->self.rank);
  }
  return message;
}

void CoordinatorClient::HandleCommand(wire::WorkerCommand& command) {
  switch (command.kind_case()) {
    case wire::WorkerCommand::kWelcome: {
      {
        MutexLock lock(&mutex_);
        welcomed_ = true;
        const int leaving_ms = command.welcome().leaving_ms();
        farewell_ = leaving_ms > 0 ? std::min(absl::Milliseconds(leaving_ms), kLongestFarewell) : kFarewell;
        heartbeat_ms_ = std::clamp(command.welcome().heartbeat_ms(), 10, 60'000);
      }
      options_.metrics->SetConnected(true);
      LogInfo("registered", {{"worker", command.welcome().worker()}, {"lease_ms", command.welcome().lease_ms()}});
      if (options_.on_registered) options_.on_registered();
      return;
    }
    case wire::WorkerCommand::kNotLeader: {
      MutexLock lock(&mutex_);
      leader_hint_ = command.not_leader().leader_address();
      return;
    }
    case wire::WorkerCommand::kAssignment: return HandleAssignment(command.assignment());
    case wire::WorkerCommand::kPlan: return engine_->PostPlan(FromWire(command.plan()));
    case wire::WorkerCommand::kRelease:
      return engine_->Post(Release{.epoch = Epoch(command.release().epoch()),
                                   .keep_weights = command.release().keep_weights()});
    case wire::WorkerCommand::kLinkUp: {
      absl::StatusOr<LinkUp> link_up = FromWire(command.link_up());
      if (link_up.ok()) return engine_->Post(*std::move(link_up));
      return OnFault({.epoch = Epoch(command.link_up().epoch()), .step = StepNumber(0), .self = {},
                      .operation = "read the link-up", .message = std::string(link_up.status().message())});
    }
    case wire::WorkerCommand::kFillKv: return HandleFill(command.fill_kv());
    case wire::WorkerCommand::kEndKvFill:
      return engine_->Post(EndKvFill{.epoch = Epoch(command.end_kv_fill().epoch()), .move = command.end_kv_fill().move()});
    case wire::WorkerCommand::KIND_NOT_SET: return;  // of a newer protocol
  }
}

void CoordinatorClient::OnTookOver(const std::string& address) {
  MutexLock lock(&mutex_);
  if (stop_ || context_ == nullptr || attached_ == address || NowNs() - attached_at_ns_ < kFreshStreamNs) return;
  LogWarning("coordinator_deposed", {{"coordinator", attached_}, {"leader", address}});
  leader_hint_ = address;
  context_->TryCancel();
}

void CoordinatorClient::HandleAssignment(const wire::Assignment& message) {
  absl::StatusOr<Assignment> assignment = FromWire(message);
  if (assignment.ok()) {
    LogInfo("assigned", {{"model", message.model()}, {"epoch", message.epoch()}, {"stage", message.stage()},
                         {"rank", message.rank()}, {"blocks", message.blocks()}});
    return engine_->Post(*std::move(assignment));
  }
  OnFault({.epoch = Epoch(message.epoch()), .step = StepNumber(0),
           .self = {.stage = message.stage(), .rank = message.rank()}, .operation = "read the assignment",
           .message = std::string(assignment.status().message())});
}

void CoordinatorClient::HandleFill(const wire::FillKv& message) {
  absl::StatusOr<KvFill> fill = FromWire(message);
  if (fill.ok()) return engine_->Post(*std::move(fill));
  OnKvFilled({.move = message.move(), .epoch = Epoch(message.epoch()), .error = fill.status().ToString()});
}

void CoordinatorClient::HeartbeatLoop() {
  Pulse pulse(options_.pulse_file);
  while (true) {
    {
      MutexLock lock(&mutex_);
      if (silent_) return;
    }
    if (engine_->DeafForNs() < kLongestDeafnessNs) pulse.Beat();
    int heartbeat_ms = 0;
    bool welcomed = false;
    {
      MutexLock lock(&mutex_);
      heartbeat_ms = heartbeat_ms_;
      welcomed = welcomed_;
    }
    if (welcomed) Write(ToWire(engine_->monitor().Read()));
    MutexLock lock(&mutex_);
    mutex_.AwaitWithTimeout([this]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return silent_; },
                            absl::Milliseconds(std::min(heartbeat_ms, kPulseMs)));
  }
}

void CoordinatorClient::Write(const wire::WorkerMessage& message) {
  MutexLock lock(&write_mutex_);
  if (stream_ != nullptr) stream_->Write(message);
}

void CoordinatorClient::OnLoad(const LoadReport& report) {
  options_.metrics->OnLoad(report);
  Write(ToWire(report));
}
void CoordinatorClient::OnResult(StepResult result) { Write(ToWire(result)); }
void CoordinatorClient::OnFault(const FaultReport& fault) {
  options_.metrics->OnFault();
  Write(ToWire(fault));
}
void CoordinatorClient::OnLeft(Epoch epoch) {
  options_.metrics->OnLeft();
  Write(LeftMessage(epoch));
}
void CoordinatorClient::OnKvFilled(const KvFilled& filled) { Write(ToWire(filled)); }
void CoordinatorClient::OnStep(const Assignment& assignment, const StepTimes& times,
                               const Transport::Counters& counters) {
  options_.metrics->OnStep(assignment, times, counters);
}

}  // namespace pagoda::worker
