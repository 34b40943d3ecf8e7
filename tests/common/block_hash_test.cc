#include "common/block_hash.h"

#include <gtest/gtest.h>

#include <numeric>

namespace pagoda {
namespace {

std::vector<TokenId> Tokens(int count) {
  std::vector<TokenId> tokens(static_cast<size_t>(count));
  std::iota(tokens.begin(), tokens.end(), 100);
  return tokens;
}

TEST(BlockHashTest, OneHashPerFullBlock) {
  EXPECT_TRUE(HashFullBlocks("", Tokens(15), 16).empty());
  EXPECT_EQ(HashFullBlocks("", Tokens(16), 16).size(), 1u);
  EXPECT_EQ(HashFullBlocks("", Tokens(47), 16).size(), 2u);
}

TEST(BlockHashTest, APrefixHasThePrefixOfTheHashes) {
  const auto longer = HashFullBlocks("tenant", Tokens(64), 16);
  const auto shorter = HashFullBlocks("tenant", Tokens(32), 16);
  EXPECT_EQ(shorter[0], longer[0]);
  EXPECT_EQ(shorter[1], longer[1]);
}

TEST(BlockHashTest, DependsOnAllTokensBeforeAndOnTheSalt) {
  auto changed = Tokens(32);
  changed[0] += 1;
  const auto plain = HashFullBlocks("", Tokens(32), 16);
  const auto other = HashFullBlocks("", changed, 16);
  EXPECT_NE(plain[0], other[0]);
  EXPECT_NE(plain[1], other[1]) << "the second block is equal, the chain before it is not";
  EXPECT_NE(plain[0], HashFullBlocks("tenant", Tokens(32), 16)[0]);
  EXPECT_NE(HashFullBlocks("a", Tokens(16), 16)[0], HashFullBlocks("b", Tokens(16), 16)[0]);
}

TEST(BlockHashTest, ChainByHandIsTheSame) {
  const auto tokens = Tokens(32);
  BlockHash hash = ChainStart("salt");
  const auto all = HashFullBlocks("salt", tokens, 16);
  for (size_t block = 0; block < 2; ++block) {
    hash = ChainNext(hash, std::span(tokens).subspan(block * 16, 16));
    EXPECT_EQ(hash, all[block]);
  }
}

}  // namespace
}  // namespace pagoda
