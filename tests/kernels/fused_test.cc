// The operations that are several in one give the bits of those operations one after the other, on every instruction set, for
// shapes that they are made for and shapes that they fall back on.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "tests/kernels/reference.h"

namespace pagoda::kernels::testing {
namespace {

std::vector<Isa> AllIsas() {
  std::vector<Isa> isas = VectorIsas();
  isas.insert(isas.begin(), Isa::kScalar);
  return isas;
}

// What a product with `weights` says of an activation: the way to look into one.
std::vector<float> Probe(Backend& backend, const Activation& activation, int64_t rows, int bits) {
  const TestMatrix weights = RandomMatrix(WeightFormat::kQ4_1, 24, activation.columns(), 77);
  const MatrixRows part = weights.view();
  auto matrix = *backend.Pack({&part, 1}, {.activation_bits = bits});
  Values out(backend, rows, 24);
  EXPECT_TRUE(backend.MatMul({matrix.get(), &activation, rows, out.data(), 24, 0}).ok());
  return out.copy();
}

struct Shape {
  WeightFormat format = WeightFormat::kQ4_1;
  int query_heads = 6;
  int kv_heads = 2;
  int head_dim = 64;
  int64_t ffn = 160;
  int64_t rows = 1;
  int threads = 2;
};

class FusedTest : public ::testing::TestWithParam<Shape> {
 protected:
  static constexpr int64_t kHidden = 256;
  std::unique_ptr<PackedMatrix> Pack(Backend& backend, std::vector<int64_t> part_rows, int bits, uint64_t seed) {
    std::vector<TestMatrix> weights;
    for (size_t i = 0; i < part_rows.size(); ++i) {
      weights.push_back(RandomMatrix(GetParam().format, part_rows[i], kHidden, seed + i));
    }
    std::vector<MatrixRows> parts;
    for (const TestMatrix& part : weights) parts.push_back(part.view());
    return *backend.Pack(parts, {.activation_bits = bits});
  }
  std::unique_ptr<Activation> Input(Backend& backend, int64_t rows) {
    auto input = *backend.NewActivation(rows, kHidden, {.f32 = true, .int8 = true, .int12 = true});
    const std::vector<float> x = RandomFloats(rows * kHidden, 3);
    Values in(backend, rows, kHidden, x);
    EXPECT_TRUE(backend.Quantize(in.view(), *input).ok());
    return input;
  }
};

TEST_P(FusedTest, GatedProduct) {
  const Shape& shape = GetParam();
  for (Isa isa : AllIsas()) {
    for (GateKind kind : {GateKind::kSilu, GateKind::kGelu}) {
      auto backend = MakeBackend(isa, shape.threads);
      auto matrix = Pack(*backend, {shape.ffn, shape.ffn}, 8, 11);
      auto input = Input(*backend, shape.rows);
      Values scratch(*backend, shape.rows, 2 * shape.ffn);
      auto separate = *backend->NewActivation(shape.rows, shape.ffn, {.f32 = true, .int8 = true, .int12 = true});
      auto at_once = *backend->NewActivation(shape.rows, shape.ffn, {.f32 = true, .int8 = true, .int12 = true});
      auto quantised_only = *backend->NewActivation(shape.rows, shape.ffn, {.int8 = true});
      ASSERT_TRUE(backend->MatMul({matrix.get(), input.get(), shape.rows, scratch.data(), 2 * shape.ffn, 0}).ok());
      ASSERT_TRUE(backend->GatedActivation(scratch.view(), kind, *separate).ok());
      std::fill_n(scratch.data(), shape.rows * 2 * shape.ffn, std::numeric_limits<float>::quiet_NaN());
      const Backend::GatedMatMulParams params{matrix.get(), input.get(), scratch.view(), kind};
      ASSERT_TRUE(backend->MatMulGated(params, *at_once).ok());
      ASSERT_TRUE(backend->MatMulGated(params, *quantised_only).ok());
      for (int bits : {8, 12}) {
        EXPECT_EQ(Difference(Probe(*backend, *at_once, shape.rows, bits), Probe(*backend, *separate, shape.rows, bits)), "")
            << NameOf(isa) << ", " << bits << " bits";
      }
      EXPECT_EQ(Difference(Probe(*backend, *quantised_only, shape.rows, 8), Probe(*backend, *separate, shape.rows, 8)), "")
          << NameOf(isa);
    }
  }
}

TEST_P(FusedTest, QkvAndAttention) {
  const Shape& shape = GetParam();
  const int64_t query = shape.query_heads * shape.head_dim, kv = shape.kv_heads * shape.head_dim, columns = query + 2 * kv;
  std::vector<int32_t> heads, blocks(static_cast<size_t>(shape.rows + 21) / 16 + 1);
  for (int h = 0; h < shape.query_heads; ++h) heads.push_back(h * shape.kv_heads / shape.query_heads);
  std::iota(blocks.begin(), blocks.end(), 0);
  std::vector<float> frequencies(static_cast<size_t>(shape.head_dim) / 2, 0.3f);
  const RopeParams rope{frequencies, false, 1.0f};
  AttentionParams attention{.layer = 0, .query_heads = shape.query_heads, .kv_heads = shape.kv_heads, .kv_head_of = heads,
                            .head_dim = shape.head_dim, .softmax_scale = 0.125f, .sliding_window = 0};
  for (Isa isa : AllIsas()) {
    for (KvType type : {KvType::kF16, KvType::kI8}) {
      auto backend = MakeBackend(isa, shape.threads);
      auto matrix = Pack(*backend, {query, kv, kv}, 12, 21);
      auto input = Input(*backend, shape.rows);
      const KvShape kv_shape{.layers = 1, .blocks = static_cast<int>(blocks.size()), .kv_heads = shape.kv_heads,
                             .head_dim = shape.head_dim, .block_tokens = 16, .type = type};
      auto separate_cache = *backend->NewKvCache(kv_shape), cache = *backend->NewKvCache(kv_shape);
      Values separate_qkv(*backend, shape.rows, columns), qkv(*backend, shape.rows, columns);
      Values separate_out(*backend, shape.rows, query), out(*backend, shape.rows, query);
      auto separate = *backend->NewActivation(shape.rows, query, {.f32 = true, .int8 = true, .int12 = true});
      auto at_once = *backend->NewActivation(shape.rows, query, {.f32 = true, .int8 = true, .int12 = true});
      for (int64_t position : {0, 20}) {  // the second step reads what the first has stored, too
        const SequenceRows rows{0, static_cast<int>(position == 0 ? std::min<int64_t>(20, shape.rows) : shape.rows), position, blocks};
        if (position != 0 && shape.rows < 20) continue;
        const StepRows step{{&rows, 1}, rows.rows};
        ASSERT_TRUE(backend->MatMul({matrix.get(), input.get(), rows.rows, separate_qkv.data(), columns, 0}).ok());
        ASSERT_TRUE(backend->RopeAndStore(separate_qkv.view(), step, rope, attention, *separate_cache).ok());
        ASSERT_TRUE(backend->Attend(separate_qkv.view(), step, attention, *separate_cache, separate_out.view()).ok());
        ASSERT_TRUE(backend->Quantize(separate_out.view(), *separate).ok());
        ASSERT_TRUE(backend->MatMulRopeAndStore({matrix.get(), input.get(), qkv.view(), step, rope, attention}, *cache).ok());
        ASSERT_TRUE(backend->AttendAndQuantize(qkv.view(), step, attention, *cache, out.view(), *at_once).ok());
        EXPECT_EQ(Difference(out.copy(), separate_out.copy()), "") << NameOf(isa) << " at " << position;
        for (int bits : {8, 12}) {
          EXPECT_EQ(Difference(Probe(*backend, *at_once, rows.rows, bits), Probe(*backend, *separate, rows.rows, bits)), "")
              << NameOf(isa) << ", " << bits << " bits";
        }
      }
    }
  }
}

TEST_P(FusedTest, LargestOfAProduct) {
  const Shape& shape = GetParam();
  const int64_t vocabulary = 1000;  // no whole number of tiles
  for (Isa isa : AllIsas()) {
    auto backend = MakeBackend(isa, shape.threads);
    auto matrix = Pack(*backend, {vocabulary}, 12, 31);
    auto input = Input(*backend, shape.rows);
    Values logits(*backend, shape.rows, vocabulary);
    const Backend::MatMulParams params{matrix.get(), input.get(), shape.rows, logits.data(), vocabulary, 0};
    ASSERT_TRUE(backend->MatMul(params).ok());
    const std::vector<float> expected = logits.copy();
    std::vector<Backend::Largest> largest(static_cast<size_t>(shape.rows));
    ASSERT_TRUE(backend->MatMulLargest(params, largest).ok());
    for (int64_t r = 0; r < shape.rows; ++r) {
      const float* row = expected.data() + r * vocabulary;
      const float* best = std::max_element(row, row + vocabulary);  // the first of equals
      EXPECT_EQ(largest[r].index, best - row) << NameOf(isa) << " row " << r;
      EXPECT_EQ(largest[r].value, *best);
    }
  }
}

TEST(Largest, LowestOfEqualsAndNeverNan) {
  for (Isa isa : AllIsas()) {
    auto backend = MakeBackend(isa, 2);
    // Rows of the weights repeat, so that equals lie in different tiles and different threads' parts.
    TestMatrix weights = RandomMatrix(WeightFormat::kF32, 64, 32, 5);
    std::vector<std::byte> repeated;
    for (int i = 0; i < 20; ++i) repeated.insert(repeated.end(), weights.data.begin(), weights.data.end());
    const MatrixRows part{WeightFormat::kF32, 64 * 20, 32, repeated.data()};
    auto matrix = *backend->Pack({&part, 1}, {});
    auto input = *backend->NewActivation(2, 32, {.f32 = true});
    std::vector<float> x = RandomFloats(64, 9);
    x[40] = std::numeric_limits<float>::quiet_NaN();
    Values in(*backend, 2, 32, x), logits(*backend, 2, 64 * 20);
    ASSERT_TRUE(backend->Quantize(in.view(), *input).ok());
    std::vector<Backend::Largest> largest(2);
    ASSERT_TRUE(backend->MatMulLargest({matrix.get(), input.get(), 2, logits.data(), 64 * 20, 0}, largest).ok());
    EXPECT_GE(largest[0].index, 0);
    EXPECT_LT(largest[0].index, 64) << NameOf(isa);
    EXPECT_EQ(largest[1].index, -1) << NameOf(isa) << ": all are NaN";
  }
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, FusedTest,
    ::testing::Values(Shape{}, Shape{.rows = 3}, Shape{.rows = 37}, Shape{.rows = 131}, Shape{.rows = 40, .threads = 1},
                      Shape{.format = WeightFormat::kQ6_K, .rows = 21}, Shape{.format = WeightFormat::kQ8_0, .rows = 2},
                      Shape{.format = WeightFormat::kBF16, .rows = 22},
                      // Fall back: heads that are no whole tiles or blocks, columns that are no whole blocks of 32.
                      Shape{.query_heads = 2, .head_dim = 128, .rows = 25}, Shape{.head_dim = 48, .rows = 20},
                      Shape{.query_heads = 8, .head_dim = 24, .rows = 20}, Shape{.query_heads = 8, .kv_heads = 8, .rows = 23}));

}  // namespace
}  // namespace pagoda::kernels::testing
