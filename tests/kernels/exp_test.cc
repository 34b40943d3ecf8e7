#include "kernels/cpu/exp.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>

namespace pagoda::kernels::cpu {
namespace {

TEST(Exp, IsWithinTwoUlpEverywhere) {
  double worst = 0;
  for (float x = kExpLow; x <= kExpHigh; x += 0.000173f) {
    const double exact = std::exp(static_cast<double>(x));
    const float value = ScalarExp(x);
    const float ulp = std::nextafterf(static_cast<float>(exact), INFINITY) - static_cast<float>(exact);
    worst = std::max(worst, std::fabs(value - exact) / ulp);
  }
  RecordProperty("worst_ulp", std::to_string(worst));
  EXPECT_LT(worst, 2.0);
}

TEST(Exp, HandlesTheEdges) {
  EXPECT_EQ(ScalarExp(0.0f), 1.0f);
  EXPECT_EQ(ScalarExp(-0.0f), 1.0f);
  EXPECT_EQ(ScalarExp(-INFINITY), 0.0f);
  EXPECT_EQ(ScalarExp(-1000.0f), 0.0f);
  EXPECT_EQ(ScalarExp(INFINITY), INFINITY);
  EXPECT_EQ(ScalarExp(1000.0f), INFINITY);
  EXPECT_TRUE(std::isfinite(ScalarExp(kExpHigh)));
  EXPECT_TRUE(std::isnan(ScalarExp(NAN)));
}

}  // namespace
}  // namespace pagoda::kernels::cpu
