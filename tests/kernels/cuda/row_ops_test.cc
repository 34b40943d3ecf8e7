// Embedding, norms, gates, quantised forms, copies on CUDA against the CPU twin.
#include "tests/kernels/cuda/pair.h"

namespace pagoda::kernels::testing {
namespace {

class CudaRows : public CudaTest {};

// What a matrix makes of an activation: shows its quantised forms.
std::vector<float> Probe(Backend& backend, const Activation& activation, int64_t rows, WeightFormat format, int bits) {
  const int64_t columns = activation.columns();
  const TestMatrix weights = RandomMatrix(format, 48, columns, 31);
  const MatrixRows view = weights.view();
  PackOptions options;
  options.activation_bits = bits;
  auto matrix = *backend.Pack({&view, 1}, options);
  Held out(backend, rows, 48);
  EXPECT_TRUE(backend.MatMul({.matrix = matrix.get(), .input = &activation, .rows = rows, .out = out.data(), .row_stride = 48}).ok());
  return out.copy();
}

TEST_F(CudaRows, EmbeddingIsTheTwinToTheBitInEveryFormat) {
  for (const WeightFormat format : kAllFormats) {
    const TestMatrix table = RandomMatrix(format, 9, 512, 41);
    const std::vector<int32_t> tokens = {8, 0, 3, 3, 7};
    std::vector<std::vector<float>> results;
    for (Backend* backend : {cuda_.get(), cpu_.get()}) {
      Held out(*backend, 5, 512);
      MatrixRows view = table.view();
      auto held = *backend->Hold(view);
      if (held != nullptr) view.data = static_cast<const std::byte*>(held->data());
      ASSERT_TRUE(backend->Embed(view, tokens, out.view()).ok());
      results.push_back(out.copy());
      const std::vector<int32_t> wrong = {9};
      EXPECT_FALSE(backend->Embed(view, wrong, out.view()).ok());
    }
    EXPECT_EQ(Difference(results[0], results[1]), "") << NameOfFormat(format);
  }
}

TEST_F(CudaRows, AddNormIsCloseAndTheResidualIsTheTwinToTheBit) {
  for (const int64_t columns : {32, 576, 1000, 4096}) {
    for (const int64_t rows : {1, 5}) {
      const std::vector<int> adds = AddsAfterPlane(5, {{0, 1}, {1, 2}, {2, 3}, {3, 4}, {4, 5}});
      std::vector<std::vector<float>> residuals, normed;
      for (Backend* backend : {cuda_.get(), cpu_.get()}) {
        Held residual(*backend, rows, columns, RandomFloats(rows * columns, 1)), norm(*backend, 1, columns, RandomFloats(columns, 5));
        std::vector<std::unique_ptr<Held>> held;
        std::vector<const float*> planes;
        for (uint64_t p = 0; p < 5; ++p) {
          held.push_back(std::make_unique<Held>(*backend, rows, columns, RandomFloats(rows * columns, 10 + p)));
          planes.push_back(held.back()->data());
        }
        const bool blocks = columns % 32 == 0;
        auto out = *backend->NewActivation(rows, columns, {.f32 = true, .int8 = blocks, .int12 = blocks});
        ASSERT_TRUE(backend->AddNorm({.residual = residual.view(), .planes = planes, .adds_after_plane = adds,
                                      .norm_weight = norm.data(), .epsilon = 1e-5f, .out = out.get()}).ok());
        residuals.push_back(residual.copy());
        if (blocks) normed.push_back(Probe(*backend, *out, rows, WeightFormat::kF32, 8));
        if (blocks) normed.push_back(Probe(*backend, *out, rows, WeightFormat::kQ8_0, 12));
      }
      EXPECT_EQ(Difference(residuals[0], residuals[1]), "") << columns;
      for (size_t i = 0; i < normed.size() / 2; ++i) EXPECT_LT(RelativeError(normed[i], normed[i + normed.size() / 2]), 2e-4) << columns;
    }
  }
}

TEST_F(CudaRows, GatesAreTheTwinToTheBit) {
  for (const GateKind kind : {GateKind::kSilu, GateKind::kGelu}) {
    constexpr int64_t kRows = 3, kColumns = 32;  // one block: no order of sums in the probe
    std::vector<std::vector<float>> results;
    for (Backend* backend : {cuda_.get(), cpu_.get()}) {
      Held in(*backend, kRows, 2 * kColumns, RandomFloats(kRows * 2 * kColumns, 51, 4.0f));
      auto out = *backend->NewActivation(kRows, kColumns, {.f32 = true, .int8 = true, .int12 = true});
      ASSERT_TRUE(backend->GatedActivation(in.view(), kind, *out).ok());
      results.push_back(Probe(*backend, *out, kRows, WeightFormat::kQ5_1, 8));
      results.push_back(Probe(*backend, *out, kRows, WeightFormat::kQ5_1, 12));
    }
    EXPECT_EQ(Difference(results[0], results[2]), "");
    EXPECT_EQ(Difference(results[1], results[3]), "");
  }
}

TEST_F(CudaRows, InfinitiesAndNansShowInTheirRowAlone) {
  constexpr int64_t kColumns = 64;
  std::vector<float> x = RandomFloats(3 * kColumns, 61);
  x[kColumns + 7] = INFINITY;
  Held in(*cuda_, 3, kColumns, x);
  auto activation = *cuda_->NewActivation(3, kColumns, {.int8 = true});
  ASSERT_TRUE(cuda_->Quantize(in.view(), *activation).ok());
  const std::vector<float> out = Probe(*cuda_, *activation, 3, WeightFormat::kQ4_0, 8);
  for (int r = 0; r < 3; ++r) {
    for (int n = 0; n < 48; ++n) EXPECT_EQ(std::isnan(out[static_cast<size_t>(r * 48 + n)]), r == 1);
  }
}

TEST_F(CudaRows, CopiesAndGathers) {
  const std::vector<float> x = RandomFloats(6 * 10, 71);
  Held from(*cuda_, 6, 10, x), to(*cuda_, 6, 20, std::vector<float>(120, 5.0f)), picked(*cuda_, 3, 10);
  ASSERT_TRUE(cuda_->CopyRows({.from = from.data(), .from_stride = 10, .to = to.data() + 7, .to_stride = 20, .rows = 6, .columns = 9}).ok());
  const std::vector<float> copied = to.copy();
  for (int r = 0; r < 6; ++r) {
    for (int c = 0; c < 20; ++c) {
      const float expected = c >= 7 && c < 16 ? x[static_cast<size_t>(r * 10 + c - 7)] : 5.0f;
      ASSERT_EQ(copied[static_cast<size_t>(r * 20 + c)], expected);
    }
  }
  const std::vector<int> rows = {5, 0, 5};
  ASSERT_TRUE(cuda_->GatherRows(from.view(), rows, picked.view()).ok());
  EXPECT_EQ(picked.copy()[3], x[53]);
  EXPECT_EQ(picked.copy()[13], x[3]);
  const std::vector<int> wrong = {6};
  EXPECT_FALSE(cuda_->GatherRows(from.view(), wrong, picked.view()).ok());
}

// The first step of a key runs, the second is recorded, later ones are replayed without the body, on what the memory holds then.
TEST_F(CudaRows, RecordedStepsAreReplayed) {
  Held from(*cuda_, 2, 8), to(*cuda_, 2, 8);
  int bodies = 0;
  for (int run = 0; run < 5; ++run) {
    const std::vector<float> values(16, static_cast<float>(run + 1));
    ASSERT_TRUE(cuda_->Upload(values.data(), from.data(), values.size() * sizeof(float)).ok());
    const absl::Status status = cuda_->RunStep({.owner = this, .rows = 2, .single_rows = true}, [&] {
      ++bodies;
      return cuda_->CopyRows({.from = from.data(), .from_stride = 8, .to = to.data(), .to_stride = 8, .rows = 2, .columns = 8});
    });
    ASSERT_TRUE(status.ok()) << status;
    EXPECT_EQ(to.copy(), values) << run;
    EXPECT_EQ(bodies, std::min(run + 1, 2)) << run;
  }
  cuda_->ForgetSteps(this);
  EXPECT_EQ(cuda_->PaddedRows(5), 8);
  // Waits and transfers cannot be recorded: the step fails and nothing is left half recorded.
  const std::vector<int> rows = {1};
  for (int run = 0; run < 2; ++run) {
    const absl::Status status = cuda_->RunStep({.owner = this, .rows = 4, .single_rows = true},
                                               [&] { return cuda_->GatherRows(from.view(), rows, to.view()); });
    EXPECT_EQ(status.ok(), run == 0) << status;
  }
  cuda_->ForgetSteps(this);
  EXPECT_TRUE(cuda_->Synchronize().ok());
}

}  // namespace
}  // namespace pagoda::kernels::testing
