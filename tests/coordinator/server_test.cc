// The coordinator's server in process, with fake workers and a router's stream over real gRPC.
#include "coordinator/server.h"

#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <prometheus/registry.h>

#include <filesystem>

#include "common/metrics.h"
#include "pagoda/internal/v1/blob.grpc.pb.h"
#include "pagoda/internal/v1/worker.grpc.pb.h"
#include "pagoda/v1/admin.grpc.pb.h"
#include "tests/coordinator/attach_client.h"
#include "tests/coordinator/toy_pipeline.h"
#include "tests/fakes/fake_worker.h"
#include "tests/fakes/model_writer.h"

namespace pagoda::coordinator {
namespace {

using pagoda::testing::FakeWorker;
using pagoda::testing::FakeWorkerOptions;
using pagoda::testing::kTinyVocabulary;
using testing::AttachClient;
using testing::ToyToken;

std::vector<int> Prompt(int length, int from) {
  std::vector<int> prompt;
  for (int i = 0; i < length; ++i) prompt.push_back((from + i * 7) % kTinyVocabulary);
  return prompt;
}

std::vector<int> Expect(std::vector<int> history, uint64_t seed, int choice, int count) {
  std::vector<int> tokens;
  for (int i = 0; i < count; ++i) {
    tokens.push_back(ToyToken(history, seed, choice, i, kTinyVocabulary, false));
    history.push_back(tokens.back());
  }
  return tokens;
}

// grpc.health.v1.Health/Check, without its generated code (Debian has none): a string in, an enum out.
bool Serving(const std::string& address, const std::string& service) {
  grpc::GenericStub stub(grpc::CreateChannel(address, grpc::InsecureChannelCredentials()));
  const std::string request = service.empty() ? "" : absl::StrCat("\x0a", std::string(1, static_cast<char>(service.size())), service);
  grpc::Slice slice(request);
  const grpc::ByteBuffer sent(&slice, 1);
  grpc::ClientContext context;
  grpc::CompletionQueue queue;
  auto call = stub.PrepareUnaryCall(&context, "/grpc.health.v1.Health/Check", sent, &queue);
  call->StartCall();
  grpc::ByteBuffer answer;
  grpc::Status status;
  call->Finish(&answer, &status, nullptr);
  void* tag = nullptr;
  bool ok = false;
  queue.Next(&tag, &ok);
  EXPECT_TRUE(status.ok()) << service << ": " << status.error_message();
  std::vector<grpc::Slice> slices;
  (void)answer.Dump(&slices);
  std::string bytes;
  for (const grpc::Slice& part : slices) bytes.append(reinterpret_cast<const char*>(part.begin()), part.size());
  return bytes == std::string("\x08\x01");
}

class ServerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::temp_directory_path() / ("pagoda_server_test_" + RequestId::Random().ToString());
    std::filesystem::create_directories(folder_);
    model_ = (folder_ / "tiny.gguf").string();
    pagoda::testing::TinyModelOptions tiny;
    tiny.layers = 4;
    ASSERT_TRUE(pagoda::testing::WriteTinyGguf(model_, tiny).ok());
    StartServer("");
  }
  void TearDown() override {
    server_.reset();
    std::filesystem::remove_all(folder_);
  }

  void StartServer(const std::string& store) {
    registry_ = std::make_shared<prometheus::Registry>();
    auto catalog = std::make_shared<ModelCatalog>(
        [](const std::string& reference) -> absl::StatusOr<std::string> { return reference; });
    ServerOptions options;
    options.listen = "127.0.0.1:0";
    options.store = store;
    options.coordinator.heartbeat_ms = 50;
    options.coordinator.lease_ms = 1000;
    options.coordinator.step_deadline_ms = 2000;
    options.coordinator.canary_every_ms = canary_every_ms_;
    auto server = Server::Start(options, catalog, registry_);
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    admin_ = ::pagoda::v1::Admin::NewStub(grpc::CreateChannel(server_->address(), grpc::InsecureChannelCredentials()));
  }

  grpc::Status Apply(int stages, int ranks, int replicas = 1, ::pagoda::v1::Deployment* out = nullptr) {
    ::pagoda::v1::ApplyDeploymentRequest request;
    request.mutable_spec()->set_name("tiny");
    request.mutable_spec()->set_model(model_);
    request.mutable_spec()->set_pipeline_parallel_size(stages);
    request.mutable_spec()->add_tensor_parallel_size(ranks);
    request.mutable_spec()->set_replicas(replicas);
    request.mutable_spec()->set_max_num_batched_tokens(64);
    request.mutable_spec()->set_max_num_seqs(16);
    ::pagoda::v1::Deployment response;
    grpc::ClientContext context;
    return admin_->ApplyDeployment(&context, request, out == nullptr ? &response : out);
  }

  ::pagoda::v1::ClusterState Cluster() {
    ::pagoda::v1::ClusterState state;
    grpc::ClientContext context;
    EXPECT_TRUE(admin_->GetCluster(&context, {}, &state).ok());
    return state;
  }

  std::unique_ptr<FakeWorker> Worker(const std::string& name, int delay_ms = 0) {
    return std::make_unique<FakeWorker>(FakeWorkerOptions{.coordinator = server_->address(),
                                                          .name = name,
                                                          .vocabulary = kTinyVocabulary,
                                                          .step_delay_ms = delay_ms});
  }

  void ExpectIdleAndClean() {
    for (int i = 0; i < 100; ++i) {
      const auto state = Cluster();
      if (state.pipelines_size() > 0 && state.pipelines(0).running() == 0 && state.pipelines(0).blocks_used() == 0) break;
      absl::SleepFor(absl::Milliseconds(20));
    }
    const auto state = Cluster();
    ASSERT_GT(state.pipelines_size(), 0);
    EXPECT_EQ(state.pipelines(0).running(), 0);
    EXPECT_EQ(state.pipelines(0).blocks_used(), 0);
    EXPECT_NE(ExposeMetrics(*registry_).find("pagoda_coordinator_leaked_blocks{model_name=\"tiny\",pipeline=\"1\"} 0"),
              std::string::npos);
  }

  std::filesystem::path folder_;
  std::string model_;
  int canary_every_ms_ = 0;
  std::shared_ptr<prometheus::Registry> registry_;
  std::unique_ptr<Server> server_;
  std::unique_ptr<::pagoda::v1::Admin::Stub> admin_;
};

TEST_F(ServerTest, ServesTokensThroughTwoStages) {
  auto first = Worker("w1");
  auto second = Worker("w2");
  ASSERT_TRUE(Apply(2, 1).ok());
  AttachClient client(server_->address());
  const uint64_t pipeline = client.WaitForPipeline();
  ASSERT_NE(pipeline, 0u);
  EXPECT_EQ(client.snapshot().pipelines(0).numerics_profile(), "toy-1");
  EXPECT_EQ(client.snapshot().pipelines(0).vocabulary(), kTinyVocabulary);
  for (uint64_t id = 1; id <= 20; ++id) {
    client.Send(AttachClient::MakeSubmit(id, pipeline, Prompt(3 + static_cast<int>(id) * 9 % 100, static_cast<int>(id)), 25, id,
                                         id % 5 == 0 ? 3 : 1));
  }
  for (uint64_t id = 1; id <= 20; ++id) {
    for (int choice = 0; choice < (id % 5 == 0 ? 3 : 1); ++choice) {
      ASSERT_TRUE(client.WaitForEnd(id, choice)) << id;
      const auto stream = client.Get(id, choice);
      EXPECT_EQ(stream.tokens, Expect(Prompt(3 + static_cast<int>(id) * 9 % 100, static_cast<int>(id)), id, choice, 25)) << id;
      EXPECT_EQ(stream.finish, ::pagoda::v1::FINISH_REASON_LENGTH);
      EXPECT_EQ(stream.ends, 1);
      EXPECT_EQ(stream.gaps, 0);
    }
  }
  EXPECT_EQ(first->errors(), "");
  EXPECT_EQ(second->errors(), "");
  EXPECT_GT(first->steps(), 10);
  ExpectIdleAndClean();
}

TEST_F(ServerTest, AKilledWorkerComesBackAndStreamsGoOn) {
  auto first = Worker("w1", 2);
  auto second = Worker("w2", 2);
  ASSERT_TRUE(Apply(2, 1).ok());
  AttachClient client(server_->address());
  const uint64_t pipeline = client.WaitForPipeline();
  ASSERT_NE(pipeline, 0u);
  for (uint64_t id = 1; id <= 8; ++id) client.Send(AttachClient::MakeSubmit(id, pipeline, Prompt(40, static_cast<int>(id)), 120, id));
  ASSERT_TRUE(client.WaitFor([&] { return client.streams_locked()[{8, 0}].tokens.size() > 10; }));
  second->Kill();
  absl::SleepFor(absl::Milliseconds(200));
  EXPECT_EQ(client.Get(1).ends, 0);
  second = Worker("w2", 0);
  for (uint64_t id = 1; id <= 8; ++id) {
    ASSERT_TRUE(client.WaitForEnd(id)) << id;
    const auto stream = client.Get(id);
    EXPECT_EQ(stream.tokens, Expect(Prompt(40, static_cast<int>(id)), id, 0, 120)) << id;
    EXPECT_EQ(stream.ends, 1);
    EXPECT_EQ(stream.gaps, 0);
  }
  EXPECT_EQ(Cluster().pipelines(0).epoch(), 2u);
  EXPECT_EQ(first->assignments(), 2);
  EXPECT_EQ(client.half_lost(), 0);
  ExpectIdleAndClean();
}

TEST_F(ServerTest, AStreamThatMovedIsNotGeneratedWhereItWasToo) {
  auto first = Worker("w1", 3);
  auto second = Worker("w2", 3);
  ASSERT_TRUE(Apply(1, 1, 2).ok());
  AttachClient client(server_->address());
  ASSERT_NE(client.WaitForPipeline(), 0u);
  const auto both_ready = [&] {
    const internal::v1::Snapshot snapshot = client.snapshot();
    return snapshot.pipelines_size() == 2 && snapshot.pipelines(0).ready() && snapshot.pipelines(1).ready();
  };
  for (int i = 0; i < 200 && !both_ready(); ++i) absl::SleepFor(absl::Milliseconds(20));
  ASSERT_TRUE(both_ready());
  const uint64_t from = client.snapshot().pipelines(0).pipeline(), to = client.snapshot().pipelines(1).pipeline();
  client.Send(AttachClient::MakeSubmit(1, from, Prompt(20, 1), 400, 1));
  ASSERT_TRUE(client.WaitFor([&] { return client.streams_locked()[{1, 0}].tokens.size() > 3; }));
  internal::v1::RouterMessage moved = AttachClient::MakeSubmit(1, to, Prompt(20, 1), 400, 1);
  moved.mutable_submit()->set_attempt(2);
  for (const int token : client.Get(1).tokens) moved.mutable_submit()->mutable_choices(0)->add_tokens(token);
  client.Send(moved);
  const auto held = [&] {
    std::map<uint64_t, int> running;
    const auto state = Cluster();
    for (const auto& pipeline : state.pipelines()) running[pipeline.id()] = pipeline.running();
    return running;
  };
  for (int i = 0; i < 100 && held() != std::map<uint64_t, int>{{from, 0}, {to, 1}}; ++i) absl::SleepFor(absl::Milliseconds(5));
  EXPECT_EQ(held(), (std::map<uint64_t, int>{{from, 0}, {to, 1}}));
  client.Cancel(1);
  ExpectIdleAndClean();
}

// Two pipelines; the worker of one says that it leaves under a stream. Returns how long it was kept.
class LeavingTest : public ServerTest {
 protected:
  absl::Duration Leave(const std::string& kv_error) {
    const auto worker = [&](const std::string& name) {
      return std::make_unique<FakeWorker>(FakeWorkerOptions{.coordinator = server_->address(),
                                                            .name = name,
                                                            .vocabulary = kTinyVocabulary,
                                                            .step_delay_ms = 10,
                                                            .moves_kv = true,
                                                            .kv_error = kv_error});
    };
    first_ = worker("w1");
    EXPECT_TRUE(Apply(1, 1, 2).ok());
    for (int i = 0; i < 200 && !first_->linked(); ++i) absl::SleepFor(absl::Milliseconds(20));
    second_ = worker("w2");
    client_ = std::make_unique<AttachClient>(server_->address());
    EXPECT_NE(client_->WaitForPipeline(), 0u);
    for (int i = 0; i < 200 && !second_->linked(); ++i) absl::SleepFor(absl::Milliseconds(20));
    for (int i = 0; i < 200 && (client_->snapshot().pipelines_size() < 2 || !client_->snapshot().pipelines(1).ready()); ++i) {
      absl::SleepFor(absl::Milliseconds(20));
    }
    from_ = client_->snapshot().pipelines(0).pipeline();
    client_->Send(AttachClient::MakeSubmit(1, from_, Prompt(100, 1), 1000, 1));
    EXPECT_TRUE(client_->WaitFor([&] { return client_->streams_locked()[{1, 0}].tokens.size() > 3; }));
    const absl::Time before = absl::Now();
    first_->Leave();
    absl::SleepFor(absl::Milliseconds(20));
    while_leaving_();
    while (!first_->let_go() && absl::Now() - before < absl::Seconds(10)) absl::SleepFor(absl::Milliseconds(10));
    return absl::Now() - before;
  }
  bool Counted(const std::string& result) {
    return ExposeMetrics(*registry_).find(absl::StrCat("pagoda_kv_moves_total{model_name=\"tiny\",pipeline=\"", from_, "\",result=\"",
                                                       result, "\"} 1")) != std::string::npos;
  }

  std::unique_ptr<FakeWorker> first_, second_;
  std::unique_ptr<AttachClient> client_;
  uint64_t from_ = 0;
  std::function<void()> while_leaving_ = [] {};
};

TEST_F(LeavingTest, AWorkerIsKeptNoLongerThanTheBoundWhenNobodyFillsAndTheStreamRunsOnMeanwhile) {
  while_leaving_ = [&] {
    size_t tokens = 0;
    EXPECT_TRUE(client_->WaitFor([&] {
      tokens = client_->streams_locked()[{1, 0}].tokens.size();
      return true;
    }));
    EXPECT_TRUE(client_->WaitFor([&] { return client_->streams_locked()[{1, 0}].tokens.size() > tokens + 20; }));
    const auto snapshot = client_->snapshot();
    EXPECT_FALSE(snapshot.pipelines(0).ready()) << "it takes no new work";
    EXPECT_FALSE(snapshot.pipelines(0).epoch_closed());
    EXPECT_EQ(second_->fills(), 1);
  };
  const absl::Duration kept = Leave("");
  EXPECT_GT(kept, absl::Milliseconds(2500));
  EXPECT_LT(kept, absl::Milliseconds(6000));
  EXPECT_TRUE(Counted("late"));
  EXPECT_EQ(second_->ended_fills(), 1) << "before its blocks are given out again";
  EXPECT_TRUE(client_->WaitFor([&] { return true; }));
  for (int i = 0; i < 100 && !client_->snapshot().pipelines(0).epoch_closed(); ++i) absl::SleepFor(absl::Milliseconds(20));
  EXPECT_TRUE(client_->snapshot().pipelines(0).epoch_closed());
  EXPECT_EQ(client_->snapshot().pipelines(0).kv_moved_to(), 0u);
}

TEST_F(LeavingTest, ARankThatCannotFillEndsTheMoveAtOnce) {
  const absl::Duration kept = Leave("no");
  EXPECT_LT(kept, absl::Milliseconds(2500));
  EXPECT_TRUE(Counted("failed"));
  EXPECT_EQ(second_->errors(), "");
  for (int i = 0; i < 100 && Cluster().pipelines(1).blocks_used() > 0; ++i) absl::SleepFor(absl::Milliseconds(20));
  EXPECT_EQ(Cluster().pipelines(1).blocks_used(), 0);
}

TEST_F(LeavingTest, APeerThatIsLostEndsTheMoveAtOnce) {
  while_leaving_ = [&] {
    for (int i = 0; i < 200 && second_->fills() == 0; ++i) absl::SleepFor(absl::Milliseconds(5));
    second_->Kill();
  };
  EXPECT_LT(Leave(""), absl::Milliseconds(2500));
  EXPECT_TRUE(Counted("failed"));
}

TEST_F(ServerTest, AWedgedWorkerLosesItsLeaseAndASpareTakesItsPlace) {
  auto first = Worker("w1");
  ASSERT_TRUE(Apply(1, 1).ok());
  AttachClient client(server_->address());
  const uint64_t pipeline = client.WaitForPipeline();
  ASSERT_NE(pipeline, 0u);
  auto spare = Worker("w2");
  first->StopBeating();
  client.Send(AttachClient::MakeSubmit(1, pipeline, Prompt(10, 1), 20, 5));
  ASSERT_TRUE(client.WaitForEnd(1));
  EXPECT_EQ(client.Get(1).tokens, Expect(Prompt(10, 1), 5, 0, 20));
  EXPECT_GT(spare->steps(), 0);
}

TEST_F(ServerTest, CancelsAndARouterThatGoesAwayFreeTheirBlocks) {
  auto worker = Worker("w1", 3);
  ASSERT_TRUE(Apply(1, 1).ok());
  auto client = std::make_unique<AttachClient>(server_->address());
  const uint64_t pipeline = client->WaitForPipeline();
  ASSERT_NE(pipeline, 0u);
  client->Send(AttachClient::MakeSubmit(1, pipeline, Prompt(20, 1), 400, 1));
  client->Send(AttachClient::MakeSubmit(2, pipeline, Prompt(20, 2), 400, 2));
  ASSERT_TRUE(client->WaitFor([&] { return client->streams_locked()[{1, 0}].tokens.size() > 3; }));
  client->Cancel(1);
  ASSERT_TRUE(client->WaitForEnd(1));
  EXPECT_EQ(client->Get(1).finish, ::pagoda::v1::FINISH_REASON_CANCELLED);
  EXPECT_EQ(client->Get(2).ends, 0);
  client->Break();
  ExpectIdleAndClean();
}

TEST_F(ServerTest, RefusesWhatIsWrong) {
  auto worker = Worker("w1");
  ASSERT_TRUE(Apply(1, 1).ok());
  AttachClient client(server_->address());
  const uint64_t pipeline = client.WaitForPipeline();
  ASSERT_NE(pipeline, 0u);
  client.Send(AttachClient::MakeSubmit(1, pipeline, {}, 4, 1));
  client.Send(AttachClient::MakeSubmit(2, pipeline, {1, kTinyVocabulary}, 4, 1));
  client.Send(AttachClient::MakeSubmit(3, pipeline, {-1}, 4, 1));
  client.Send(AttachClient::MakeSubmit(4, pipeline, Prompt(5000, 0), 4, 1));
  client.Send(AttachClient::MakeSubmit(5, pipeline + 17, {1}, 4, 1));
  auto nan = AttachClient::MakeSubmit(6, pipeline, {1}, 4, 1);
  nan.mutable_submit()->mutable_sampling()->set_temperature(std::numeric_limits<double>::quiet_NaN());
  client.Send(nan);
  client.Send(AttachClient::MakeSubmit(7, pipeline, {1}, 4, 1, 1000));
  client.Send(AttachClient::MakeSubmit(8, pipeline, {1}, 0, 1));
  client.Send(AttachClient::MakeSubmit(9, pipeline, {1}, 4, 1));
  for (uint64_t id = 1; id <= 9; ++id) ASSERT_TRUE(client.WaitForEnd(id)) << id;
  const auto refused = client.refused();
  for (uint64_t id = 1; id <= 8; ++id) {
    ASSERT_EQ(refused.count(id), 1u) << id;
    EXPECT_EQ(refused.at(id).code(), id == 5 ? grpc::StatusCode::NOT_FOUND : grpc::StatusCode::INVALID_ARGUMENT) << id;
  }
  EXPECT_EQ(client.TokensOf(9), 4u);

  ::pagoda::v1::ApplyDeploymentRequest request;
  ::pagoda::v1::Deployment response;
  grpc::ClientContext context;
  request.mutable_spec()->set_name("has space");
  request.mutable_spec()->set_model(model_);
  EXPECT_EQ(admin_->ApplyDeployment(&context, request, &response).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(Apply(9, 1).error_code(), grpc::StatusCode::INVALID_ARGUMENT) << "more stages than layers";
}

TEST_F(ServerTest, AdminScalesDrainsAndDeletes) {
  auto first = Worker("w1", 3);
  auto second = Worker("w2", 3);
  ::pagoda::v1::Deployment deployment;
  ASSERT_TRUE(Apply(1, 1, 2, &deployment).ok());
  AttachClient client(server_->address());
  ASSERT_TRUE(client.WaitForPipeline() != 0);
  for (int i = 0; i < 200 && Cluster().deployments(0).replicas_ready() < 2; ++i) absl::SleepFor(absl::Milliseconds(20));
  EXPECT_EQ(Cluster().deployments(0).state(), ::pagoda::v1::DEPLOYMENT_STATE_READY);
  ASSERT_EQ(Cluster().pipelines_size(), 2);

  grpc::ClientContext scale;
  ::pagoda::v1::ScaleDeploymentRequest smaller;
  smaller.set_name("tiny");
  smaller.set_replicas(1);
  ASSERT_TRUE(admin_->ScaleDeployment(&scale, smaller, &deployment).ok());
  for (int i = 0; i < 200 && Cluster().pipelines_size() > 1; ++i) absl::SleepFor(absl::Milliseconds(20));
  ASSERT_EQ(Cluster().pipelines_size(), 1);

  // A drain lets what runs end, and takes nothing new.
  client.Send(AttachClient::MakeSubmit(1, 1, Prompt(20, 1), 60, 1));
  ASSERT_TRUE(client.WaitFor([&] { return client.streams_locked()[{1, 0}].tokens.size() > 2; }));
  grpc::ClientContext drain;
  ::pagoda::v1::DrainDeploymentRequest drain_request;
  drain_request.set_name("tiny");
  ASSERT_TRUE(admin_->DrainDeployment(&drain, drain_request, &deployment).ok());
  client.Send(AttachClient::MakeSubmit(2, 1, Prompt(20, 1), 60, 1));
  ASSERT_TRUE(client.WaitForEnd(1));
  ASSERT_TRUE(client.WaitForEnd(2));
  EXPECT_EQ(client.Get(1).tokens.size(), 60u);
  EXPECT_EQ(client.refused().count(2), 1u);
  for (int i = 0; i < 200 && Cluster().pipelines_size() > 0; ++i) absl::SleepFor(absl::Milliseconds(20));
  EXPECT_EQ(Cluster().pipelines_size(), 0);
  ASSERT_EQ(Cluster().deployments_size(), 1);
  EXPECT_EQ(Cluster().deployments(0).state(), ::pagoda::v1::DEPLOYMENT_STATE_STOPPED);

  grpc::ClientContext remove;
  ::pagoda::v1::DeleteDeploymentRequest delete_request;
  ::pagoda::v1::DeleteDeploymentResponse deleted;
  delete_request.set_name("tiny");
  ASSERT_TRUE(admin_->DeleteDeployment(&remove, delete_request, &deleted).ok());
  EXPECT_EQ(Cluster().deployments_size(), 0);
}

TEST_F(ServerTest, DeploymentsSurviveARestart) {
  server_.reset();
  const std::string store = (folder_ / "store.db").string();
  StartServer(store);
  ASSERT_TRUE(Apply(1, 1).ok());
  {
    auto worker = Worker("w1");
    AttachClient client(server_->address());
    ASSERT_EQ(client.WaitForPipeline(), 1u);
  }
  server_.reset();
  StartServer(store);
  auto worker = Worker("w1");
  AttachClient client(server_->address());
  ASSERT_EQ(client.WaitForPipeline(), 1u);
  EXPECT_GT(client.snapshot().pipelines(0).epoch(), 1u);  // an epoch is never used twice
  client.Send(AttachClient::MakeSubmit(1, 1, Prompt(5, 1), 5, 1));
  ASSERT_TRUE(client.WaitForEnd(1));
  EXPECT_EQ(client.TokensOf(1), 5u);
}

TEST_F(ServerTest, ADeploymentWhoseModelCannotBeOpenedIsShownAndTakenUpOnceItCan) {
  const std::string store = (folder_ / "store.db").string();
  server_.reset();
  StartServer(store);
  ASSERT_TRUE(Apply(1, 1).ok());
  server_.reset();
  const std::string elsewhere = model_ + ".elsewhere";
  std::filesystem::rename(model_, elsewhere);
  StartServer(store);
  const auto shown = [&] {
    ::pagoda::v1::ClusterState state;
    grpc::ClientContext context;
    EXPECT_TRUE(admin_->GetCluster(&context, {}, &state).ok());
    return state.deployments_size() == 1 ? state.deployments(0).message() : "not shown";
  };
  EXPECT_NE(shown().find("cannot be opened by the coordinator"), std::string::npos) << shown();
  std::filesystem::rename(elsewhere, model_);
  auto worker = Worker("w1");
  const absl::Time end = absl::Now() + absl::Seconds(20);
  while (!shown().empty() && absl::Now() < end) absl::SleepFor(absl::Milliseconds(100));
  EXPECT_EQ(shown(), "") << "it is served";
}

TEST_F(ServerTest, AWorkerOfAnUnknownProtocolIsRefused) {
  const auto stub = internal::v1::WorkerControl::NewStub(grpc::CreateChannel(server_->address(), grpc::InsecureChannelCredentials()));
  grpc::ClientContext context;
  const auto stream = stub->Attach(&context);
  internal::v1::WorkerMessage message;
  message.mutable_register_()->set_name("old");
  message.mutable_register_()->set_version("0.0.1");
  stream->Write(message);
  internal::v1::WorkerCommand command;
  EXPECT_FALSE(stream->Read(&command));
  const grpc::Status status = stream->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_EQ(status.error_message(), "worker old (0.0.1) speaks protocol 0; this coordinator takes 1 and later: upgrade the worker");
}

TEST_F(ServerTest, ServesModelBytesAndTheTextBundle) {
  ASSERT_TRUE(Apply(1, 1, 0).ok());
  const auto checkpoint = checkpoint::Checkpoint::Open(model_);
  ASSERT_TRUE(checkpoint.ok());
  auto channel = grpc::CreateChannel(server_->address(), grpc::InsecureChannelCredentials());
  auto blob = internal::v1::Blob::NewStub(channel);
  internal::v1::ListFilesRequest list;
  internal::v1::ListFilesResponse files;
  list.set_model_digest((*checkpoint)->digest());
  grpc::ClientContext list_context;
  ASSERT_TRUE(blob->ListFiles(&list_context, list, &files).ok());
  ASSERT_EQ(files.files_size(), 1);
  EXPECT_EQ(files.files(0).size(), std::filesystem::file_size(model_));

  const auto read = [&](const std::string& file, uint64_t offset, uint64_t length, std::string& bytes) {
    internal::v1::ReadRangeRequest request;
    request.set_model_digest((*checkpoint)->digest());
    request.set_file(file);
    request.set_offset(offset);
    request.set_length(length);
    grpc::ClientContext context;
    auto reader = blob->ReadRange(&context, request);
    internal::v1::ReadRangeChunk chunk;
    while (reader->Read(&chunk)) bytes += chunk.data();
    return reader->Finish();
  };
  std::string bytes;
  ASSERT_TRUE(read(files.files(0).name(), 0, 4, bytes).ok());
  EXPECT_EQ(bytes, "GGUF");
  EXPECT_EQ(read("../etc/passwd", 0, 4, bytes).error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(read(files.files(0).name(), files.files(0).size(), 1, bytes).error_code(), grpc::StatusCode::OUT_OF_RANGE);
  EXPECT_EQ(read(files.files(0).name(), ~0ULL, 2, bytes).error_code(), grpc::StatusCode::OUT_OF_RANGE);

  auto pipeline = internal::v1::Pipeline::NewStub(channel);
  internal::v1::TextBundleRequest bundle_request;
  bundle_request.set_model_digest((*checkpoint)->digest());
  grpc::ClientContext bundle_context;
  auto reader = pipeline->GetTextBundle(&bundle_context, bundle_request);
  internal::v1::TextBundleChunk chunk;
  std::map<std::string, std::string> entries;
  while (reader->Read(&chunk)) entries[chunk.name()] += chunk.data();
  ASSERT_TRUE(reader->Finish().ok());
  const auto expected = (*checkpoint)->TextBundle();
  ASSERT_TRUE(expected.ok());
  ASSERT_EQ(entries.size(), expected->size());
  for (const auto& entry : *expected) EXPECT_EQ(entries[entry.name], entry.bytes);
}

TEST_F(ServerTest, AnIdlePipelineTakesACanaryStepThatCountsAsNoTraffic) {
  server_->Stop(0);
  canary_every_ms_ = 200;
  StartServer("");
  auto worker = Worker("w1");
  ASSERT_TRUE(Apply(1, 1).ok());
  for (int i = 0; i < 500 && worker->steps() < 2; ++i) absl::SleepFor(absl::Milliseconds(20));
  EXPECT_GE(worker->steps(), 2);
  EXPECT_EQ(worker->errors(), "");
  ExpectIdleAndClean();
  const std::string metrics = ExposeMetrics(*registry_);
  EXPECT_NE(metrics.find("pagoda_generation_tokens_total{model_name=\"tiny\",pipeline=\"1\"} 0"), std::string::npos);
  EXPECT_NE(metrics.find("pagoda_prompt_tokens_total{model_name=\"tiny\",pipeline=\"1\"} 0"), std::string::npos);
}

TEST_F(ServerTest, AStandbyFollowsAndTakesOverWithWhatWasDeployed) {
  server_->Stop(0);
  const std::string store = (folder_ / "shared.db").string();
  StartServer(store);
  std::unique_ptr<Server> leader = std::move(server_);
  ASSERT_TRUE(Apply(1, 1).ok());
  StartServer(store);  // the standby; admin_ speaks to it
  const grpc::Status refused = Apply(1, 1);
  EXPECT_EQ(refused.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_NE(refused.error_message().find(leader->address()), std::string::npos) << refused.error_message();
  const auto check = [&](const std::string& service) { return Serving(server_->address(), service); };
  EXPECT_TRUE(check(""));
  EXPECT_FALSE(check("pagoda.internal.v1.WorkerControl"));
  leader->Stop(0);
  for (int i = 0; i < 250 && !server_->coordinator().leads(); ++i) absl::SleepFor(absl::Milliseconds(20));
  ASSERT_TRUE(server_->coordinator().leads());
  auto worker = Worker("w1");
  AttachClient client(server_->address());
  EXPECT_NE(client.WaitForPipeline(), 0u);
  for (int i = 0; i < 100 && !check("pagoda.internal.v1.WorkerControl"); ++i) absl::SleepFor(absl::Milliseconds(50));
  EXPECT_TRUE(check("pagoda.internal.v1.WorkerControl"));
}

}  // namespace
}  // namespace pagoda::coordinator
