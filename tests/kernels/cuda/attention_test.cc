// Rope, KV storage and attention on CUDA: against the CPU twin (f32 arithmetic over the same stored values), and the promises of the
// invariant profile: chunks, company, splitting, padding change no bit.
#include <numeric>

#include "tests/kernels/cuda/pair.h"

namespace pagoda::kernels::testing {
namespace {

struct Model {
  int query_heads = 6;
  int kv_heads = 2;
  int head_dim = 32;
  int block_tokens = 16;
  KvType type = KvType::kF16;
  int sliding_window = 0;
  bool interleaved = false;
  int64_t columns() const { return static_cast<int64_t>(query_heads + 2 * kv_heads) * head_dim; }
};

struct Chunk {
  int rows = 0;
  int64_t position = 0;
  std::vector<int32_t> blocks = {};
  std::vector<float> qkv = {};
};

class Runner {
 public:
  Runner(const Model& model, Backend& backend, int blocks = 96) : model_(model), backend_(backend) {
    auto cache = backend.NewKvCache({.layers = 2, .blocks = blocks, .kv_heads = model.kv_heads, .head_dim = model.head_dim,
                                     .block_tokens = model.block_tokens, .type = model.type});
    EXPECT_TRUE(cache.ok()) << cache.status();
    cache_ = *std::move(cache);
    for (int h = 0; h < model.query_heads; ++h) head_of_.push_back(h * model.kv_heads / model.query_heads);
    for (int i = 0; i < model.head_dim / 2; ++i) frequencies_.push_back(std::pow(10000.0f, -2.0f * static_cast<float>(i) / static_cast<float>(model.head_dim)));
    attention_ = {.layer = 1, .query_heads = model.query_heads, .kv_heads = model.kv_heads, .kv_head_of = head_of_,
                  .head_dim = model.head_dim, .softmax_scale = 1.0f / std::sqrt(static_cast<float>(model.head_dim)),
                  .sliding_window = model.sliding_window};
    rope_ = {frequencies_, model.interleaved, 1.0f};
  }

  // The attention of each chunk's rows, chunk after chunk. `padding`: rows past the step's own.
  std::vector<float> Step(const std::vector<Chunk>& chunks, int padding = 0) {
    std::vector<SequenceRows> sequences;
    std::vector<float> all;
    int rows = 0;
    for (const Chunk& chunk : chunks) {
      sequences.push_back({rows, chunk.rows, chunk.position, chunk.blocks});
      all.insert(all.end(), chunk.qkv.begin(), chunk.qkv.end());
      rows += chunk.rows;
    }
    all.resize(static_cast<size_t>((rows + padding) * model_.columns()), 1.0f);
    const int64_t out_columns = static_cast<int64_t>(model_.query_heads) * model_.head_dim;
    Held qkv(backend_, rows + padding, model_.columns(), all), out(backend_, rows + padding, out_columns);
    const StepRows step{sequences, rows}, padded{sequences, rows + padding};
    absl::Status status = backend_.BeginStep({.step = step, .attention = &attention_, .rope = &rope_, .cache = cache_.get()});
    EXPECT_TRUE(status.ok()) << status;
    status = backend_.RopeAndStore(qkv.view(), padded, rope_, attention_, *cache_);
    EXPECT_TRUE(status.ok()) << status;
    status = backend_.Attend(qkv.view(), padded, attention_, *cache_, out.view());
    EXPECT_TRUE(status.ok()) << status;
    std::vector<float> result = out.copy();
    result.resize(static_cast<size_t>(rows * out_columns));
    turned_ = qkv.copy();
    turned_.resize(static_cast<size_t>(rows * model_.columns()));
    return result;
  }
  const std::vector<float>& turned() const { return turned_; }
  Backend& backend() { return backend_; }
  KvCache& cache() { return *cache_; }

 private:
  Model model_;
  Backend& backend_;
  std::unique_ptr<KvCache> cache_;
  std::vector<int32_t> head_of_;
  std::vector<float> frequencies_;
  AttentionParams attention_;
  RopeParams rope_;
  std::vector<float> turned_;
};

std::vector<int32_t> Blocks(int first, int count) {
  std::vector<int32_t> blocks(static_cast<size_t>(count));
  std::iota(blocks.rbegin(), blocks.rend(), first);  // not in order, as a pool gives them
  return blocks;
}

Chunk MakeChunk(const Model& model, int rows, int64_t position, std::vector<int32_t> blocks, uint64_t seed) {
  return {rows, position, std::move(blocks), RandomFloats(rows * model.columns(), seed)};
}

class CudaAttention : public CudaTest {};

TEST_F(CudaAttention, IsCloseToTheTwinForEveryShapeAndType) {
  const std::vector<Model> models = {{},
                                     {.query_heads = 9, .kv_heads = 3, .head_dim = 64},
                                     {.query_heads = 5, .kv_heads = 2, .head_dim = 24, .interleaved = true},
                                     {.query_heads = 32, .kv_heads = 1, .head_dim = 80, .block_tokens = 32},
                                     {.query_heads = 4, .kv_heads = 4, .head_dim = 128, .sliding_window = 21},
                                     {.query_heads = 3, .kv_heads = 3, .head_dim = 96},
                                     {.query_heads = 2, .kv_heads = 1, .head_dim = 256},
                                     {.query_heads = 3, .kv_heads = 1, .head_dim = 16, .sliding_window = 1}};
  uint64_t seed = 500;
  for (Model model : models) {
    for (const KvType type : {KvType::kF16, KvType::kBF16, KvType::kI8, KvType::kF8}) {
      model.type = type;
      seed += 7;
      const int per = model.block_tokens, need = (70 + per - 1) / per;
      const auto play = [&](Backend& backend) {
        Runner runner(model, backend);
        std::vector<float> all = runner.Step({MakeChunk(model, 37, 0, Blocks(0, need), seed)});
        const std::vector<float> turned = runner.turned();
        const std::vector<float> more = runner.Step({MakeChunk(model, 5, 37, Blocks(0, need), seed + 1),
                                                     MakeChunk(model, 1, 0, Blocks(20, 1), seed + 2)});
        all.insert(all.end(), more.begin(), more.end());
        return std::pair(all, turned);
      };
      const auto cuda = play(*cuda_);
      if (type == KvType::kF8) model.type = KvType::kF32;  // the CPU has no such cache
      const auto cpu = play(*cpu_);
      const double bound = type == KvType::kBF16 ? 1.2e-2 : (type == KvType::kF8 ? 6e-2 : 2e-3);
      EXPECT_LT(RelativeError(cuda.first, cpu.first), bound) << "head " << model.head_dim << " type " << static_cast<int>(type);
      EXPECT_EQ(Difference(cuda.second, cpu.second), "") << "turned queries and keys";
    }
  }
}

// One sequence of 600 tokens (three chunks of positions), its last rows computed in several ways.
TEST_F(CudaAttention, ChunksCompanySplittingAndPaddingChangeNoBit) {
  for (const KvType type : {KvType::kF16, KvType::kI8}) {
    for (const int window : {0, 300}) {
      const Model model{.query_heads = 6, .kv_heads = 2, .head_dim = 64, .type = type, .sliding_window = window};
      constexpr int kRows = 600;
      const std::vector<float> qkv = RandomFloats(kRows * model.columns(), 77);
      const std::vector<int32_t> blocks = Blocks(0, 38);
      const auto part = [&](int begin, int end) {
        return Chunk{end - begin, begin, blocks,
                     {qkv.begin() + begin * model.columns(), qkv.begin() + end * model.columns()}};
      };
      const int64_t columns = static_cast<int64_t>(model.query_heads) * model.head_dim;
      std::vector<float> whole;
      {
        Runner runner(model, *cuda_);
        whole = runner.Step({part(0, kRows)});
      }
      const auto expect = [&](std::span<const float> rows, int begin, const char* what) {
        EXPECT_EQ(Difference(rows, std::span(whole).subspan(static_cast<size_t>(begin * columns), rows.size())), "")
            << what << ", type " << static_cast<int>(type) << ", window " << window;
      };
      Runner runner(model, *cuda_);
      int at = 0;
      for (const int end : {1, 17, 250, 523, 599}) {
        expect(runner.Step({part(at, end)}), at, "chunked");
        at = end;
      }
      expect(runner.Step({part(599, 600)}), 599, "alone");
      expect(runner.Step({part(599, 600)}, 7), 599, "padded");
      // Among others, so many that nothing is split.
      std::vector<Chunk> company = {part(599, 600)};
      for (int i = 0; i < 40; ++i) company.push_back(MakeChunk(model, 1, 0, {40 + i}, 900 + static_cast<uint64_t>(i)));
      std::vector<float> together = runner.Step(company);
      together.resize(static_cast<size_t>(columns));
      expect(together, 599, "among others");
    }
  }
}

TEST_F(CudaAttention, CopiedBlocksHoldTheSameKeysAndValues) {
  const Model model{.type = KvType::kI8};
  Runner runner(model, *cuda_);
  runner.Step({MakeChunk(model, 20, 0, {3, 9}, 5)});
  ASSERT_TRUE(runner.backend().CopyBlocks(std::vector<Backend::BlockCopy>{{3, 50}, {9, 51}}, runner.cache()).ok());
  const Chunk original = MakeChunk(model, 1, 20, {3, 9}, 6), copied{1, 20, {50, 51}, original.qkv};
  EXPECT_EQ(Difference(runner.Step({original}), runner.Step({copied})), "");
  EXPECT_FALSE(runner.backend().CopyBlocks(std::vector<Backend::BlockCopy>{{3, 96}}, runner.cache()).ok());
}

TEST_F(CudaAttention, WrongStepsAreRefused) {
  const Model model;
  auto cache = *cuda_->NewKvCache({.layers = 1, .blocks = 4, .kv_heads = 2, .head_dim = 32});
  const std::vector<int32_t> heads = {0, 0, 0, 1, 1, 1}, outside = {4}, one = {0};
  const std::vector<float> frequencies(16, 1.0f);
  const AttentionParams attention{.query_heads = 6, .kv_heads = 2, .kv_head_of = heads, .head_dim = 32, .softmax_scale = 1};
  const RopeParams rope{.frequencies = frequencies};
  const auto begin = [&](const SequenceRows& rows) {
    return cuda_->BeginStep({.step = {{&rows, 1}, rows.rows}, .attention = &attention, .rope = &rope, .cache = cache.get()});
  };
  EXPECT_TRUE(begin({0, 1, 0, one}).ok());
  EXPECT_FALSE(begin({0, 1, 0, outside}).ok());
  EXPECT_FALSE(begin({0, 17, 0, one}).ok());
  EXPECT_FALSE(begin({0, 1, 16, one}).ok());
  EXPECT_FALSE(cuda_->NewKvCache({.layers = 1, .blocks = 4, .kv_heads = 2, .head_dim = 192}).ok());
  EXPECT_FALSE(cuda_->NewKvCache({.layers = 1, .blocks = 4, .kv_heads = 2, .head_dim = 32, .type = KvType::kF32}).ok());
}

}  // namespace
}  // namespace pagoda::kernels::testing
