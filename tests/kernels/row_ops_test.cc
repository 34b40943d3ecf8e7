// Embedding, norms, quantisation, gates, and rope: every instruction set against the scalar twin to the bit, the scalar twin
// against doubles.
#include <gtest/gtest.h>

#include <cmath>

#include "kernels/cpu/rope_table.h"
#include "kernels/cpu/weight_blocks.h"
#include "tests/kernels/reference.h"

namespace pagoda::kernels::testing {
namespace {

std::vector<Isa> AllIsas() {
  std::vector<Isa> isas = {Isa::kScalar};
  for (Isa isa : VectorIsas()) isas.push_back(isa);
  return isas;
}

// What a matrix of ones and of large bytes makes of an activation: shows its quantised form to the bit.
std::vector<float> Probe(Backend& backend, const Activation& activation, int64_t rows, int bits) {
  const int64_t columns = activation.columns();
  const TestMatrix weights = RandomMatrix(WeightFormat::kQ5_1, 48, columns, 31);
  const MatrixRows view = weights.view();
  PackOptions options;
  options.activation_bits = bits;
  auto matrix = *backend.Pack({&view, 1}, options);
  Values out(backend, rows, 48);
  EXPECT_TRUE(backend.MatMul({matrix.get(), &activation, rows, out.data(), 48, 0}).ok());
  return out.copy();
}

TEST(Halves, ConvertThereAndBack) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const uint16_t half = static_cast<uint16_t>(bits);
    const float value = cpu::HalfToFloat(half);
    if (std::isnan(value)) continue;
    ASSERT_EQ(cpu::FloatToHalf(value), half) << bits;
    ASSERT_EQ(cpu::FloatToBFloat(cpu::BFloatToFloat(half)), half) << bits;
  }
  EXPECT_EQ(cpu::FloatToHalf(65519.0f), 0x7bff);
  EXPECT_EQ(cpu::FloatToHalf(65520.0f), 0x7c00);
  EXPECT_EQ(cpu::FloatToHalf(1e-10f), 0);
}

TEST(Embed, ReadsKnownBlocks) {
  auto backend = MakeBackend(Isa::kScalar);
  // Q8_0: d = 0.5 (f16 0x3800), q = k - 16.
  std::vector<std::byte> block(34);
  block[1] = std::byte{0x38};
  for (int k = 0; k < 32; ++k) block[2 + k] = static_cast<std::byte>(k - 16);
  const std::vector<int32_t> token = {0};
  Values out(*backend, 1, 32);
  ASSERT_TRUE(backend->Embed({WeightFormat::kQ8_0, 1, 32, block.data()}, token, out.view()).ok());
  for (int k = 0; k < 32; ++k) EXPECT_EQ(out.data()[k], 0.5f * (k - 16));
  // Q4_1: d = 0.5, m = -1 (0xbc00), low nibbles are the first half.
  std::vector<std::byte> nibbles(20, std::byte{0x72});
  nibbles[0] = std::byte{0}, nibbles[1] = std::byte{0x38}, nibbles[2] = std::byte{0}, nibbles[3] = std::byte{0xbc};
  ASSERT_TRUE(backend->Embed({WeightFormat::kQ4_1, 1, 32, nibbles.data()}, token, out.view()).ok());
  for (int k = 0; k < 32; ++k) EXPECT_EQ(out.data()[k], k < 16 ? 0.0f : 2.5f);
  const std::vector<int32_t> wrong = {1};
  EXPECT_FALSE(backend->Embed({WeightFormat::kQ4_1, 1, 32, nibbles.data()}, wrong, out.view()).ok());
}

TEST(AddNorm, ScalarIsCloseToDoublesAndTheOthersAreTheScalarBits) {
  for (int64_t columns : {32, 576, 1000}) {
    for (int64_t rows : {1, 5}) {
      const std::vector<float> x = RandomFloats(rows * columns, 1), p0 = RandomFloats(rows * columns, 2),
                               p1 = RandomFloats(rows * columns, 3), p2 = RandomFloats(rows * columns, 4),
                               weight = RandomFloats(columns, 5);
      const std::vector<int> adds = AddsAfterPlane(3, {{0, 1}, {1, 2}, {2, 3}});
      std::vector<float> expected_residual, expected_out;
      for (Isa isa : AllIsas()) {
        auto backend = MakeBackend(isa, 2);
        Values residual(*backend, rows, columns, x), a(*backend, rows, columns, p0), b(*backend, rows, columns, p1),
            c(*backend, rows, columns, p2), norm(*backend, 1, columns, weight);
        // The f32 form shows through an identity of floats.
        auto out = *backend->NewActivation(rows, columns, {.f32 = true});
        const std::vector<const float*> planes = {a.data(), b.data(), c.data()};
        ASSERT_TRUE(backend
                        ->AddNorm({.residual = residual.view(),
                                   .planes = planes,
                                   .adds_after_plane = adds,
                                   .norm_weight = norm.data(),
                                   .epsilon = 1e-5f,
                                   .out = out.get()})
                        .ok());
        std::vector<float> normed;
        if (columns % 32 == 0) {
          std::vector<float> identity(columns * columns);
          for (int64_t i = 0; i < columns; ++i) identity[i * columns + i] = 1.0f;
          const MatrixRows view{WeightFormat::kF32, columns, columns, reinterpret_cast<const std::byte*>(identity.data())};
          auto matrix = *backend->Pack({&view, 1}, {});
          Values shown(*backend, rows, columns);
          ASSERT_TRUE(backend->MatMul({matrix.get(), out.get(), rows, shown.data(), columns, 0}).ok());
          normed = shown.copy();
        }
        if (isa == Isa::kScalar) {
          expected_residual = residual.copy();
          expected_out = normed;
          for (int64_t i = 0; i < rows * columns; ++i) {
            ASSERT_NEAR(expected_residual[i], static_cast<double>(x[i]) + p0[i] + p1[i] + p2[i], 1e-5);
          }
          for (int64_t r = 0; r < rows && !normed.empty(); ++r) {
            double sum = 0;
            for (int64_t i = 0; i < columns; ++i) sum += std::pow(expected_residual[r * columns + i], 2.0);
            for (int64_t i = 0; i < columns; ++i) {
              const double y = expected_residual[r * columns + i] / std::sqrt(sum / columns + 1e-5) * weight[i];
              ASSERT_NEAR(normed[r * columns + i], y, 1e-5);
            }
          }
          continue;
        }
        ASSERT_EQ(Difference(residual.copy(), expected_residual), "") << NameOf(isa);
        ASSERT_EQ(Difference(normed, expected_out), "") << NameOf(isa);
      }
    }
  }
}

TEST(Quantize, GivesTheScalarBitsAlsoForHardBlocks) {
  const int64_t columns = 32 * 9;
  std::vector<float> x = RandomFloats(columns, 12);
  for (int i = 0; i < 32; ++i) {
    x[i] = 0;
    x[32 + i] = 1e-38f * static_cast<float>(i);             // below the smallest top
    x[64 + i] = 1e30f * static_cast<float>(i - 16);         // large
    x[96 + i] = static_cast<float>(i - 16) * 0.5f / 127.f;  // ties of rounding
    x[128 + i] = i % 2 == 0 ? 127.0f : -127.0f;
    x[160 + i] = i % 2 == 0 ? 2047.0f : -2047.0f;
  }
  for (int bits : {8, 12}) {
    std::vector<float> expected;
    for (Isa isa : AllIsas()) {
      auto backend = MakeBackend(isa);
      Values in(*backend, 1, columns, x);
      auto out = *backend->NewActivation(1, columns, {.int8 = true, .int12 = true});
      ASSERT_TRUE(backend->Quantize(in.view(), *out).ok());
      const std::vector<float> shown = Probe(*backend, *out, 1, bits);
      if (isa == Isa::kScalar) expected = shown;
      ASSERT_EQ(Difference(shown, expected), "") << NameOf(isa) << " " << bits;
    }
  }
}

TEST(Gate, ScalarIsCloseToDoublesAndTheOthersAreTheScalarBits) {
  const int64_t columns = 96, rows = 7;
  std::vector<float> x = RandomFloats(rows * 2 * columns, 3, 4.0f);
  x[0] = 200, x[1] = -200, x[2] = 88.65f, x[3] = -88.65f, x[4] = 0, x[5] = -0.0f;
  std::vector<float> identity(columns * columns);
  for (int64_t i = 0; i < columns; ++i) identity[i * columns + i] = 1.0f;
  const MatrixRows view{WeightFormat::kF32, columns, columns, reinterpret_cast<const std::byte*>(identity.data())};
  for (GateKind kind : {GateKind::kSilu, GateKind::kGelu}) {
    std::vector<float> expected;
    for (Isa isa : AllIsas()) {
      auto backend = MakeBackend(isa, 2);
      Values in(*backend, rows, 2 * columns, x), shown(*backend, rows, columns);
      auto out = *backend->NewActivation(rows, columns, {.f32 = true, .int8 = true});
      ASSERT_TRUE(backend->GatedActivation(in.view(), kind, *out).ok());
      auto matrix = *backend->Pack({&view, 1}, {});
      ASSERT_TRUE(backend->MatMul({matrix.get(), out.get(), rows, shown.data(), columns, 0}).ok());
      if (isa == Isa::kScalar) {
        expected = shown.copy();
        for (int64_t i = 0; i < rows * columns; ++i) {
          const double g = x[i / columns * 2 * columns + i % columns], u = x[i / columns * 2 * columns + columns + i % columns];
          const double z = kind == GateKind::kSilu ? g : 1.5957691216057308 * (g + 0.044715 * g * g * g);
          ASSERT_NEAR(expected[i], g / (1 + std::exp(-z)) * u, 1e-5 * (1 + std::fabs(g * u))) << i;
        }
      }
      ASSERT_EQ(Difference(shown.copy(), expected), "") << NameOf(isa);
    }
  }
}

TEST(RopeTable, SineAndCosineAreExactEnough) {
  for (double angle = 0; angle < 2e6; angle = angle * 1.37 + 0.013) {
    const cpu::SinCos value = cpu::DoubleSinCos(angle);
    ASSERT_NEAR(value.sine, std::sin(angle), 1e-14) << angle;
    ASSERT_NEAR(value.cosine, std::cos(angle), 1e-14) << angle;
  }
}

}  // namespace
}  // namespace pagoda::kernels::testing
