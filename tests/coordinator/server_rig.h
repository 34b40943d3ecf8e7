// The coordinator's server in process, with fake workers and a router's stream over real gRPC: what its tests share.
#pragma once

#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>
#include <prometheus/registry.h>

#include <filesystem>

#include "common/metrics.h"
#include "coordinator/server.h"
#include "pagoda/v1/admin.grpc.pb.h"
#include "tests/coordinator/attach_client.h"
#include "tests/coordinator/toy_pipeline.h"
#include "tests/fakes/fake_worker.h"
#include "tests/fakes/model_writer.h"

namespace pagoda::coordinator::testing {

using pagoda::testing::FakeWorker;
using pagoda::testing::FakeWorkerOptions;
using pagoda::testing::kTinyVocabulary;

inline std::vector<int> Prompt(int length, int from) {
  std::vector<int> prompt;
  for (int i = 0; i < length; ++i) prompt.push_back((from + i * 7) % kTinyVocabulary);
  return prompt;
}

inline std::vector<int> Expect(std::vector<int> history, uint64_t seed, int choice, int count) {
  std::vector<int> tokens;
  for (int i = 0; i < count; ++i) {
    tokens.push_back(ToyToken(history, seed, choice, i, kTinyVocabulary, false));
    history.push_back(tokens.back());
  }
  return tokens;
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

}  // namespace pagoda::coordinator::testing
