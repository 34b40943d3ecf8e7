// Matrix products: every format, every instruction set, against the scalar twin to the bit; the scalar twin against doubles.
#include <gtest/gtest.h>

#include <cmath>

#include "tests/kernels/reference.h"

namespace pagoda::kernels::testing {
namespace {

struct Product {
  std::vector<TestMatrix> parts = {};
  PackOptions options = {};
  int64_t tokens = 1;
  uint64_t seed = 1;
  Isa isa = Isa::kScalar;
  int threads = 1;
};

struct Result {
  std::vector<float> values = {};  // [planes][tokens][rows]
  int64_t rows = 0;
  int planes = 0;
};

Result Multiply(const Product& product) {
  auto backend = MakeBackend(product.isa, product.threads);
  std::vector<MatrixRows> parts = {};
  for (const TestMatrix& part : product.parts) parts.push_back(part.view());
  auto matrix = backend->Pack(parts, product.options);
  EXPECT_TRUE(matrix.ok()) << matrix.status();
  if (!matrix.ok()) return {};
  const int64_t columns = (*matrix)->columns();
  auto input = *backend->NewActivation(product.tokens, columns, {.f32 = true, .int8 = true, .int12 = true});
  const std::vector<float> x = RandomFloats(product.tokens * columns, product.seed ^ 99);
  Values in(*backend, product.tokens, columns, x);
  EXPECT_TRUE(backend->Quantize(in.view(), *input).ok());
  Result result;
  result.rows = (*matrix)->rows();
  result.planes = (*matrix)->planes();
  const int64_t stride = result.rows + 5, plane = product.tokens * stride;
  Values out(*backend, result.planes * product.tokens, stride);
  std::fill_n(out.data(), result.planes * plane, -7.0f);
  const absl::Status status = backend->MatMul({.matrix = matrix->get(),
                                               .input = input.get(),
                                               .rows = product.tokens,
                                               .out = out.data(),
                                               .row_stride = stride,
                                               .plane_stride = plane});
  EXPECT_TRUE(status.ok()) << status;
  for (int64_t r = 0; r < result.planes * product.tokens; ++r) {
    const float* row = out.data() + r * stride;
    result.values.insert(result.values.end(), row, row + result.rows);
    for (int i = 0; i < 5; ++i) EXPECT_EQ(row[result.rows + i], -7.0f) << "wrote past the row";
  }
  return result;
}

class FormatTest : public ::testing::TestWithParam<WeightFormat> {
 protected:
  int64_t Unit() const { return IsFloat(GetParam()) ? 32 : BlockColumns(GetParam()); }
};

TEST_P(FormatTest, ScalarIsCloseToDoubles) {
  const int64_t rows = 5, columns = Unit() * 3, tokens = 3;
  const TestMatrix weights = RandomMatrix(GetParam(), rows, columns, 5);
  auto backend = MakeBackend(Isa::kScalar);
  Values dense(*backend, rows, columns);
  const std::vector<int32_t> all = {0, 1, 2, 3, 4};
  ASSERT_TRUE(backend->Embed(weights.view(), all, dense.view()).ok());
  for (int bits : {8, 12}) {
    const Result result = Multiply({.parts = {weights}, .options = {.activation_bits = bits}, .tokens = tokens, .seed = 5});
    const std::vector<float> x = RandomFloats(tokens * columns, 5 ^ 99);
    for (int64_t t = 0; t < tokens; ++t) {
      for (int64_t n = 0; n < rows; ++n) {
        double exact = 0, bound = 0, absolute = 0;
        for (int64_t b = 0; b < columns / 32; ++b) {
          double top = 0, weight = 0;
          for (int64_t k = b * 32; k < b * 32 + 32; ++k) {
            const double w = dense.data()[n * columns + k], v = x[t * columns + k];
            exact += w * v;
            absolute += std::fabs(w * v);
            top = std::max(top, std::fabs(v));
            weight += std::fabs(w);
          }
          if (!IsFloat(GetParam())) bound += top / (bits == 8 ? 127 : 2047) / 2 * weight;
        }
        EXPECT_NEAR(result.values[t * rows + n], exact, bound * 1.001 + absolute * 2e-5) << bits << " bits";
      }
    }
  }
}

TEST_P(FormatTest, EveryInstructionSetGivesTheScalarBits) {
  uint64_t seed = 1000 + static_cast<uint64_t>(GetParam());
  for (int bits : {8, 12}) {
    for (int64_t rows : {1, 15, 16, 17, 33, 40, 64, 81}) {
      for (int64_t tokens : {1, 2, 3, 4, 5, 7, 13, 33}) {
        if (tokens > 7 && rows > 40) continue;
        const int64_t columns = Unit() * (1 + static_cast<int64_t>(++seed % 3));
        Product product{.parts = {RandomMatrix(GetParam(), rows, columns, seed)}, .tokens = tokens, .seed = seed};
        product.options.activation_bits = bits;
        const Result expected = Multiply(product);
        for (Isa isa : VectorIsas()) {
          product.isa = isa;
          ASSERT_EQ(Difference(Multiply(product).values, expected.values), "")
              << NameOf(isa) << ", " << bits << " bits, " << rows << "x" << columns << ", " << tokens << " tokens, seed "
              << seed;
        }
      }
    }
  }
}

TEST_P(FormatTest, ShardsInsideSuperBlocksGiveTheScalarBits) {
  // Cuts at 32 columns from the middle of a super-block on.
  for (int shards = 1; shards <= 9; ++shards) {
    const int64_t columns = 512;
    Product product{.parts = {RandomMatrix(GetParam(), 20, columns, 70 + shards)}, .tokens = 3, .seed = 9};
    for (int i = 0; i <= shards; ++i) product.options.shard_columns.push_back(64 + 32 * i + (i > 2 ? 32 : 0));
    std::vector<float> bias = RandomFloats(20, 3);
    product.options.bias = bias;
    const Result expected = Multiply(product);
    for (Isa isa : VectorIsas()) {
      product.isa = isa;
      ASSERT_EQ(Difference(Multiply(product).values, expected.values), "") << NameOf(isa) << ", shards " << shards;
    }
  }
}

std::string FormatName(const ::testing::TestParamInfo<WeightFormat>& info) { return NameOfFormat(info.param); }
INSTANTIATE_TEST_SUITE_P(All, FormatTest, ::testing::ValuesIn(kAllFormats), FormatName);

std::vector<Isa> AllIsas() {
  std::vector<Isa> isas = VectorIsas();
  isas.push_back(Isa::kScalar);
  return isas;
}

TEST(MatMul, StackedPartsOfUnlikeFormatsAreThePartsOneByOne) {
  const std::vector<TestMatrix> parts = {RandomMatrix(WeightFormat::kQ4_1, 19, 256, 1),
                                         RandomMatrix(WeightFormat::kQ6_K, 16, 256, 2),
                                         RandomMatrix(WeightFormat::kF16, 3, 256, 3)};
  for (Isa isa : AllIsas()) {
    const Result whole = Multiply({.parts = parts, .tokens = 4, .seed = 4, .isa = isa});
    int64_t first = 0;
    for (const TestMatrix& part : parts) {
      const Result one = Multiply({.parts = {part}, .tokens = 4, .seed = 4, .isa = isa});
      for (int t = 0; t < 4; ++t) {
        for (int64_t n = 0; n < part.rows; ++n) {
          ASSERT_EQ(whole.values[t * whole.rows + first + n], one.values[t * part.rows + n]);
        }
      }
      first += part.rows;
    }
  }
}

// Every way to give the shards to two ranks, their planes added as the tree says, is the one-rank result.
TEST(MatMul, PlanesOfTwoRanksAddUpToTheOneRankBits) {
  for (Isa isa : AllIsas()) {
    for (int shards = 2; shards <= 9; ++shards) {
      const TestMatrix weights = RandomMatrix(WeightFormat::kQ4_1, 33, 64 * shards, shards);
      std::vector<int64_t> cuts = {};
      for (int i = 0; i <= shards; ++i) cuts.push_back(64 * i);
      auto backend = MakeBackend(isa);
      const int64_t tokens = 5;
      const std::vector<float> x = RandomFloats(tokens * 64 * shards, 77);
      const auto part = [&](int begin, int end, const std::vector<ShardRange>& planes) {
        PackOptions options;
        options.shard_columns.assign(cuts.begin() + begin, cuts.begin() + end + 1);
        options.planes = planes;
        options.first_shard = begin;
        const MatrixRows view = weights.view();
        auto matrix = *backend->Pack({&view, 1}, options);
        const int64_t columns = matrix->columns();
        std::vector<float> mine = {};
        for (int64_t t = 0; t < tokens; ++t) {
          const float* row = x.data() + t * 64 * shards + cuts[begin];
          mine.insert(mine.end(), row, row + columns);
        }
        auto input = *backend->NewActivation(tokens, columns, {.int8 = true});
        Values in(*backend, tokens, columns, mine);
        EXPECT_TRUE(backend->Quantize(in.view(), *input).ok());
        Values out(*backend, tokens * matrix->planes(), 33);
        EXPECT_TRUE(backend->MatMul({matrix.get(), input.get(), tokens, out.data(), 33, tokens * 33}).ok());
        return out.copy();
      };
      const std::vector<float> whole = part(0, shards, {});
      for (int cut = 1; cut < shards; ++cut) {
        std::vector<ShardRange> planes = OwnedSubtrees(shards, {0, cut});
        std::vector<float> values = part(0, cut, planes);
        const std::vector<ShardRange> right = OwnedSubtrees(shards, {cut, shards});
        const std::vector<float> more = part(cut, shards, right);
        planes.insert(planes.end(), right.begin(), right.end());
        values.insert(values.end(), more.begin(), more.end());
        const std::vector<int> adds = AddsAfterPlane(shards, planes);
        Values residual(*backend, tokens, 33), all(*backend, static_cast<int64_t>(planes.size()) * tokens, 33, values);
        std::vector<const float*> pointers = {};
        for (size_t p = 0; p < planes.size(); ++p) pointers.push_back(all.data() + p * tokens * 33);
        ASSERT_TRUE(backend->AddNorm({.residual = residual.view(), .planes = pointers, .adds_after_plane = adds}).ok());
        ASSERT_EQ(Difference(residual.copy(), whole), "") << NameOf(isa) << " shards " << shards << " cut " << cut;
      }
    }
  }
}

TEST(MatMul, ARowIsTheSameAloneAndInABatchAndOnAnyNumberOfThreads) {
  for (WeightFormat format : {WeightFormat::kQ4_1, WeightFormat::kQ8_0, WeightFormat::kQ6_K, WeightFormat::kF16}) {
    for (Isa isa : AllIsas()) {
      const TestMatrix weights = RandomMatrix(format, 100, 256, 8);
      Product product{.parts = {weights}, .tokens = 33, .seed = 6, .isa = isa};
      const Result batch = Multiply(product);
      for (int threads : {2, 3}) {
        product.threads = threads;
        ASSERT_EQ(Difference(Multiply(product).values, batch.values), "") << NameOf(isa) << " " << threads << " threads";
      }
      // Inputs are drawn in row order: the first rows of a longer batch are those of a shorter one.
      product.threads = 1;
      for (int64_t tokens : {1, 2, 6, 14}) {
        product.tokens = tokens;
        const Result few = Multiply(product);
        ASSERT_EQ(Difference(few.values, std::span(batch.values).first(few.values.size())), "") << NameOf(isa);
      }
    }
  }
}

TEST(MatMul, AmxTestsReachTheTiles) {
  if (!IsaSupported(Isa::kAvx512) || IsaSupported(Isa::kAmx)) GTEST_SKIP() << "no emulation on this machine";
  const int64_t before = EmulatedTileProducts();
  Multiply({.parts = {RandomMatrix(WeightFormat::kQ4_1, 33, 96, 1)}, .tokens = 40, .isa = Isa::kAmx});
  EXPECT_EQ(EmulatedTileProducts() - before, 2 * 2 * 3);  // pairs of tiles, pairs of token groups, blocks
}

TEST(MatMul, NonFiniteInputShowsInItsRowOnly) {
  for (Isa isa : AllIsas()) {
    auto backend = MakeBackend(isa);
    const TestMatrix weights = RandomMatrix(WeightFormat::kQ8_0, 16, 64, 8);
    const MatrixRows view = weights.view();
    auto matrix = *backend->Pack({&view, 1}, {});
    std::vector<float> x = RandomFloats(3 * 64, 1);
    x[64 + 40] = INFINITY;
    Values in(*backend, 3, 64, x), out(*backend, 3, 16);
    auto input = *backend->NewActivation(3, 64, {.int8 = true});
    ASSERT_TRUE(backend->Quantize(in.view(), *input).ok());
    ASSERT_TRUE(backend->MatMul({matrix.get(), input.get(), 3, out.data(), 16, 0}).ok());
    for (int i = 0; i < 48; ++i) EXPECT_EQ(std::isnan(out.data()[i]), i / 16 == 1) << i;
  }
}

TEST(MatMul, RefusesWhatDoesNotFit) {
  auto backend = MakeBackend(Isa::kScalar);
  const TestMatrix weights = RandomMatrix(WeightFormat::kQ8_0, 16, 64, 8);
  MatrixRows view = weights.view();
  EXPECT_FALSE(backend->Pack({}, {}).ok());
  EXPECT_FALSE(backend->Pack({&view, 1}, {.shard_columns = {0, 48}}).ok());
  EXPECT_FALSE(backend->Pack({&view, 1}, {.shard_columns = {0, 96}}).ok());
  EXPECT_FALSE(backend->Pack({&view, 1}, {.shard_columns = {0, 32, 64}, .planes = {{0, 1}}}).ok());
  EXPECT_FALSE(backend->Pack({&view, 1}, {.activation_bits = 9}).ok());
  const std::vector<float> bias(3);
  EXPECT_FALSE(backend->Pack({&view, 1}, {.bias = bias}).ok());
  auto matrix = *backend->Pack({&view, 1}, {});
  auto f32_only = *backend->NewActivation(2, 64, {.f32 = true});
  auto narrow = *backend->NewActivation(2, 32, {.int8 = true});
  Values out(*backend, 4, 16);
  EXPECT_FALSE(backend->MatMul({matrix.get(), f32_only.get(), 2, out.data(), 16, 0}).ok());
  EXPECT_FALSE(backend->MatMul({matrix.get(), narrow.get(), 2, out.data(), 16, 0}).ok());
  EXPECT_TRUE(backend->MatMul({matrix.get(), f32_only.get(), 0, out.data(), 16, 0}).ok());
}

}  // namespace
}  // namespace pagoda::kernels::testing
