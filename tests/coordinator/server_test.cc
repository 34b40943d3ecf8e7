// Streams through the coordinator's server: served, moved, cancelled, after losses; model bytes; the canary.
#include "pagoda/internal/v1/blob.grpc.pb.h"
#include "tests/coordinator/server_rig.h"

namespace pagoda::coordinator {
namespace {

using pagoda::testing::kTinyVocabulary;
using testing::AttachClient;
using testing::Expect;
using testing::Prompt;
using testing::ServerTest;

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

}  // namespace
}  // namespace pagoda::coordinator
