#include "kernels/reduction_tree.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

namespace pagoda::kernels {
namespace {

float TreeSum(const std::vector<float>& leaves, int begin, int end) {
  if (end - begin == 1) return leaves[begin];
  const int middle = begin + (end - begin + 1) / 2;
  return TreeSum(leaves, begin, middle) + TreeSum(leaves, middle, end);
}

float StackSum(const std::vector<float>& values, const std::vector<int>& adds) {
  std::vector<float> stack;
  for (size_t i = 0; i < values.size(); ++i) {
    stack.push_back(values[i]);
    for (int a = 0; a < adds[i]; ++a) {
      const float right = stack.back();
      stack.pop_back();
      stack.back() = stack.back() + right;
    }
  }
  EXPECT_EQ(stack.size(), 1u);
  return stack.back();
}

std::vector<float> RandomLeaves(int count, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> leaves(count);
  for (float& leaf : leaves) leaf = normal(random) * std::exp(4 * normal(random));
  return leaves;
}

TEST(ReductionTree, ThreeLeavesAddTheFirstTwoFirst) {
  EXPECT_EQ(AddsAfterLeaf({0, 3}), (std::vector<int>{0, 1, 1}));
  EXPECT_EQ(OwnedSubtrees(3, {1, 3}), (std::vector<ShardRange>{{1, 2}, {2, 3}}));
  EXPECT_EQ(OwnedSubtrees(3, {0, 2}), (std::vector<ShardRange>{{0, 2}}));
}

TEST(ReductionTree, LeavesAddUpAsTheRecursionDoes) {
  for (int shards = 1; shards <= 65; ++shards) {
    const std::vector<float> leaves = RandomLeaves(shards, shards);
    EXPECT_EQ(StackSum(leaves, AddsAfterLeaf({0, shards})), TreeSum(leaves, 0, shards)) << shards;
  }
}

TEST(ReductionTree, EveryCutIntoRanksGivesTheSameBits) {
  for (int round = 0; round < 2000; ++round) {
    SCOPED_TRACE(testing::Message() << "seed " << round);
    std::mt19937_64 random(round);
    const int shards = 1 + static_cast<int>(random() % 40);
    const std::vector<float> leaves = RandomLeaves(shards, round);
    std::vector<ShardRange> planes;
    std::vector<float> sums;
    for (int begin = 0; begin < shards;) {
      const int end = begin + 1 + static_cast<int>(random() % (shards - begin));
      for (const ShardRange& plane : OwnedSubtrees(shards, {begin, end})) {
        std::vector<float> own(leaves.begin() + plane.begin, leaves.begin() + plane.end);
        planes.push_back(plane);
        sums.push_back(StackSum(own, AddsAfterLeaf(plane)));
      }
      begin = end;
    }
    ASSERT_EQ(StackSum(sums, AddsAfterPlane(shards, planes)), TreeSum(leaves, 0, shards));
  }
}

}  // namespace
}  // namespace pagoda::kernels
