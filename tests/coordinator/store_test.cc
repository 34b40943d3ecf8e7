#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>

#include "absl/time/clock.h"

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

Candidate Me(const std::string& name = "me") { return {.name = name, .address = "address of " + name}; }

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
  RestoredPipeline placed{PipelineId(8), "a", {}, {"digest of 0", "digest of 1"}};
  placed.placement.stages = {{.layer_begin = 0, .layer_end = 5, .tensor_parallel = 1, .relative_time = 0.5}, {5, 9, 1, 1}};
  placed.placement.ranks = {{0, 0, 1, 100, 2, 300, 40, 440}, {1, 0, 0, 101, 2, 301, 41, 443}};
  placed.placement.blocks = 77;
  placed.placement.max_model_len = 512;
  placed.placement.block_tokens = 32;
  {
    auto store = *OpenSqliteStore(path_);
    ASSERT_TRUE(store->Campaign(Me())->self);
    ASSERT_TRUE(store->PutPipeline(placed).ok());
    ASSERT_TRUE(store->PutDeployment(Spec("b")).ok());
    ASSERT_TRUE(store->PutDeployment(Spec("a")).ok());
    ASSERT_TRUE(store->PutDeployment(Spec("c")).ok());
    ASSERT_TRUE(store->DeleteDeployment("c").ok());
    ASSERT_TRUE(store->PutPipeline({PipelineId(7), "a", {}, {}}).ok());
    ASSERT_TRUE(store->PutPipeline({PipelineId(9), "b", {}, {}}).ok());
    ASSERT_TRUE(store->DeletePipeline(PipelineId(9)).ok());
    ASSERT_TRUE(store->AdvanceEpoch(Epoch(41)).ok());
  }
  const auto state = (*OpenSqliteStore(path_))->Load();
  ASSERT_TRUE(state.ok()) << state.status();
  EXPECT_EQ(state->deployments, (std::vector<DeploymentSpec>{Spec("a"), Spec("b")}));
  ASSERT_EQ(state->pipelines.size(), 2u);
  EXPECT_EQ(state->pipelines[0].id, PipelineId(7));
  EXPECT_TRUE(state->pipelines[0].placement.ranks.empty());
  EXPECT_EQ(state->pipelines[1].shard_digests, placed.shard_digests);
  EXPECT_EQ(state->pipelines[1].placement.blocks, 77);
  EXPECT_EQ(state->pipelines[1].placement.block_tokens, 32);
  EXPECT_EQ(state->pipelines[1].placement.max_model_len, 512);
  EXPECT_EQ(state->pipelines[1].placement.stages.at(1).layer_end, 9);
  EXPECT_EQ(state->pipelines[1].placement.ranks.at(1).memory_bytes, 443);
  EXPECT_EQ(state->last_epoch, 41u);
  EXPECT_EQ(state->last_pipeline, 9u) << "an id is not given out again";
}

TEST_F(StoreTest, OneLeadsAndOnlyTheLeaderWrites) {
  auto one = *OpenSqliteStore(path_);
  auto other = *OpenSqliteStore(path_);
  EXPECT_EQ(one->AdvanceEpoch(Epoch(1)).code(), absl::StatusCode::kFailedPrecondition) << "nobody leads";
  EXPECT_TRUE(one->Campaign(Me("one"))->self);
  const absl::StatusOr<Leader> seen = other->Campaign(Me("other"));
  ASSERT_TRUE(seen.ok()) << seen.status();
  EXPECT_FALSE(seen->self);
  EXPECT_EQ(seen->who.name, "one");
  EXPECT_EQ(seen->who.address, "address of one");
  ASSERT_TRUE(one->AdvanceEpoch(Epoch(1)).ok());
  EXPECT_EQ(one->AdvanceEpoch(Epoch(1)).code(), absl::StatusCode::kFailedPrecondition) << "an epoch is taken once";
  EXPECT_EQ(other->AdvanceEpoch(Epoch(2)).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(other->PutDeployment(Spec("a")).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(one->Renew().ok());
  ASSERT_TRUE(one->Resign().ok());
  EXPECT_TRUE(other->Campaign(Me("other"))->self) << "nothing is waited for";
  EXPECT_EQ(one->Renew().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(one->AdvanceEpoch(Epoch(2)).code(), absl::StatusCode::kFailedPrecondition);
  ASSERT_TRUE(other->AdvanceEpoch(Epoch(2)).ok());
}

// A process that leads, asks for the next epoch at each byte it gets, and says how that went.
struct LeaderProcess {
  pid_t pid = -1;
  int ask[2], answer[2];
  explicit LeaderProcess(const std::string& path, absl::Duration lease) {
    EXPECT_EQ(pipe(ask), 0);
    EXPECT_EQ(pipe(answer), 0);
    pid = fork();
    if (pid != 0) return;
    auto store = OpenSqliteStore(path, lease);
    char byte = store.ok() && (*store)->Campaign(Me("child")).ok() ? 'l' : 'x';
    uint64_t epoch = 0;
    while (write(answer[1], &byte, 1) == 1 && read(ask[0], &byte, 1) == 1) {
      const absl::Status status = (*store)->AdvanceEpoch(Epoch(++epoch));
      byte = status.ok() ? 'y' : absl::IsFailedPrecondition(status) ? 'n' : 'x';
    }
    _exit(0);
  }
  ~LeaderProcess() {
    kill(pid, SIGKILL);
    waitpid(pid, nullptr, 0);
    for (const int end : {ask[0], ask[1], answer[0], answer[1]}) close(end);
  }
  char Answer() {
    char byte = 0;
    return read(answer[0], &byte, 1) == 1 ? byte : '?';
  }
  char NextEpoch() {
    const char byte = 'e';
    return write(ask[1], &byte, 1) == 1 ? Answer() : '?';
  }
};

TEST_F(StoreTest, ALeaderThatWasStoppedBeyondItsLeaseStartsNoEpoch) {
  LeaderProcess leader(path_, absl::Milliseconds(300));
  ASSERT_EQ(leader.Answer(), 'l');
  ASSERT_EQ(leader.NextEpoch(), 'y');
  auto standby = *OpenSqliteStore(path_, absl::Milliseconds(300));
  EXPECT_FALSE(standby->Campaign(Me())->self);
  kill(leader.pid, SIGSTOP);
  const absl::Time stopped = absl::Now();
  while (!standby->Campaign(Me())->self) {
    ASSERT_LT(absl::Now(), stopped + absl::Seconds(10));
    standby->WaitForChange(standby->LookEvery());
  }
  EXPECT_TRUE(standby->AdvanceEpoch(Epoch(2)).ok());
  kill(leader.pid, SIGCONT);
  EXPECT_EQ(leader.NextEpoch(), 'n');
  EXPECT_EQ(standby->Load()->last_epoch, 2u);
}

TEST_F(StoreTest, ADeadLeadersLeaseIsNotWaitedFor) {
  auto standby = *OpenSqliteStore(path_, absl::Hours(1));
  {
    LeaderProcess leader(path_, absl::Hours(1));
    ASSERT_EQ(leader.Answer(), 'l');
    EXPECT_FALSE(standby->Campaign(Me())->self);
  }
  EXPECT_TRUE(standby->Campaign(Me())->self);
}

// A child writes epochs until it is killed; what it said is done is there.
TEST_F(StoreTest, SurvivesKillNine) {
  for (int round = 0; round < 3; ++round) {
    int pipe_ends[2];
    ASSERT_EQ(pipe(pipe_ends), 0);
    const pid_t child = fork();
    if (child == 0) {
      auto store = OpenSqliteStore(path_);
      if (!store.ok() || !(*store)->Campaign(Me()).ok()) _exit(1);
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
