// KV blocks go from the ranks of one pipeline to those of another over real gRPC, and the sequence goes on there with the bits that
// it would have had. Requests and answers that lie, and moves that end in the middle, write nothing where nothing is expected.
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include "pagoda/internal/v1/blob.grpc.pb.h"
#include "tests/worker/one_sequence.h"
#include "worker/blob/blob_service.h"
#include "worker/blob/kv_puller.h"

namespace pagoda::worker::testing {
namespace {

namespace v1 = ::pagoda::internal::v1;

constexpr Epoch kEpochA{3}, kEpochB{5};

struct Listener {
  explicit Listener(std::unique_ptr<grpc::Service> of) : service(std::move(of)) {
    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
    builder.RegisterService(service.get());
    server = builder.BuildAndStart();
    address = absl::StrCat("127.0.0.1:", port);
  }
  ~Listener() { server->Shutdown(std::chrono::system_clock::now()); }
  std::unique_ptr<grpc::Service> service;
  std::unique_ptr<grpc::Server> server;
  std::string address;
};

// The ranks of a pipeline with what a worker process has besides.
struct Pipeline {
  Pipeline(const std::string& model, const std::vector<StageAssignment>& stages) {
    int ranks = 0;
    for (const StageAssignment& stage : stages) ranks += stage.tensor_parallel;
    for (int i = 0; i < ranks; ++i) {
      windows.push_back(std::make_shared<KvWindow>());
      listeners.push_back(std::make_unique<Listener>(MakeBlobService(std::make_shared<BlobCatalog>(), windows.back())));
      pullers.push_back(std::make_shared<KvPuller>(windows.back(), nullptr));
    }
    rig = std::make_unique<EngineRig>(RigOptions{.model = model, .stages = stages, .adjust = [this](size_t i, EngineOptions& options) {
      options.kv_window = windows[i];
      options.pull_kv = [puller = pullers[i]](KvFill fill, KvPuller::Done done) { puller->Pull(std::move(fill), std::move(done)); };
    }});
  }
  ~Pipeline() {
    for (const auto& window : windows) window->Close();
  }
  size_t size() const { return windows.size(); }
  std::vector<std::byte> Content(size_t rank, int32_t block) {
    const auto facts = windows[rank]->facts();
    if (!facts.has_value()) return {};
    std::vector<std::byte> bytes(facts->format.block_bytes);
    EXPECT_TRUE(windows[rank]->Read(facts->epoch, block, bytes).ok());
    return bytes;
  }

  std::vector<std::shared_ptr<KvWindow>> windows;
  std::vector<std::unique_ptr<Listener>> listeners;
  std::vector<std::shared_ptr<KvPuller>> pullers;
  std::unique_ptr<EngineRig> rig;
};

class KvMoveTest : public OneSequenceTest {
 protected:
  void RunA(Pipeline& a) { RunFirstOutputs(*a.rig, kEpochA); }
  // On the blocks that came.
  void GoOnB(Pipeline& b) {
    const std::vector<TokenId> history = HistoryAfterFirstOutputs();
    StepPlan plan = Start(kEpochB, history, {4, 1});
    plan.names = {{4, Hash(1)}, {1, Hash(2)}};
    plan.rows = {{.slot = 3, .first_position = 2 * kBlock, .count = static_cast<int>(history.size()) - 2 * kBlock, .new_blocks = {11}}};
    plan.samples = {{0, 3, kOutputsFirst}};
    b.rig->Post(plan);
    ExpectOutput(b.rig->reporter(), kOutputsFirst);
    for (int output = kOutputsFirst + 1; output < kOutputs; ++output) {
      StepPlan next{.epoch = kEpochB, .step = StepNumber(static_cast<uint64_t>(output - kOutputsFirst + 1))};
      next.rows = {{.slot = 3, .first_position = 40 + output - 1, .count = 1}};
      if ((40 + output - 1) % kBlock == 0) next.rows[0].new_blocks = {12};
      next.samples = {{0, 3, output}};
      b.rig->Post(next);
      ExpectOutput(b.rig->reporter(), output);
    }
  }
  KvFill FillFrom(const std::string& address) const {
    return {.move = 1, .epoch = kEpochB, .source = address, .source_epoch = kEpochA, .from = {7, 2}, .to = {4, 1}, .timeout_ms = 10'000};
  }
  void MoveAndGoOn(const std::vector<StageAssignment>& stages) {
    ASSERT_NO_FATAL_FAILURE(Expect());
    Pipeline a(model_.path(), stages), b(model_.path(), stages);
    ASSERT_NO_FATAL_FAILURE(RunA(a));
    ASSERT_TRUE(b.rig->Assemble(kEpochB));
    for (size_t i = 0; i < b.size(); ++i) b.rig->engine(i).Post(FillFrom(a.listeners[i]->address));
    for (size_t i = 0; i < b.size(); ++i) {
      const std::optional<KvFilled> filled = b.rig->log(i).Filled();
      ASSERT_TRUE(filled.has_value());
      EXPECT_EQ(filled->error, "");
      EXPECT_EQ(filled->move, 1u);
      EXPECT_EQ(filled->bytes, static_cast<int64_t>(2 * b.windows[i]->facts()->format.block_bytes));
      EXPECT_EQ(b.Content(i, 4), a.Content(i, 7));
      EXPECT_EQ(b.Content(i, 1), a.Content(i, 2));
    }
    a.rig->Release(kEpochA, true);
    ASSERT_NO_FATAL_FAILURE(GoOnB(b));
    // It knows their names as those of any block.
    ASSERT_TRUE(b.rig->Assemble(Epoch(9)));
    const auto held = b.rig->log(0).held(Epoch(9));
    const auto names = [&](int32_t block) {
      return std::count_if(held.begin(), held.end(), [&](const KvRecord::Held& h) { return h.block == block; });
    };
    EXPECT_EQ(names(4), 1);
    EXPECT_EQ(names(1), 1);
  }
};

TEST_F(KvMoveTest, OneRank) { MoveAndGoOn({{0, 4, 1}}); }
TEST_F(KvMoveTest, StagesAndRanks) { MoveAndGoOn({{0, 1, 1}, {1, 3, 2}, {3, 4, 1}}); }

TEST_F(KvMoveTest, RequestsThatLieGetNothing) {
  ASSERT_NO_FATAL_FAILURE(Expect());
  Pipeline a(model_.path(), {{0, 4, 1}});
  ASSERT_NO_FATAL_FAILURE(RunA(a));
  const KvFormat format = a.windows[0]->facts()->format;
  const auto stub = v1::Blob::NewStub(grpc::CreateChannel(a.listeners[0]->address, grpc::InsecureChannelCredentials()));
  const auto ask = [&](const std::function<void(v1::ReadKvBlocksRequest&)>& change) {
    v1::ReadKvBlocksRequest request;
    request.set_epoch(kEpochA.value());
    request.set_link_token(std::string(16, '\0'));
    request.set_shard_digest(format.shard_digest);
    request.set_kv_cache_type(format.kv_cache_type);
    request.set_block_tokens(format.block_tokens);
    request.set_block_bytes(format.block_bytes);
    request.add_blocks(7);
    change(request);
    grpc::ClientContext context;
    const auto reader = stub->ReadKvBlocks(&context, request);
    v1::ReadKvBlocksChunk chunk;
    size_t bytes = 0;
    while (reader->Read(&chunk)) bytes += chunk.data().size();
    return std::pair(reader->Finish().error_code(), bytes);
  };
  using grpc::StatusCode;
  EXPECT_EQ(ask([](auto&) {}), std::pair(StatusCode::OK, size_t{format.block_bytes}));
  const auto refused = [&](StatusCode code, const std::function<void(v1::ReadKvBlocksRequest&)>& change) {
    EXPECT_EQ(ask(change), std::pair(code, size_t{0}));
  };
  refused(StatusCode::FAILED_PRECONDITION, [](auto& r) { r.set_epoch(4); });
  refused(StatusCode::FAILED_PRECONDITION, [](auto& r) { r.set_epoch(~uint64_t{0}); });
  refused(StatusCode::PERMISSION_DENIED, [](auto& r) { r.set_link_token(std::string(16, 'x')); });
  refused(StatusCode::PERMISSION_DENIED, [](auto& r) { r.clear_link_token(); });
  refused(StatusCode::FAILED_PRECONDITION, [](auto& r) { r.set_shard_digest("another"); });
  refused(StatusCode::FAILED_PRECONDITION, [](auto& r) { r.set_kv_cache_type("bf16"); });
  refused(StatusCode::FAILED_PRECONDITION, [](auto& r) { r.set_block_tokens(32); });
  refused(StatusCode::FAILED_PRECONDITION, [](auto& r) { r.set_block_bytes(~uint64_t{0}); });
  refused(StatusCode::FAILED_PRECONDITION, [](auto& r) { r.set_block_bytes(0); });
  for (const int32_t block : {-1, 64, INT32_MAX, INT32_MIN}) {
    refused(StatusCode::OUT_OF_RANGE, [&](auto& r) { r.set_blocks(0, block); });
  }
  EXPECT_EQ(ask([](auto& r) { r.clear_blocks(); }), std::pair(StatusCode::OK, size_t{0}));
  a.rig->Release(kEpochA, true);
  ASSERT_TRUE(a.rig->log(0).Left(kEpochA));
  refused(StatusCode::FAILED_PRECONDITION, [](auto&) {});
}

// Answers as `answer` says: what it writes goes to whoever fills.
class FalseSource final : public v1::Blob::Service {
 public:
  using Answer = std::function<grpc::Status(grpc::ServerContext&, const v1::ReadKvBlocksRequest&, const std::function<bool(size_t, char)>&)>;
  explicit FalseSource(Answer answer) : answer_(std::move(answer)) {}
  grpc::Status ReadKvBlocks(grpc::ServerContext* context, const v1::ReadKvBlocksRequest* request,
                            grpc::ServerWriter<v1::ReadKvBlocksChunk>* writer) override {
    return answer_(*context, *request, [&](size_t bytes, char fill) {
      v1::ReadKvBlocksChunk chunk;
      chunk.set_data(std::string(bytes, fill));
      return writer->Write(chunk);
    });
  }

 private:
  const Answer answer_;
};

TEST_F(KvMoveTest, AnswersThatLieFailTheMoveAndTouchNoOtherBlock) {
  Pipeline b(model_.path(), {{0, 4, 1}});
  ASSERT_TRUE(b.rig->Assemble(kEpochB));
  const size_t block = b.windows[0]->facts()->format.block_bytes;
  const std::vector<std::byte> before = b.Content(0, 5);
  uint64_t move = 0;
  const auto fill = [&](const std::string& code, int timeout_ms, FalseSource::Answer answer) {
    Listener source(std::make_unique<FalseSource>(std::move(answer)));
    KvFill wanted = FillFrom(source.address);
    wanted.move = ++move;
    wanted.timeout_ms = timeout_ms;
    b.rig->engine(0).Post(wanted);
    const std::optional<KvFilled> filled = b.rig->log(0).Filled();
    ASSERT_TRUE(filled.has_value());
    EXPECT_EQ(filled->move, move);
    EXPECT_EQ(filled->error.substr(0, filled->error.find(':')), code);
    EXPECT_EQ(b.Content(0, 5), before);
    EXPECT_FALSE(b.windows[0]->Write(move, 4, before).ok()) << "it is over";
  };
  using Write = const std::function<bool(size_t, char)>&;
  fill("DATA_LOSS", 10'000, [&](auto&, auto&, Write write) { write(2 * block - 1, 'a'); return grpc::Status::OK; });
  fill("DATA_LOSS", 10'000, [&](auto&, auto&, Write write) { write(2 * block + 1, 'b'); return grpc::Status::OK; });
  fill("DATA_LOSS", 10'000, [&](auto&, auto&, Write) { return grpc::Status::OK; });
  fill("DATA_LOSS", 10'000, [&](auto&, auto&, Write write) {
    while (write(block, 'c')) {
    }
    return grpc::Status::OK;
  });
  fill("RESOURCE_EXHAUSTED", 10'000, [&](auto&, auto&, Write write) {
    write(block + 3, 'd');
    return grpc::Status(grpc::StatusCode::RESOURCE_EXHAUSTED, "cut");
  });
  fill("DEADLINE_EXCEEDED", 200, [&](auto& context, auto&, Write write) {
    write(block, 'e');
    while (!context.IsCancelled()) absl::SleepFor(absl::Milliseconds(5));
    return grpc::Status::OK;
  });
  fill("", 10'000, [&](auto&, auto&, Write write) {  // in odd pieces
    for (size_t left = 2 * block; left > 0;) {
      const size_t count = std::min<size_t>(left, 1001);
      write(count, 'f');
      left -= count;
    }
    return grpc::Status::OK;
  });
  EXPECT_EQ(b.Content(0, 4), std::vector<std::byte>(block, std::byte{'f'}));
  EXPECT_EQ(b.Content(0, 1), std::vector<std::byte>(block, std::byte{'f'}));
}

TEST_F(KvMoveTest, AfterItsEndNothingIsWritten) {
  Pipeline b(model_.path(), {{0, 4, 1}});
  ASSERT_TRUE(b.rig->Assemble(kEpochB));
  const size_t block = b.windows[0]->facts()->format.block_bytes;
  std::atomic<bool> first{false}, go_on{false};
  Listener source(std::make_unique<FalseSource>([&](auto&, auto&, const std::function<bool(size_t, char)>& write) {
    write(block, 'a');
    first = true;
    while (!go_on) absl::SleepFor(absl::Milliseconds(1));
    write(block, 'b');
    return grpc::Status::OK;
  }));
  b.rig->engine(0).Post(FillFrom(source.address));
  while (!first) absl::SleepFor(absl::Milliseconds(1));
  b.rig->engine(0).Post(EndKvFill{.epoch = kEpochB, .move = 1});
  // What comes after it may use the blocks: here a plan that fills block 1.
  StepPlan plan = Start(kEpochB, prompt_, {});
  plan.rows = {{.slot = 3, .count = 40, .new_blocks = {1, 6, 9}}};
  plan.samples = {{0, 3, 0}};
  b.rig->Post(plan);
  ASSERT_TRUE(b.rig->reporter().Result().has_value());
  const std::vector<std::byte> filled = b.Content(0, 1);
  go_on = true;
  const std::optional<KvFilled> told = b.rig->log(0).Filled();
  ASSERT_TRUE(told.has_value());
  EXPECT_TRUE(told->error.starts_with("CANCELLED")) << told->error;
  EXPECT_EQ(b.Content(0, 1), filled);
}

TEST_F(KvMoveTest, AnEpochsEndEndsItsMovesAndForgetsTheBlocks) {
  ASSERT_NO_FATAL_FAILURE(Expect());
  Pipeline b(model_.path(), {{0, 4, 1}});
  ASSERT_TRUE(b.rig->Assemble(kEpochB));
  StepPlan plan = Start(kEpochB, prompt_, {});
  plan.rows = {{.slot = 3, .count = 40, .new_blocks = {4, 1, 9}}};
  plan.samples = {{0, 3, 0}};
  b.rig->Post(plan);
  ASSERT_TRUE(b.rig->reporter().Result().has_value());
  StepPlan named{.epoch = kEpochB, .step = StepNumber(2)};
  named.names = {{4, Hash(1)}, {1, Hash(2)}};
  named.rows = {{.slot = 3, .first_position = 40, .count = 1}};
  named.samples = {{0, 3, 1}};
  b.rig->Post(named);
  ASSERT_TRUE(b.rig->reporter().Result().has_value());
  std::atomic<bool> asked{false}, go_on{false};
  Listener source(std::make_unique<FalseSource>([&](auto&, auto& request, const std::function<bool(size_t, char)>& write) {
    asked = true;
    while (!go_on) absl::SleepFor(absl::Milliseconds(1));
    write(2 * request.block_bytes(), 'a');
    return grpc::Status::OK;
  }));
  b.rig->engine(0).Post(FillFrom(source.address));
  while (!asked) absl::SleepFor(absl::Milliseconds(1));
  ASSERT_TRUE(b.rig->Assemble(Epoch(9)));
  const std::vector<std::byte> before = b.Content(0, 4);
  go_on = true;
  const std::optional<KvFilled> told = b.rig->log(0).Filled();
  ASSERT_TRUE(told.has_value());
  EXPECT_NE(told->error, "");
  EXPECT_EQ(b.Content(0, 4), before);
  EXPECT_TRUE(b.rig->log(0).held(Epoch(9)).empty()) << "their names were of what was about to be written over";
}

TEST_F(KvMoveTest, WhatCannotBeFilledIsRefused) {
  Pipeline b(model_.path(), {{0, 4, 1}});
  const auto refused = [&](const std::function<void(KvFill&)>& change) {
    KvFill fill = FillFrom("127.0.0.1:1");
    change(fill);
    b.rig->engine(0).Post(fill);
    const std::optional<KvFilled> filled = b.rig->log(0).Filled();
    ASSERT_TRUE(filled.has_value());
    EXPECT_NE(filled->error, "");
    EXPECT_EQ(filled->move, 1u);
  };
  refused([](KvFill&) {});  // nothing is assigned
  ASSERT_TRUE(b.rig->Assemble(kEpochB));
  refused([](KvFill& fill) { fill.epoch = Epoch(4); });
  refused([](KvFill& fill) { fill.to = {4, 64}; });
  refused([](KvFill& fill) { fill.to = {-1, 4}; });
  refused([](KvFill& fill) { fill.to = {4, 4}; });
  refused([](KvFill& fill) { fill.to = {4}; });
  refused([](KvFill& fill) { fill.from = fill.to = {}; });
  refused([](KvFill&) {});  // nobody listens there
}

}  // namespace
}  // namespace pagoda::worker::testing
