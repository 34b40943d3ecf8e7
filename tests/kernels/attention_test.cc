// Rope, KV storage and attention: every instruction set, KV type and shape against the scalar twin to the bit; the scalar
// twin against doubles; and the promises of design section 5 (chunks, company, threads).
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "tests/kernels/reference.h"

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

// Runs sequences through rope, storage and attention, in steps of given row counts.
class Runner {
 public:
  Runner(const Model& model, Isa isa, int threads, int blocks = 64) : model_(model), backend_(MakeBackend(isa, threads)) {
    cache_ = *backend_->NewKvCache({.layers = 2,
                                    .blocks = blocks,
                                    .kv_heads = model.kv_heads,
                                    .head_dim = model.head_dim,
                                    .block_tokens = model.block_tokens,
                                    .type = model.type});
    for (int h = 0; h < model.query_heads; ++h) head_of_.push_back(h * model.kv_heads / model.query_heads);
    for (int i = 0; i < model.head_dim / 2; ++i) frequencies_.push_back(std::pow(10000.0f, -2.0f * i / model.head_dim));
  }

  struct Chunk {
    int rows = 0;
    int64_t position = 0;
    std::vector<int32_t> blocks = {};
    std::vector<float> qkv = {};
  };
  // The attention of each chunk's rows, chunk after chunk.
  std::vector<float> Step(const std::vector<Chunk>& chunks) {
    std::vector<SequenceRows> sequences;
    std::vector<float> all;
    int rows = 0;
    for (const Chunk& chunk : chunks) {
      sequences.push_back({rows, chunk.rows, chunk.position, chunk.blocks});
      all.insert(all.end(), chunk.qkv.begin(), chunk.qkv.end());
      rows += chunk.rows;
    }
    const StepRows step{sequences, rows};
    Values qkv(*backend_, rows, model_.columns(), all);
    Values out(*backend_, rows, static_cast<int64_t>(model_.query_heads) * model_.head_dim);
    AttentionParams attention;
    attention.layer = 1;
    attention.query_heads = model_.query_heads;
    attention.kv_heads = model_.kv_heads;
    attention.kv_head_of = head_of_;
    attention.head_dim = model_.head_dim;
    attention.softmax_scale = 1.0f / std::sqrt(static_cast<float>(model_.head_dim));
    attention.sliding_window = model_.sliding_window;
    const RopeParams rope{frequencies_, model_.interleaved, 1.0f};
    EXPECT_TRUE(backend_->RopeAndStore(qkv.view(), step, rope, attention, *cache_).ok());
    EXPECT_TRUE(backend_->Attend(qkv.view(), step, attention, *cache_, out.view()).ok());
    turned_ = qkv.copy();
    return out.copy();
  }
  const std::vector<float>& turned() const { return turned_; }
  Backend& backend() { return *backend_; }
  KvCache& cache() { return *cache_; }
  const std::vector<float>& frequencies() const { return frequencies_; }

 private:
  Model model_;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<KvCache> cache_;
  std::vector<int32_t> head_of_;
  std::vector<float> frequencies_;
  std::vector<float> turned_;
};

std::vector<int32_t> Blocks(int first, int count) {
  std::vector<int32_t> blocks(count);
  std::iota(blocks.rbegin(), blocks.rend(), first);  // not in order, as a pool gives them
  return blocks;
}

Runner::Chunk MakeChunk(const Model& model, int rows, int64_t position, std::vector<int32_t> blocks, uint64_t seed) {
  return {rows, position, std::move(blocks), RandomFloats(rows * model.columns(), seed)};
}

TEST(Attention, ScalarIsCloseToDoubles) {
  for (int window : {0, 20}) {
    const Model model{.type = KvType::kF32, .sliding_window = window};
    const int rows = 37, dim = model.head_dim;
    Runner runner(model, Isa::kScalar, 1);
    const std::vector<float> out = runner.Step({MakeChunk(model, rows, 0, Blocks(0, 3), 5)});
    const std::vector<float>& x = runner.turned();
    const std::vector<float> before = RandomFloats(rows * model.columns(), 5);
    const int64_t columns = model.columns();
    for (int r = 0; r < rows; ++r) {
      for (int i = 0; i < dim / 2; ++i) {  // rope of head 0
        const double angle = r * runner.frequencies()[i], a = before[r * columns + i], b = before[r * columns + i + dim / 2];
        ASSERT_NEAR(x[r * columns + i], a * std::cos(angle) - b * std::sin(angle), 1e-5);
        ASSERT_NEAR(x[r * columns + i + dim / 2], b * std::cos(angle) + a * std::sin(angle), 1e-5);
      }
      for (int h = 0; h < model.query_heads; ++h) {
        const int kv = h * model.kv_heads / model.query_heads;
        std::vector<double> weights(r + 1, 0.0);
        double total = 0;
        for (int j = window > 0 ? std::max(0, r - window + 1) : 0; j <= r; ++j) {
          double dot = 0;
          for (int d = 0; d < dim; ++d) {
            dot += static_cast<double>(x[r * columns + h * dim + d]) * x[j * columns + (model.query_heads + kv) * dim + d];
          }
          weights[j] = std::exp(dot / std::sqrt(dim));
          total += weights[j];
        }
        for (int d = 0; d < dim; ++d) {
          double value = 0;
          for (int j = 0; j <= r; ++j) {
            value += weights[j] / total * x[j * columns + (model.query_heads + model.kv_heads + kv) * dim + d];
          }
          ASSERT_NEAR(out[(r * model.query_heads + h) * dim + d], value, 1e-5) << "row " << r << " head " << h;
        }
      }
    }
  }
}

TEST(Attention, EveryInstructionSetGivesTheScalarBits) {
  uint64_t seed = 500;
  const std::vector<Model> models = {{},
                                     {.query_heads = 9, .kv_heads = 3, .head_dim = 64},
                                     {.query_heads = 5, .kv_heads = 2, .head_dim = 24, .interleaved = true},
                                     {.query_heads = 32, .kv_heads = 1, .head_dim = 80, .block_tokens = 32},
                                     {.query_heads = 4, .kv_heads = 4, .head_dim = 128, .sliding_window = 21},
                                     {.query_heads = 3, .kv_heads = 1, .head_dim = 16, .sliding_window = 1}};
  for (Model model : models) {
    for (KvType type : {KvType::kF32, KvType::kF16, KvType::kBF16, KvType::kI8}) {
      model.type = type;
      ++seed;
      const int per = model.block_tokens;
      const auto play = [&](Isa isa, int threads) {
        Runner runner(model, isa, threads);
        // Two prompts in chunks, then a mixed step of a chunk and two single rows.
        std::vector<float> all = runner.Step({MakeChunk(model, 19, 0, Blocks(0, 96 / per), seed), MakeChunk(model, 40, 0, Blocks(10, 96 / per), seed + 1)});
        const std::vector<float> more = runner.Step({MakeChunk(model, 1, 19, Blocks(0, 96 / per), seed + 2), MakeChunk(model, 17, 40, Blocks(10, 96 / per), seed + 3),
                                                     MakeChunk(model, 1, 0, Blocks(20, 1), seed + 4)});
        all.insert(all.end(), more.begin(), more.end());
        all.insert(all.end(), runner.turned().begin(), runner.turned().end());
        return all;
      };
      const std::vector<float> expected = play(Isa::kScalar, 1);
      for (float value : expected) ASSERT_TRUE(std::isfinite(value));
      EXPECT_EQ(Difference(play(Isa::kScalar, 3), expected), "");
      for (Isa isa : VectorIsas()) {
        for (int threads : {1, 2}) {
          ASSERT_EQ(Difference(play(isa, threads), expected), "")
              << NameOf(isa) << ", head dim " << model.head_dim << ", type " << static_cast<int>(type) << ", seed " << seed;
        }
      }
    }
  }
}

std::vector<Isa> AllIsas() {
  std::vector<Isa> isas = VectorIsas();
  isas.push_back(Isa::kScalar);
  return isas;
}

TEST(Attention, OnePromptChunkIsFive) {
  for (Isa isa : AllIsas()) {
    for (KvType type : {KvType::kF16, KvType::kI8}) {
      const Model model{.type = type};
      const std::vector<int32_t> blocks = Blocks(0, 5);
      const Runner::Chunk whole = MakeChunk(model, 70, 0, blocks, 8);
      Runner at_once(model, isa, 2);
      const std::vector<float> expected = at_once.Step({whole});
      Runner in_parts(model, isa, 2);
      std::vector<float> parts;
      int64_t position = 0;
      for (int rows : {16, 1, 30, 7, 16}) {
        Runner::Chunk chunk{rows, position, blocks, {}};
        chunk.qkv.assign(whole.qkv.begin() + position * model.columns(), whole.qkv.begin() + (position + rows) * model.columns());
        // In company: another sequence's rows in the same step.
        const std::vector<float> out = in_parts.Step({MakeChunk(model, 3, 0, Blocks(30, 1), position), chunk});
        const int64_t other = 3 * model.query_heads * model.head_dim;
        parts.insert(parts.end(), out.begin() + other, out.end());
        position += rows;
      }
      ASSERT_EQ(Difference(parts, expected), "") << NameOf(isa);
    }
  }
}

// Decoding: a few query vectors over tiles taken together, and the rest of the context tile by tile.
TEST(Attention, FewRowsOverLongContextsGiveTheScalarBits) {
  const std::vector<Model> models = {{.query_heads = 9, .kv_heads = 3, .head_dim = 64},
                                     {.query_heads = 5, .kv_heads = 1, .head_dim = 24},
                                     {.query_heads = 4, .kv_heads = 4, .head_dim = 128},
                                     {.query_heads = 6, .kv_heads = 1, .head_dim = 80, .sliding_window = 100}};
  for (Model model : models) {
    for (KvType type : {KvType::kF32, KvType::kF16, KvType::kBF16, KvType::kI8}) {
      model.type = type;
      const std::vector<int32_t> first = Blocks(0, 16), second = Blocks(20, 16);
      const auto play = [&](Isa isa, int threads) {
        Runner runner(model, isa, threads);
        std::vector<float> all = runner.Step({MakeChunk(model, 200, 0, first, 61), MakeChunk(model, 62, 0, second, 62)});
        all.clear();
        for (int64_t i = 0; i < 3; ++i) {  // the second context passes 64 positions
          const std::vector<float> out = runner.Step({MakeChunk(model, 1, 200 + i, first, 63 + i), MakeChunk(model, 1, 62 + i, second, 70 + i)});
          all.insert(all.end(), out.begin(), out.end());
        }
        // Alone, so that heads of one KV head go to different threads, and two rows at once.
        const std::vector<float> alone = runner.Step({MakeChunk(model, 2, 203, first, 80)});
        all.insert(all.end(), alone.begin(), alone.end());
        return all;
      };
      const std::vector<float> expected = play(Isa::kScalar, 1);
      for (Isa isa : VectorIsas()) {
        for (int threads : {1, 2}) {
          ASSERT_EQ(Difference(play(isa, threads), expected), "")
              << NameOf(isa) << ", head dim " << model.head_dim << ", type " << static_cast<int>(type);
        }
      }
    }
  }
}

// A block that another sequence left full of NaN must not reach a new one.
TEST(Attention, NeverReadsWhatAnotherSequenceLeftBehind) {
  for (Isa isa : AllIsas()) {
    const Model model;
    Runner clean(model, isa, 1), dirty(model, isa, 1);
    Runner::Chunk bad = MakeChunk(model, 32, 0, Blocks(0, 2), 1);
    std::fill(bad.qkv.begin(), bad.qkv.end(), NAN);
    dirty.Step({bad});
    const Runner::Chunk good = MakeChunk(model, 21, 0, Blocks(0, 2), 2);
    ASSERT_EQ(Difference(dirty.Step({good}), clean.Step({good})), "") << NameOf(isa);
  }
}

TEST(Attention, CopiedBlocksReadTheSame) {
  for (Isa isa : AllIsas()) {
    const Model model{.type = KvType::kI8};
    Runner runner(model, isa, 1);
    const Runner::Chunk prompt = MakeChunk(model, 30, 0, Blocks(0, 2), 3);
    runner.Step({prompt});
    const std::vector<Backend::BlockCopy> copies = {{0, 7}, {1, 8}};
    ASSERT_TRUE(runner.backend().CopyBlocks(copies, runner.cache()).ok());
    const std::vector<float> original = runner.Step({MakeChunk(model, 1, 30, Blocks(0, 2), 4)});
    const std::vector<float> copied = runner.Step({MakeChunk(model, 1, 30, Blocks(7, 2), 4)});
    ASSERT_EQ(Difference(copied, original), "") << NameOf(isa);
    const std::vector<Backend::BlockCopy> wrong = {{0, 64}};
    EXPECT_FALSE(runner.backend().CopyBlocks(wrong, runner.cache()).ok());
  }
}

TEST(Attention, RefusesRowsOutsideTheirBlocks) {
  const Model model;
  Runner runner(model, Isa::kScalar, 1);
  Values qkv(runner.backend(), 4, model.columns()), out(runner.backend(), 4, 6 * 32);
  const std::vector<int32_t> heads = {0, 0, 0, 1, 1, 1}, one = {3}, wrong = {64};
  AttentionParams attention;
  attention.query_heads = 6, attention.kv_heads = 2, attention.kv_head_of = heads, attention.head_dim = 32;
  const auto attend = [&](int rows, int64_t position, const std::vector<int32_t>& blocks) {
    const SequenceRows sequence{0, rows, position, blocks};
    return runner.backend().Attend(qkv.view(), {{&sequence, 1}, rows}, attention, runner.cache(), out.view()).ok();
  };
  EXPECT_TRUE(attend(4, 12, one));
  EXPECT_FALSE(attend(4, 13, one));
  EXPECT_FALSE(attend(1, 0, wrong));
  EXPECT_FALSE(attend(1, -1, one));
  attention.layer = 2;
  EXPECT_FALSE(attend(1, 0, one));
}

TEST(KvCache, CountsItsBytes) {
  const KvShape shape{.layers = 30, .blocks = 10, .kv_heads = 3, .head_dim = 64};
  EXPECT_EQ(KvBlockBytes(shape), 30u * 3 * 2 * 16 * 64 * 2);
  auto backend = MakeBackend(Isa::kScalar);
  EXPECT_EQ((*backend->NewKvCache(shape))->bytes(), 10 * KvBlockBytes(shape));
  EXPECT_FALSE(backend->NewKvCache({.layers = 1, .blocks = 1, .kv_heads = 1, .head_dim = 64, .block_tokens = 8}).ok());
}

}  // namespace
}  // namespace pagoda::kernels::testing
