#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>

#include "coordinator/store/sqlite_store.h"

namespace pagoda::coordinator {
namespace {

class StoreTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::temp_directory_path() / ("pagoda_store_test_" + RequestId::Random().ToString());
    std::filesystem::create_directories(folder_);
    path_ = (folder_ / "store.db").string();
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::filesystem::path folder_;
  std::string path_;
};

DeploymentSpec Spec(const std::string& name) {
  DeploymentSpec spec;
  spec.name = name;
  spec.model = "/models/'; DROP TABLE deployments; --";
  spec.pipeline_parallel_size = 3;
  spec.tensor_parallel_size = {1, 2, 1};
  spec.replicas = 2;
  spec.max_model_len = 4096;
  spec.kv_cache_type = "bf16";
  spec.activation_bits = 12;
  spec.max_num_batched_tokens = 512;
  spec.max_num_seqs = 33;
  spec.disable_prefix_caching = true;
  spec.layers_per_stage = {1, 2, 3};
  spec.kv_cache_bytes = int64_t{1} << 40;
  spec.block_size = 32;
  spec.max_queued_requests = 99;
  return spec;
}

TEST_F(StoreTest, KeepsEveryField) {
  {
    auto store = *OpenSqliteStore(path_);
    ASSERT_TRUE(store->PutDeployment(Spec("b")).ok());
    ASSERT_TRUE(store->PutDeployment(Spec("a")).ok());
    ASSERT_TRUE(store->PutDeployment(Spec("c")).ok());
    ASSERT_TRUE(store->DeleteDeployment("c").ok());
    ASSERT_TRUE(store->PutPipeline({PipelineId(7), "a"}).ok());
    ASSERT_TRUE(store->PutPipeline({PipelineId(9), "b"}).ok());
    ASSERT_TRUE(store->DeletePipeline(PipelineId(9)).ok());
    ASSERT_TRUE(store->AdvanceEpoch(Epoch(41)).ok());
  }
  const auto state = (*OpenSqliteStore(path_))->Load();
  ASSERT_TRUE(state.ok()) << state.status();
  EXPECT_EQ(state->deployments, (std::vector<DeploymentSpec>{Spec("a"), Spec("b")}));
  ASSERT_EQ(state->pipelines.size(), 1u);
  EXPECT_EQ(state->pipelines[0].pipeline, PipelineId(7));
  EXPECT_EQ(state->last_epoch, 41u);
  EXPECT_EQ(state->last_pipeline, 9u) << "an id is not given out again";
}

TEST_F(StoreTest, AnEpochIsTakenOnce) {
  auto one = *OpenSqliteStore(path_);
  auto other = *OpenSqliteStore(path_);
  ASSERT_TRUE(one->AdvanceEpoch(Epoch(1)).ok());
  EXPECT_EQ(other->AdvanceEpoch(Epoch(1)).code(), absl::StatusCode::kFailedPrecondition);
  ASSERT_TRUE(other->AdvanceEpoch(Epoch(2)).ok());
  EXPECT_EQ(one->AdvanceEpoch(Epoch(2)).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(one->Load()->last_epoch, 2u);
}

// A child writes epochs until it is killed; what it said is done is there.
TEST_F(StoreTest, SurvivesKillNine) {
  for (int round = 0; round < 3; ++round) {
    int pipe_ends[2];
    ASSERT_EQ(pipe(pipe_ends), 0);
    const pid_t child = fork();
    if (child == 0) {
      auto store = OpenSqliteStore(path_);
      if (!store.ok()) _exit(1);
      uint64_t epoch = (*store)->Load()->last_epoch;
      while ((*store)->AdvanceEpoch(Epoch(++epoch)).ok()) {
        if (write(pipe_ends[1], &epoch, sizeof(epoch)) != sizeof(epoch)) _exit(1);
      }
      _exit(1);
    }
    uint64_t told = 0;
    for (int i = 0; i < 20; ++i) ASSERT_EQ(read(pipe_ends[0], &told, sizeof(told)), static_cast<ssize_t>(sizeof(told)));
    kill(child, SIGKILL);
    int status = 0;
    waitpid(child, &status, 0);
    ASSERT_TRUE(WIFSIGNALED(status));
    close(pipe_ends[1]);
    uint64_t more = 0;
    while (read(pipe_ends[0], &more, sizeof(more)) == static_cast<ssize_t>(sizeof(more))) told = more;
    close(pipe_ends[0]);
    const auto state = (*OpenSqliteStore(path_))->Load();
    ASSERT_TRUE(state.ok()) << state.status();
    EXPECT_GE(state->last_epoch, told);
    EXPECT_LE(state->last_epoch, told + 1);
  }
}

TEST_F(StoreTest, SaysWhatIsWrongWithAFile) {
  EXPECT_FALSE(OpenSqliteStore((folder_ / "no" / "such" / "folder.db").string()).ok());
  FILE* file = fopen(path_.c_str(), "w");
  fputs("this is not a database, and it is long enough to be seen as something else than an empty one", file);
  fclose(file);
  const auto store = OpenSqliteStore(path_);
  ASSERT_FALSE(store.ok());
  EXPECT_NE(AsStd(store.status().message()).find(path_), std::string::npos);
}

}  // namespace
}  // namespace pagoda::coordinator
