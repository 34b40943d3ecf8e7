#include "coordinator/placement.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <numeric>

#include "checkpoint/checkpoint.h"
#include "coordinator/deployment.h"
#include "tests/fakes/model_writer.h"

namespace pagoda::coordinator {
namespace {

constexpr int64_t kMiB = int64_t{1} << 20;

ModelSizes Model(int layers, int64_t layer_mib, int64_t head_mib) {
  ModelSizes model;
  model.spec.layers = layers;
  model.spec.hidden = 512;
  model.spec.heads = 9;
  model.spec.kv_heads = 3;
  model.spec.head_dim = 64;
  model.spec.ffn = 1536;
  model.spec.vocabulary = 1000;
  model.spec.max_context = 2048;
  for (int i = 0; i < layers; ++i) {
    model.layers.push_back({.attention_query = layer_mib * kMiB / 4, .attention_kv = layer_mib * kMiB / 4, .ffn = layer_mib * kMiB / 2});
  }
  model.embedding = head_mib * kMiB;
  model.head = head_mib * kMiB;
  return model;
}

std::vector<WorkerResources> Workers(int count, int64_t mib) {
  std::vector<WorkerResources> workers;
  for (int i = 0; i < count; ++i) workers.push_back({.name = "w" + std::to_string(i), .memory_bytes = mib * kMiB});
  return workers;
}

TEST(Placement, OneStageHasEverything) {
  const auto placed = PlaceModel(Model(4, 10, 8), Workers(1, 1000), {});
  ASSERT_TRUE(placed.ok()) << placed.status();
  ASSERT_EQ(placed->stages.size(), 1u);
  EXPECT_EQ(placed->stages[0].layer_begin, 0);
  EXPECT_EQ(placed->stages[0].layer_end, 4);
  EXPECT_EQ(placed->ranks[0].weights_bytes, (4 * 10 + 16) * kMiB);
  // K and V, 4 layers, 3 heads of 64, 16 tokens, two bytes.
  EXPECT_EQ(placed->ranks[0].kv_bytes_per_block, 2 * 4 * 3 * 64 * 16 * 2);
  EXPECT_EQ(placed->max_model_len, 2048);
}

TEST(Placement, KvIsCountedAsTheWorkerLaysItOut) {
  ModelSizes model = Model(4, 10, 8);
  model.spec.head_dim = 72;  // values are padded to 80
  PlacementRequest request;
  EXPECT_EQ(PlaceModel(model, Workers(1, 1000), request)->ranks[0].kv_bytes_per_block, 4 * 3 * 16 * (72 + 80) * 2);
  request.kv_type = KvType::kInt8;
  EXPECT_EQ(PlaceModel(model, Workers(1, 1000), request)->ranks[0].kv_bytes_per_block, 4 * 3 * 16 * (72 + 80 + 8));
}

TEST(Placement, ATiedEmbeddingIsCountedOnce) {
  ModelSizes model = Model(4, 10, 8);
  model.spec.tied_embedding = true;
  const auto placed = PlaceModel(model, Workers(1, 1000), {});
  ASSERT_TRUE(placed.ok());
  EXPECT_EQ(placed->ranks[0].weights_bytes, (4 * 10 + 8) * kMiB);
}

TEST(Placement, TheHeadTakesLayersFromTheLastStage) {
  PlacementRequest request;
  request.stages = 2;
  const auto even = PlaceModel(Model(30, 2, 0), Workers(2, 1000), request);
  ASSERT_TRUE(even.ok());
  EXPECT_EQ(even->stages[0].layer_end, 15);
  const auto heavy = PlaceModel(Model(30, 2, 20), Workers(2, 1000), request);
  ASSERT_TRUE(heavy.ok());
  EXPECT_EQ(heavy->stages[0].layer_end, 20) << "20 x 2 against 10 x 2 + 20";
  EXPECT_EQ(heavy->stages[1].layer_begin, 20);
  EXPECT_EQ(heavy->stages[1].layer_end, 30);
  EXPECT_DOUBLE_EQ(heavy->stages[0].relative_time, heavy->stages[1].relative_time);
}

TEST(Placement, ASlowWorkerGetsFewerLayers) {
  PlacementRequest request;
  request.stages = 2;
  std::vector<WorkerResources> workers = Workers(2, 1000);
  workers[0].memory_bandwidth = 10e9;
  workers[1].memory_bandwidth = 30e9;
  const auto placed = PlaceModel(Model(12, 2, 0), workers, request);
  ASSERT_TRUE(placed.ok());
  EXPECT_EQ(placed->stages[0].layer_end, 3);
}

TEST(Placement, LayersCanBeGiven) {
  PlacementRequest request;
  request.stages = 3;
  request.layers_per_stage = {1, 2, 3};
  const auto placed = PlaceModel(Model(6, 2, 2), Workers(3, 1000), request);
  ASSERT_TRUE(placed.ok());
  EXPECT_EQ(placed->stages[1].layer_begin, 1);
  EXPECT_EQ(placed->stages[2].layer_begin, 3);
  request.layers_per_stage = {1, 2, 4};
  EXPECT_EQ(PlaceModel(Model(6, 2, 2), Workers(3, 1000), request).status().code(), absl::StatusCode::kInvalidArgument);
  request.layers_per_stage = {6, 0, 0};
  EXPECT_FALSE(PlaceModel(Model(6, 2, 2), Workers(3, 1000), request).ok());
}

TEST(Placement, UnevenTensorParallelGroups) {
  PlacementRequest request;
  request.stages = 2;
  request.tensor_parallel = {2, 1};
  const auto placed = PlaceModel(Model(8, 12, 0), Workers(3, 1000), request);
  ASSERT_TRUE(placed.ok()) << placed.status();
  ASSERT_EQ(placed->ranks.size(), 3u);
  // 3 KV heads on 2 ranks: 1 and 2 of them.
  EXPECT_EQ(placed->ranks[0].kv_bytes_per_block * 2, placed->ranks[1].kv_bytes_per_block);
  EXPECT_NEAR(static_cast<double>(placed->ranks[1].weights_bytes) / static_cast<double>(placed->ranks[0].weights_bytes), 2, 0.01);
  // Two thirds of a layer on the larger rank of stage 0, a whole one on stage 1: 5 against 3 layers.
  EXPECT_EQ(placed->stages[0].layer_end, 5);
  request.tensor_parallel = {2, 1, 1};
  EXPECT_FALSE(PlaceModel(Model(8, 12, 0), Workers(4, 1000), request).ok());
  request.tensor_parallel = {10};
  EXPECT_FALSE(PlaceModel(Model(8, 12, 0), Workers(20, 1000), request).ok()) << "more ranks than query heads";
}

TEST(Placement, MoreRanksThanKvHeadsReplicateThem) {
  PlacementRequest request;
  request.tensor_parallel = {9};
  const auto placed = PlaceModel(Model(2, 9, 0), Workers(9, 1000), request);
  ASSERT_TRUE(placed.ok()) << placed.status();
  for (const RankPlacement& rank : placed->ranks) EXPECT_EQ(rank.kv_bytes_per_block, 2 * 2 * 1 * 64 * 16 * 2);
}

TEST(Placement, SaysWhatDoesNotFitAndWhatWould) {
  PlacementRequest request;
  const auto refused = PlaceModel(Model(20, 10, 10), Workers(1, 150), request);
  ASSERT_EQ(refused.status().code(), absl::StatusCode::kResourceExhausted);
  const std::string message(AsStd(refused.status().message()));
  EXPECT_NE(message.find("weights 220.0 MiB"), std::string::npos) << message;
  EXPECT_NE(message.find("of 150.0 MiB"), std::string::npos) << message;
  EXPECT_NE(message.find("pipeline_parallel_size 3 (3 workers) would fit"), std::string::npos) << message;
  request.stages = 3;
  EXPECT_TRUE(PlaceModel(Model(20, 10, 10), Workers(3, 150), request).ok());
  const auto hopeless = PlaceModel(Model(20, 500, 10), Workers(1, 150), {});
  EXPECT_NE(AsStd(hopeless.status().message()).find("no number of stages"), std::string::npos);
  request.stages = 4;
  EXPECT_EQ(PlaceModel(Model(20, 10, 10), Workers(3, 150), request).status().code(), absl::StatusCode::kFailedPrecondition);
}

TEST(Placement, TheContextIsCappedByTheKvThatIsThere) {
  ModelSizes model = Model(4, 10, 8);
  PlacementRequest request;
  const int64_t block = 2 * 4 * 3 * 64 * 16 * 2;
  request.kv_cache_bytes = 10 * block;
  EXPECT_EQ(PlaceModel(model, Workers(1, 1000), request).status().code(), absl::StatusCode::kResourceExhausted);
  request.allow_shorter_context = true;
  const auto placed = PlaceModel(model, Workers(1, 1000), request);
  ASSERT_TRUE(placed.ok());
  EXPECT_EQ(placed->blocks, 10);
  EXPECT_EQ(placed->max_model_len, 160);
  EXPECT_EQ(placed->ranks[0].kv_bytes, 10 * block);
  request.kv_type = KvType::kF32;
  EXPECT_EQ(PlaceModel(model, Workers(1, 1000), request)->blocks, 5);
}

// What a worker refuses after it is assigned (--kv-cache-bytes) is not asked of it.
TEST(Placement, AWorkersOwnCapBoundsItsRank) {
  PlacementRequest request;
  request.stages = 2;
  request.layers_per_stage = {2, 2};
  request.allow_shorter_context = true;
  const int64_t block = 2 * 2 * 3 * 64 * 16 * 2;
  std::vector<WorkerResources> workers = Workers(2, 1000);
  workers[1].kv_cache_bytes = 10 * block + 1;
  const auto placed = PlaceModel(Model(4, 10, 8), workers, request);
  ASSERT_TRUE(placed.ok()) << placed.status();
  EXPECT_EQ(placed->blocks, 10);
  EXPECT_LE(placed->ranks[1].kv_bytes, workers[1].kv_cache_bytes);
  request.kv_cache_bytes = 4 * block;
  EXPECT_EQ(PlaceModel(Model(4, 10, 8), workers, request)->blocks, 4) << "the deployment asks for less than the cap";
  request.kv_cache_bytes = 40 * block;
  EXPECT_EQ(PlaceModel(Model(4, 10, 8), workers, request)->blocks, 10) << "or for more";
  workers[1].kv_cache_bytes = block - 1;
  const auto refused = PlaceModel(Model(4, 10, 8), workers, request);
  ASSERT_EQ(refused.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_NE(AsStd(refused.status().message()).find("the worker's own --kv-cache-bytes"), std::string::npos);
}

TEST(Placement, BlocksAreTheLeastOfAllRanks) {
  PlacementRequest request;
  request.stages = 2;
  request.layers_per_stage = {1, 3};
  request.kv_cache_bytes = 600 * kMiB;
  std::vector<WorkerResources> workers = Workers(2, 100);
  workers[0].memory_bytes = 1000 * kMiB;
  const auto placed = PlaceModel(Model(4, 10, 0), workers, request);
  ASSERT_TRUE(placed.ok());
  const RankPlacement& tight = placed->ranks[1];
  EXPECT_EQ(placed->blocks, (tight.memory_bytes - tight.weights_bytes - tight.workspace_bytes) / tight.kv_bytes_per_block);
  for (const RankPlacement& rank : placed->ranks) {
    EXPECT_LE(rank.weights_bytes + rank.workspace_bytes + rank.kv_bytes, rank.memory_bytes);
  }
}

TEST(Placement, MoreKvThanAnyWorkerHasMemoryIsRefusedWithTheNumbers) {
  PlacementRequest request;
  request.kv_cache_bytes = int64_t{900} << 40;
  const auto refused = PlaceModel(Model(4, 10, 0), Workers(1, 1000), request);
  ASSERT_EQ(refused.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_NE(AsStd(refused.status().message()).find("kv_cache_bytes"), std::string::npos) << refused.status();
}

TEST(Placement, MeasuresARealFile) {
  const std::string path = (std::filesystem::temp_directory_path() / "pagoda_placement_test.gguf").string();
  pagoda::testing::TinyModelOptions tiny;
  tiny.layers = 3;
  tiny.type = checkpoint::TensorType::kQ8_0;
  ASSERT_TRUE(pagoda::testing::WriteTinyGguf(path, tiny).ok());
  const auto model = checkpoint::Checkpoint::Open(path);
  ASSERT_TRUE(model.ok()) << model.status();
  const auto sizes = MeasureModel(**model);
  std::filesystem::remove(path);
  ASSERT_TRUE(sizes.ok()) << sizes.status();
  // Q8_0: 34 bytes for 32 weights.
  EXPECT_EQ(sizes->layers[0].ffn, 3 * 64 * 128 / 32 * 34);
  EXPECT_EQ(sizes->layers[0].attention_query, 2 * 64 * 64 / 32 * 34);
  EXPECT_EQ(sizes->layers[0].attention_kv, 2 * 64 * 32 / 32 * 34);
  int64_t total = sizes->embedding + sizes->final_norm;
  for (const LayerBytes& layer : sizes->layers) total += layer.total();
  int64_t in_file = 0;
  for (const auto& tensor : (*model)->tensors()) in_file += static_cast<int64_t>(tensor.bytes);
  EXPECT_EQ(total, in_file) << "every byte of the file has a place";
  EXPECT_EQ(sizes->head, sizes->embedding);
}

TEST(Deployment, ZerosBecomeDefaultsAndWrongValuesAreNamed) {
  DeploymentSpec spec;
  spec.name = "llama/3.1-8B";
  spec.model = "/models/x";
  spec.max_num_seqs = 0;
  const auto settled = Settle(spec);
  ASSERT_TRUE(settled.ok()) << settled.status();
  EXPECT_EQ(settled->max_num_seqs, 128);
  const auto refused = [&](auto change) {
    DeploymentSpec wrong = spec;
    change(wrong);
    return !Settle(wrong).ok();
  };
  EXPECT_TRUE(refused([](DeploymentSpec& s) { s.name = "a b"; }));
  EXPECT_TRUE(refused([](DeploymentSpec& s) { s.name = ""; }));
  EXPECT_TRUE(refused([](DeploymentSpec& s) { s.model = ""; }));
  EXPECT_TRUE(refused([](DeploymentSpec& s) { s.pipeline_parallel_size = -1; }));
  EXPECT_TRUE(refused([](DeploymentSpec& s) { s.tensor_parallel_size = {0}; }));
  EXPECT_TRUE(refused([](DeploymentSpec& s) { s.replicas = -1; }));
  EXPECT_TRUE(refused([](DeploymentSpec& s) { s.kv_cache_type = "int3"; }));
  EXPECT_TRUE(refused([](DeploymentSpec& s) { s.activation_bits = 9; }));
  EXPECT_TRUE(refused([](DeploymentSpec& s) { s.block_size = 24; })) << "no worker can lay it out";
  EXPECT_TRUE(refused([](DeploymentSpec& s) { s.max_num_seqs = 64, s.max_num_batched_tokens = 32; }));
}

}  // namespace
}  // namespace pagoda::coordinator
