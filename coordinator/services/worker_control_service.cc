#include "coordinator/services/worker_control_service.h"

#include "common/mutex.h"
#include "coordinator/pipeline_engine.h"
#include "coordinator/services/bidi_stream.h"
#include "coordinator/services/convert.h"

namespace pagoda::coordinator {
namespace {

constexpr uint32_t kProtocol = 1;
constexpr uint32_t kOldestProtocol = 1;
constexpr size_t kMaxNameBytes = 256;

class WorkerStream final : public BidiStream<wire::WorkerMessage, wire::WorkerCommand>, public WorkerLink {
 public:
  WorkerStream(grpc::CallbackServerContext* context, Coordinator& coordinator)
      : BidiStream(context), coordinator_(coordinator) {}

  void Welcome(const Greeting& greeting) override {
    wire::WorkerCommand command;
    auto* welcome = command.mutable_welcome();
    welcome->set_worker(greeting.worker.value());
    welcome->set_protocol(kProtocol);
    welcome->set_heartbeat_ms(greeting.heartbeat_ms);
    welcome->set_lease_ms(greeting.lease_ms);
    welcome->set_leaving_ms(greeting.leaving_ms);
    BidiStream::Send(std::move(command));
  }
  void SendNotLeader(const std::string& leader_address) override {
    wire::WorkerCommand command;
    command.mutable_not_leader()->set_leader_address(leader_address);
    BidiStream::Send(std::move(command));
    Finish(grpc::Status::OK);
  }
  void Send(const Assignment& assignment, int step_deadline_ms) override {
    wire::WorkerCommand command;
    ToWire(assignment, *command.mutable_assignment());
    command.mutable_assignment()->set_step_deadline_ms(step_deadline_ms);
    BidiStream::Send(std::move(command));
  }
  void Send(const SendLinkUp& link_up, const LinkSecret& secret) override {
    wire::WorkerCommand command;
    ToWire(link_up, *command.mutable_link_up());
    command.mutable_link_up()->set_link_token(secret.token);
    command.mutable_link_up()->set_link_key(secret.key);
    BidiStream::Send(std::move(command));
  }
  void Send(const SendRelease& release) override {
    wire::WorkerCommand command;
    command.mutable_release()->set_epoch(release.epoch.value());
    command.mutable_release()->set_keep_weights(release.keep_weights);
    BidiStream::Send(std::move(command));
  }
  void Send(const KvFill& fill, const KvReservation& blocks) override {
    wire::WorkerCommand command;
    ToWire(fill, blocks, *command.mutable_fill_kv());
    BidiStream::Send(std::move(command));
  }
  void EndKvFill(uint64_t move, Epoch epoch) override {
    wire::WorkerCommand command;
    command.mutable_end_kv_fill()->set_move(move);
    command.mutable_end_kv_fill()->set_epoch(epoch.value());
    BidiStream::Send(std::move(command));
  }
  void Farewell() override { Finish(grpc::Status::OK); }
  bool SendCommand(wire::WorkerCommand command) { return BidiStream::Send(std::move(command)); }
  void SetEngine(std::shared_ptr<PipelineEngine> engine) override {
    MutexLock lock(&engine_mutex_);
    engine_ = std::move(engine);
  }
  void Close(const std::string& why) override { Finish(grpc::Status(grpc::StatusCode::ABORTED, why)); }

 private:
  std::shared_ptr<WorkerLink> Link() {
    return std::static_pointer_cast<WorkerLink>(std::static_pointer_cast<WorkerStream>(shared_from_this()));
  }

  void OnMessage(wire::WorkerMessage& message) override {
    if (message.kind_case() == wire::WorkerMessage::kRegister) return OnRegister(message.register_());
    if (!registered_) {
      Finish(grpc::Status(grpc::StatusCode::FAILED_PRECONDITION, "the first message must be Register"));
      return;
    }
    switch (message.kind_case()) {
      case wire::WorkerMessage::kStepResult: {
        std::shared_ptr<PipelineEngine> engine;
        {
          MutexLock lock(&engine_mutex_);
          engine = engine_;
        }
        if (engine != nullptr) engine->Deliver(FromWire(*message.mutable_step_result()));
        break;
      }
      case wire::WorkerMessage::kHeartbeat:
        coordinator_.WorkerHeartbeat(Link(), FromWire(message.heartbeat()));
        break;
      case wire::WorkerMessage::kLoadState:
        OnLoadState(message.load_state());
        break;
      case wire::WorkerMessage::kFault: {
        const wire::Fault& fault = message.fault();
        coordinator_.WorkerFault(Link(), Epoch(fault.epoch()),
                                 absl::StrCat("stage ", fault.stage(), " rank ", fault.rank(), ", step ", fault.step(), ", ",
                                              fault.operation(), ": ", fault.message()));
        break;
      }
      case wire::WorkerMessage::kLeft:
        coordinator_.WorkerLeft(Link(), Epoch(message.left().epoch()));
        break;
      case wire::WorkerMessage::kLeaving:
        leaving_ = true;
        coordinator_.WorkerLeaving(Link());
        break;
      case wire::WorkerMessage::kKvFilled: {
        const wire::KvFilled& filled = message.kv_filled();
        coordinator_.WorkerFilledKv(Link(), {.move = filled.move(),
                                             .epoch = Epoch(filled.epoch()),
                                             .error = filled.error(),
                                             .bytes = filled.bytes(),
                                             .took_us = filled.took_us()});
        break;
      }
      default:
        break;  // of a newer version
    }
  }

  void OnRegister(const wire::Register& registration) {
    if (registered_) {
      Finish(grpc::Status(grpc::StatusCode::FAILED_PRECONDITION, "Register came twice"));
      return;
    }
    if (registration.name().empty() || registration.name().size() > kMaxNameBytes) {
      Finish(grpc::Status(grpc::StatusCode::INVALID_ARGUMENT, "a worker needs a name of 1 to 256 bytes"));
      return;
    }
    if (registration.protocol() < kOldestProtocol) {
      Finish(grpc::Status(grpc::StatusCode::FAILED_PRECONDITION,
                          absl::StrCat("worker ", registration.name(), " (", registration.version(), ") speaks protocol ", registration.protocol(),
                                       "; this coordinator takes ", kOldestProtocol, " and later: upgrade the worker")));
      return;
    }
    registered_ = true;
    coordinator_.WorkerJoined(Link(), FromWire(registration));
  }

  void OnLoadState(const wire::LoadState& state) {
    LoadPhase phase = LoadPhase::kLoading;
    if (state.state() == wire::LoadState::LOADED) phase = LoadPhase::kLoaded;
    if (state.state() == wire::LoadState::LINKED) phase = LoadPhase::kLinked;
    coordinator_.WorkerLoaded(Link(), Epoch(state.epoch()), phase, FromWire(state));
  }

  void OnGone() override {
    SetEngine(nullptr);
    if (registered_) coordinator_.WorkerGone(Link(), /*planned=*/leaving_);
  }

  Coordinator& coordinator_;
  bool registered_ = false;
  bool leaving_ = false;
  Mutex engine_mutex_;
  std::shared_ptr<PipelineEngine> engine_ ABSL_GUARDED_BY(engine_mutex_);
};

class StreamTransport final : public PlanTransport {
 public:
  explicit StreamTransport(std::vector<std::shared_ptr<WorkerLink>> ranks) : ranks_(std::move(ranks)) {}
  bool Dispatch(const StepPlan& plan) override {
    wire::WorkerCommand command;
    ToWire(plan, *command.mutable_plan());
    for (size_t i = 0; i < ranks_.size(); ++i) {
      auto& stream = static_cast<WorkerStream&>(*ranks_[i]);
      const bool last = i + 1 == ranks_.size();
      if (!(last ? stream.SendCommand(std::move(command)) : stream.SendCommand(command))) return false;
    }
    return true;
  }

 private:
  const std::vector<std::shared_ptr<WorkerLink>> ranks_;
};

}  // namespace

std::unique_ptr<PlanTransport> MakePlanTransport(std::vector<std::shared_ptr<WorkerLink>> ranks) {
  return std::make_unique<StreamTransport>(std::move(ranks));
}

grpc::ServerBidiReactor<wire::WorkerMessage, wire::WorkerCommand>* WorkerControlService::Attach(
    grpc::CallbackServerContext* context) {
  auto stream = std::make_shared<WorkerStream>(context, coordinator_);
  stream->Begin();
  return stream.get();
}

}  // namespace pagoda::coordinator
