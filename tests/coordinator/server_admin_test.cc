// What operators, workers and standbys are told by the coordinator's server, and what it keeps over a restart.
#include <grpcpp/generic/generic_stub.h>

#include "pagoda/internal/v1/worker.grpc.pb.h"
#include "tests/coordinator/server_rig.h"

namespace pagoda::coordinator {
namespace {

using pagoda::testing::kTinyVocabulary;
using testing::AttachClient;
using testing::Prompt;
using testing::ServerTest;

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
  client.Send(AttachClient::MakeSubmit(1, 1, Prompt(20, 1), 400, 1));
  ASSERT_TRUE(client.WaitFor([&] { return client.streams_locked()[{1, 0}].tokens.size() > 2; }));
  grpc::ClientContext drain;
  ::pagoda::v1::DrainDeploymentRequest drain_request;
  drain_request.set_name("tiny");
  ASSERT_TRUE(admin_->DrainDeployment(&drain, drain_request, &deployment).ok());
  absl::SleepFor(absl::Milliseconds(350));  // what was on its way is taken
  auto late = AttachClient::MakeSubmit(2, 1, Prompt(20, 1), 60, 1);
  late.mutable_submit()->set_resume_id("late");  // and does not keep the pipeline for a client that never had anything
  client.Send(late);
  auto replay = AttachClient::MakeSubmit(3, 1, Prompt(20, 1), 60, 1);  // of a stream that was accepted before
  replay.mutable_submit()->set_accepted(true);
  client.Send(replay);
  for (const uint64_t id : {1, 2, 3}) ASSERT_TRUE(client.WaitForEnd(id)) << id;
  EXPECT_EQ(client.Get(1).tokens.size(), 400u);
  EXPECT_EQ(client.Get(3).tokens.size(), 60u);
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
