// The vector forms of what a sampler does to a row of logits, against the plain ones, with ==.
#include "kernels/cpu/logit_kernels.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

namespace pagoda::kernels {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

std::vector<float> Row(std::mt19937& random, int count, bool hostile) {
  std::normal_distribution<float> normal(0.0f, 6.0f);
  std::vector<float> row(static_cast<size_t>(count));
  for (float& x : row) {
    x = std::round(normal(random) * 32) / 32;  // ties happen
    if (!hostile) continue;
    const int dice = std::uniform_int_distribution<int>(0, 19)(random);
    if (dice == 0) x = std::numeric_limits<float>::quiet_NaN();
    if (dice == 1) x = -kInfinity;
  }
  return row;
}

class LogitKernelsTest : public ::testing::TestWithParam<Isa> {
 protected:
  void SetUp() override {
    if (!IsaSupported(GetParam())) GTEST_SKIP() << "this machine lacks " << NameOf(GetParam());
  }
};

TEST_P(LogitKernelsTest, TheSameAsThePlainOnes) {
  const LogitKernels& plain = LogitKernelsOf(Isa::kScalar);
  const LogitKernels& vector = LogitKernelsOf(GetParam());
  std::mt19937 random(11);
  for (int round = 0; round < 300; ++round) {
    const int count = round < 150 ? round : std::uniform_int_distribution<int>(1, 5000)(random);
    const std::vector<float> row = Row(random, count, round % 2 == 1);
    const size_t groups = static_cast<size_t>((count + kLogitGroup - 1) / kLogitGroup);
    std::vector<float> maxima[2] = {std::vector<float>(groups), std::vector<float>(groups)};
    const float top = plain.group_max(row.data(), count, maxima[0].data());
    ASSERT_EQ(vector.group_max(row.data(), count, maxima[1].data()), top) << "round " << round;
    ASSERT_EQ(maxima[1], maxima[0]) << "round " << round;
    for (const float value : {top, 0.0f, 1000.0f}) {
      ASSERT_EQ(vector.find(row.data(), count, value), plain.find(row.data(), count, value)) << "round " << round;
    }
    if (count == 0 || !std::isfinite(top)) continue;
    const float factor = 1.0f / std::uniform_real_distribution<float>(0.05f, 2.0f)(random);
    std::vector<uint32_t> weights[2] = {std::vector<uint32_t>(row.size()), std::vector<uint32_t>(row.size())};
    const uint64_t sum = plain.weigh(row.data(), count, top, factor, weights[0].data());
    ASSERT_EQ(vector.weigh(row.data(), count, top, factor, weights[1].data()), sum) << "round " << round;
    ASSERT_EQ(weights[1], weights[0]) << "round " << round;
    std::vector<int32_t> ids[2] = {std::vector<int32_t>(row.size() + 16), std::vector<int32_t>(row.size() + 16)};
    const auto compare = [&](int64_t found, int64_t expected) {
      ASSERT_EQ(found, expected) << "round " << round;
      for (int64_t i = 0; i < found; ++i) ASSERT_EQ(ids[1][static_cast<size_t>(i)], ids[0][static_cast<size_t>(i)]);
    };
    for (const float bound : {top, 0.0f, -3.5f, std::numeric_limits<float>::lowest()}) {
      compare(vector.at_least(row.data(), count, bound, 7, ids[1].data()), plain.at_least(row.data(), count, bound, 7, ids[0].data()));
    }
    for (const uint32_t bound : {0u, 1u, kWeightOne / 1000, kWeightOne - 1}) {
      compare(vector.heavier(weights[1].data(), count, bound, ids[1].data()),
              plain.heavier(weights[0].data(), count, bound, ids[0].data()));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, LogitKernelsTest, ::testing::Values(Isa::kAvx2, Isa::kAvx512),
                         [](const auto& info) { return std::string(NameOf(info.param)); });

TEST(LogitWeights, AreTheExponential) {
  const LogitKernels& plain = LogitKernelsOf(Isa::kScalar);
  std::vector<float> row;
  for (int i = 0; i < 3000; ++i) row.push_back(-static_cast<float>(i) / 128);
  row.push_back(std::numeric_limits<float>::quiet_NaN());
  row.push_back(-kInfinity);
  std::vector<uint32_t> weights(row.size());
  const uint64_t sum = plain.weigh(row.data(), static_cast<int64_t>(row.size()), 0.0f, 1.0f, weights.data());
  EXPECT_EQ(weights[0], kWeightOne);
  uint64_t expected_sum = 0;
  for (size_t i = 0; i + 2 < row.size(); ++i) {
    const double truth = std::exp(double{row[i]}) * kWeightOne;
    EXPECT_NEAR(weights[i], truth, 0.51 + 6e-7 * truth) << row[i];
    expected_sum += weights[i];
  }
  EXPECT_EQ(weights[row.size() - 2], 0u);
  EXPECT_EQ(weights[row.size() - 1], 0u);
  EXPECT_EQ(sum, expected_sum);
}

}  // namespace
}  // namespace pagoda::kernels
