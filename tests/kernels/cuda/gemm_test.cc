// Matrix products on CUDA: every weight format against the CPU twin on odd shapes; exact where one block leaves no order of sums;
// the same bits whatever the number of tokens, and however shards are spread over ranks.
#include "tests/kernels/cuda/pair.h"

namespace pagoda::kernels::testing {
namespace {

struct Product {
  std::vector<TestMatrix> parts;
  PackOptions options = {};
  int64_t tokens = 1;
  std::vector<float> input;  // [tokens, columns]
};

struct Result {
  std::vector<float> values;  // [planes][tokens][rows]
};

Result Multiply(Backend& backend, const Product& product) {
  std::vector<MatrixRows> parts;
  for (const TestMatrix& part : product.parts) parts.push_back(part.view());
  auto matrix = backend.Pack(parts, product.options);
  EXPECT_TRUE(matrix.ok()) << matrix.status();
  if (!matrix.ok()) return {};
  const int64_t columns = (*matrix)->columns(), rows = (*matrix)->rows();
  ActivationForms forms;
  (*matrix)->AddForms(forms);
  for (const TestMatrix& part : product.parts) forms.f32 |= part.format == WeightFormat::kF32;
  auto input = backend.NewActivation(product.tokens, columns, forms);
  EXPECT_TRUE(input.ok()) << input.status();
  Held in(backend, product.tokens, columns, std::span(product.input).first(static_cast<size_t>(product.tokens * columns)));
  EXPECT_TRUE(backend.Quantize(in.view(), **input).ok());
  const int planes = (*matrix)->planes();
  const int64_t stride = rows + 5, plane = product.tokens * stride;
  const std::vector<float> before(static_cast<size_t>(planes * plane), -7.0f);
  Held out(backend, planes * product.tokens, stride, before);
  const absl::Status status = backend.MatMul({.matrix = matrix->get(), .input = input->get(), .rows = product.tokens,
                                              .out = out.data(), .row_stride = stride, .plane_stride = plane});
  EXPECT_TRUE(status.ok()) << status;
  const std::vector<float> all = out.copy();
  Result result;
  for (int64_t r = 0; r < planes * product.tokens; ++r) {
    const float* row = all.data() + r * stride;
    result.values.insert(result.values.end(), row, row + rows);
    for (int i = 0; i < 5; ++i) EXPECT_EQ(row[rows + i], -7.0f) << "wrote past the row";
  }
  return result;
}

double Bound(WeightFormat format) {
  if (format == WeightFormat::kBF16) return 5e-3;  // inputs in 8 bits of mantissa
  if (format == WeightFormat::kF16) return 1e-3;
  return 1e-5;
}

class CudaGemm : public CudaTest, public ::testing::WithParamInterface<WeightFormat> {};

TEST_P(CudaGemm, OneBlockOfColumnsIsTheTwinToTheBit) {
  const WeightFormat format = GetParam();
  if (format == WeightFormat::kF16 || format == WeightFormat::kBF16) GTEST_SKIP() << "inputs are rounded to 16 bits";
  // 32 columns, and for K-quants the first 32 of a super-block: a shard of its own.
  const int64_t columns = std::max(32, BlockColumns(format));
  for (const int bits : {8, 12}) {
    Product product{.parts = {RandomMatrix(format, 37, columns, 3)}, .tokens = 11, .input = RandomFloats(11 * 32, 4)};
    product.options.activation_bits = bits;
    product.options.shard_columns = {columns - 32, columns};
    EXPECT_EQ(Difference(Multiply(*cuda_, product).values, Multiply(*cpu_, product).values), "") << bits;
  }
}

TEST_P(CudaGemm, OddShapesAreCloseToTheTwin) {
  const WeightFormat format = GetParam();
  struct Shape {
    int64_t rows, columns, tokens;
  };
  for (const Shape& shape : std::vector<Shape>{{16, 256, 1}, {40, 512, 3}, {7, 768, 9}, {131, 256, 17}, {150, 1280, 33}, {33, 512, 130}}) {
    for (const int bits : {8, 12}) {
      Product product{.parts = {RandomMatrix(format, shape.rows, shape.columns, 5)}, .tokens = shape.tokens,
                      .input = RandomFloats(shape.tokens * shape.columns, 6)};
      product.options.activation_bits = bits;
      const Result actual = Multiply(*cuda_, product), expected = Multiply(*cpu_, product);
      EXPECT_LT(RelativeError(actual.values, expected.values), Bound(format))
          << shape.rows << " x " << shape.columns << ", " << shape.tokens << " tokens, " << bits << " bits";
    }
  }
}

TEST_P(CudaGemm, ATokensBitsDoNotDependOnItsCompany) {
  const WeightFormat format = GetParam();
  constexpr int64_t kRows = 70, kColumns = 1536, kMost = 137;
  Product product{.parts = {RandomMatrix(format, kRows, kColumns, 8)}, .tokens = kMost, .input = RandomFloats(kMost * kColumns, 9)};
  product.options.shard_columns = {0, 512, 1024, 1536};
  const Result all = Multiply(*cuda_, product);
  for (const int64_t tokens : {1, 5, 8, 13, 32, 33, 64}) {
    product.tokens = tokens;
    const Result some = Multiply(*cuda_, product);
    EXPECT_EQ(Difference(some.values, std::span(all.values).first(static_cast<size_t>(tokens * kRows))), "") << tokens;
  }
}

TEST_P(CudaGemm, RanksOfAnySizeAddUpToTheSameBits) {
  const WeightFormat format = GetParam();
  constexpr int kShards = 5;
  constexpr int64_t kRows = 24, kColumns = 256 * kShards;
  for (const int64_t tokens : {2, 40}) {
    Product whole{.parts = {RandomMatrix(format, kRows, kColumns, 12)}, .tokens = tokens, .input = RandomFloats(tokens * kColumns, 13)};
    for (int s = 0; s <= kShards; ++s) whole.options.shard_columns.push_back(256 * s);
    const Result expected = Multiply(*cuda_, whole);
    for (const int first : {1, 2, 3, 4}) {  // two ranks: shards [0, first) and [first, 5)
      std::vector<float> planes;
      std::vector<ShardRange> ranges;
      for (const ShardRange owned : {ShardRange{0, first}, ShardRange{first, kShards}}) {
        Product part = whole;
        part.options.shard_columns.assign(whole.options.shard_columns.begin() + owned.begin,
                                          whole.options.shard_columns.begin() + owned.end + 1);
        part.options.first_shard = owned.begin;
        part.options.planes = OwnedSubtrees(kShards, owned);
        ranges.insert(ranges.end(), part.options.planes.begin(), part.options.planes.end());
        part.input.clear();
        for (int64_t t = 0; t < tokens; ++t) {
          const float* row = whole.input.data() + t * kColumns;
          part.input.insert(part.input.end(), row + 256 * owned.begin, row + 256 * owned.end);
        }
        const Result result = Multiply(*cuda_, part);
        planes.insert(planes.end(), result.values.begin(), result.values.end());
      }
      // The residual starts at zero, so what AddNorm leaves there is the sum of the planes.
      const std::vector<int> adds = AddsAfterPlane(kShards, ranges);
      Held held(*cuda_, static_cast<int64_t>(ranges.size()) * tokens, kRows, planes);
      Held residual(*cuda_, tokens, kRows, std::vector<float>(static_cast<size_t>(tokens * kRows), -0.0f));
      std::vector<const float*> pointers;
      for (size_t p = 0; p < ranges.size(); ++p) pointers.push_back(held.data() + static_cast<int64_t>(p) * tokens * kRows);
      ASSERT_TRUE(cuda_->AddNorm({.residual = residual.view(), .planes = pointers, .adds_after_plane = adds}).ok());
      EXPECT_EQ(Difference(residual.copy(), expected.values), "") << first << " shards on the first rank";
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Formats, CudaGemm, ::testing::ValuesIn(kAllFormats),
                         [](const auto& info) { return NameOfFormat(info.param); });

class CudaGemmMixed : public CudaTest {};

TEST_F(CudaGemmMixed, PartsOfUnlikeFormatsWithABias) {
  Product product{.parts = {RandomMatrix(WeightFormat::kQ4_1, 48, 256, 21), RandomMatrix(WeightFormat::kQ6_K, 17, 256, 22),
                            RandomMatrix(WeightFormat::kF32, 9, 256, 23)},
                  .tokens = 6, .input = RandomFloats(6 * 256, 24)};
  const std::vector<float> bias = RandomFloats(74, 25);
  product.options.bias = bias;
  EXPECT_LT(RelativeError(Multiply(*cuda_, product).values, Multiply(*cpu_, product).values), 1e-5);
}

TEST_F(CudaGemmMixed, TheFastProfileIsCloseToTheTwin) {
  auto fast = *MakeCudaBackend({.fast = true});
  EXPECT_NE(fast->numerics_profile(), cuda_->numerics_profile());
  for (const WeightFormat format : {WeightFormat::kF16, WeightFormat::kBF16}) {
    for (const auto& [rows, tokens] : {std::pair<int64_t, int64_t>{150, 33}, {128, 128}, {17, 200}}) {
      Product product{.parts = {RandomMatrix(format, rows, 480, 61)}, .tokens = tokens, .input = RandomFloats(tokens * 480, 62)};
      product.options.shard_columns = {0, 160, 320, 480};
      product.options.planes = {{0, 2}, {2, 3}};
      EXPECT_LT(RelativeError(Multiply(*fast, product).values, Multiply(*cpu_, product).values), Bound(format)) << rows << " " << tokens;
    }
  }
}

TEST_F(CudaGemmMixed, WrongShapesAreRefused) {
  const TestMatrix weights = RandomMatrix(WeightFormat::kQ8_0, 16, 64, 1);
  const MatrixRows view = weights.view();
  PackOptions options;
  options.shard_columns = {0, 96};
  EXPECT_FALSE(cuda_->Pack({&view, 1}, options).ok());
  options.shard_columns = {0, 40};
  EXPECT_FALSE(cuda_->Pack({&view, 1}, options).ok());
  options.shard_columns = {};
  options.activation_bits = 9;
  EXPECT_FALSE(cuda_->Pack({&view, 1}, options).ok());
  options.activation_bits = 8;
  auto matrix = *cuda_->Pack({&view, 1}, options);
  auto narrow = *cuda_->NewActivation(4, 32, {.int8 = true});
  auto unquantised = *cuda_->NewActivation(4, 64, {.f32 = true});
  Held out(*cuda_, 4, 16);
  for (const Activation* input : {narrow.get(), unquantised.get()}) {
    EXPECT_FALSE(cuda_->MatMul({.matrix = matrix.get(), .input = input, .rows = 1, .out = out.data(), .row_stride = 16}).ok());
  }
  EXPECT_TRUE(cuda_->Health().ok());
}

}  // namespace
}  // namespace pagoda::kernels::testing
