#include "tests/fakes/fake_worker.h"

#include <grpcpp/grpcpp.h>

#include <atomic>
#include <thread>

#include "absl/time/clock.h"
#include "common/ids.h"
#include "common/mutex.h"
#include "pagoda/internal/v1/worker.grpc.pb.h"
#include "tests/coordinator/toy_pipeline.h"

namespace pagoda::testing {
namespace {

namespace wire = ::pagoda::internal::v1;
using coordinator::EpochSettings;
using coordinator::StepPlan;

coordinator::StartSlot StartOf(const wire::StartSlot& in) {
  coordinator::StartSlot start;
  start.slot = SlotId(in.slot());
  start.request = {in.request().high(), in.request().low()};
  start.choice = in.choice();
  start.prompt_length = in.prompt_length();
  start.history.assign(in.history().begin(), in.history().end());
  for (const int block : in.blocks()) start.blocks.push_back(BlockId(block));
  start.fork_of = in.fork_of();
  auto sampling = std::make_shared<coordinator::Sampling>();
  sampling->seed = in.sampling().seed();
  sampling->min_tokens = in.sampling().min_tokens();
  sampling->logprobs = in.sampling().logprobs();
  start.sampling = sampling;
  return start;
}

StepPlan PlanOf(const wire::StepPlan& in) {
  StepPlan plan;
  plan.epoch = Epoch(in.epoch());
  plan.step = StepNumber(in.step());
  for (const auto& start : in.starts()) plan.starts.push_back(StartOf(start));
  for (const auto& copy : in.copies()) plan.copies.push_back({BlockId(copy.from_block()), BlockId(copy.to_block())});
  for (const auto& rows : in.rows()) {
    coordinator::PlanRows added;
    added.slot = SlotId(rows.slot());
    added.first_position = rows.first_position();
    added.count = rows.count();
    for (const int block : rows.new_blocks()) added.new_blocks.push_back(BlockId(block));
    for (const auto& entry : rows.replace_blocks()) added.replace_blocks.push_back({entry.index(), BlockId(entry.block())});
    added.prompt_logprobs = rows.prompt_logprobs();
    added.accepted.assign(rows.accepted().begin(), rows.accepted().end());
    added.drafts.assign(rows.drafts().begin(), rows.drafts().end());
    plan.rows.push_back(std::move(added));
  }
  for (const auto& sample : in.samples()) {
    plan.samples.push_back({sample.rows_index(), SlotId(sample.slot()), sample.output_index()});
  }
  for (const int slot : in.ends()) plan.ends.push_back(SlotId(slot));
  return plan;
}

}  // namespace

struct FakeWorker::State {
  FakeWorkerOptions options;
  grpc::ClientContext context;
  std::unique_ptr<wire::WorkerControl::Stub> stub;
  std::unique_ptr<grpc::ClientReaderWriter<wire::WorkerMessage, wire::WorkerCommand>> stream;
  Mutex write_mutex;
  Mutex mutex;
  std::string errors;
  std::atomic<bool> stop{false};
  std::atomic<bool> beating{true};
  std::atomic<bool> linked{false};
  std::atomic<bool> let_go{false};
  std::atomic<int> fills{0}, ended_fills{0};
  std::atomic<int> steps{0};
  std::atomic<int> assignments{0};
  std::atomic<uint64_t> epoch{0};
  std::unique_ptr<coordinator::testing::ToyPipeline> toy;
  bool answers = false;
  std::thread reader, beater;

  void Write(const wire::WorkerMessage& message) {
    MutexLock lock(&write_mutex);
    stream->Write(message);
  }
  void ReportLoad(uint64_t at_epoch, wire::LoadState::State state) {
    wire::WorkerMessage message;
    message.mutable_load_state()->set_epoch(at_epoch);
    message.mutable_load_state()->set_state(state);
    message.mutable_load_state()->set_progress(1);
    if (options.moves_kv) message.mutable_load_state()->set_shard_digest("a shard");
    Write(message);
  }

  void OnAssignment(const wire::Assignment& in) {
    EpochSettings settings;
    settings.stages = in.stages_size();
    settings.blocks = in.blocks();
    settings.block_tokens = in.block_tokens();
    settings.max_model_len = in.max_model_len();
    settings.vocabulary = options.vocabulary;
    settings.max_step_rows = in.max_step_rows();
    settings.max_slots = in.max_slots();
    settings.max_sample_rows = in.max_sample_rows();
    toy = std::make_unique<coordinator::testing::ToyPipeline>(settings);
    answers = in.rank() == 0 && in.stage() + 1 == in.stages_size();
    epoch = in.epoch();
    ++assignments;
    ReportLoad(in.epoch(), wire::LoadState::LOADED);
  }

  void OnPlan(const wire::StepPlan& in) {
    if (in.epoch() != epoch || toy == nullptr) return;
    if (options.step_delay_ms > 0) absl::SleepFor(absl::Milliseconds(options.step_delay_ms));
    toy->Execute(PlanOf(in));
    if (!toy->errors().empty()) {
      MutexLock lock(&mutex);
      errors = toy->errors();
    }
    ++steps;
    const coordinator::StepResult result = toy->TakeResult();
    if (!answers || !beating) return;
    wire::WorkerMessage message;
    auto* out = message.mutable_step_result();
    out->set_epoch(result.epoch.value());
    out->set_step(result.step.value());
    for (const auto& sample : result.samples) {
      auto* added = out->add_samples();
      added->set_slot(sample.slot.value());
      added->set_token_id(sample.token);
      for (const auto& further : sample.further) added->add_further()->set_token_id(further.token);
    }
    Write(message);
  }

  void Read() {
    wire::WorkerCommand command;
    while (stream->Read(&command)) {
      switch (command.kind_case()) {
        case wire::WorkerCommand::kAssignment:
          OnAssignment(command.assignment());
          break;
        case wire::WorkerCommand::kLinkUp:
          ReportLoad(command.link_up().epoch(), wire::LoadState::LINKED);
          linked = true;
          break;
        case wire::WorkerCommand::kPlan:
          OnPlan(command.plan());
          break;
        case wire::WorkerCommand::kRelease: {
          linked = false;
          wire::WorkerMessage message;
          message.mutable_left()->set_epoch(command.release().epoch());
          Write(message);
          break;
        }
        case wire::WorkerCommand::kFillKv: {
          ++fills;
          if (options.kv_error.empty()) break;
          wire::WorkerMessage message;
          message.mutable_kv_filled()->set_move(command.fill_kv().move());
          message.mutable_kv_filled()->set_epoch(command.fill_kv().epoch());
          message.mutable_kv_filled()->set_error(options.kv_error);
          Write(message);
          break;
        }
        case wire::WorkerCommand::kEndKvFill:
          ++ended_fills;
          break;
        default:
          break;
      }
    }
    let_go = true;
  }

  void Beat() {
    while (!stop) {
      absl::SleepFor(absl::Milliseconds(50));
      if (!options.heartbeats || !beating) continue;
      wire::WorkerMessage message;
      message.mutable_heartbeat()->set_epoch(epoch);
      message.mutable_heartbeat()->set_last_step(static_cast<uint64_t>(steps.load()));
      Write(message);
    }
  }
};

FakeWorker::FakeWorker(FakeWorkerOptions options) : state_(std::make_unique<State>()) {
  State& s = *state_;
  s.options = std::move(options);
  s.stub = wire::WorkerControl::NewStub(grpc::CreateChannel(s.options.coordinator, grpc::InsecureChannelCredentials()));
  s.context.set_wait_for_ready(true);
  s.stream = s.stub->Attach(&s.context);
  wire::WorkerMessage message;
  auto* registration = message.mutable_register_();
  registration->set_name(s.options.name);
  registration->set_incarnation(RequestId::Random().low);
  registration->set_protocol(1);
  registration->set_host("127.0.0.1");
  registration->set_numerics_profile("toy-1");
  registration->set_threads(1);
  registration->set_memory_bytes(s.options.memory_bytes);
  registration->set_data_address("address of " + s.options.name);
  if (s.options.moves_kv) registration->set_kv_moves(1);
  if (s.options.moves_kv) registration->set_blob_address("127.0.0.1:1");
  s.Write(message);
  s.reader = std::thread([&s] { s.Read(); });
  s.beater = std::thread([&s] { s.Beat(); });
}

FakeWorker::~FakeWorker() { Kill(); }

void FakeWorker::Kill() {
  State& s = *state_;
  if (s.stop.exchange(true)) return;
  s.context.TryCancel();
  s.reader.join();
  s.beater.join();
  s.stream->Finish();
}

void FakeWorker::Leave() {
  wire::WorkerMessage message;
  message.mutable_leaving();
  state_->Write(message);
}
bool FakeWorker::let_go() const { return state_->let_go; }
int FakeWorker::fills() const { return state_->fills; }
int FakeWorker::ended_fills() const { return state_->ended_fills; }
void FakeWorker::StopBeating() { state_->beating = false; }
bool FakeWorker::linked() const { return state_->linked; }
int FakeWorker::steps() const { return state_->steps; }
int FakeWorker::assignments() const { return state_->assignments; }
std::string FakeWorker::errors() const {
  MutexLock lock(&state_->mutex);
  return state_->errors;
}

}  // namespace pagoda::testing
