#include "coordinator/block_pool.h"

#include <gtest/gtest.h>

#include <random>

#include "coordinator/prefix_cache.h"

namespace pagoda::coordinator {
namespace {

std::vector<BlockHash> Chain(const std::string& salt, int blocks, TokenId first = 0) {
  std::vector<TokenId> tokens;
  for (int i = 0; i < blocks * 4; ++i) tokens.push_back(first + i);
  return HashFullBlocks(salt, tokens, 4);
}

// Takes blocks for a chain, offers them to the cache, gives them back tail first as a sequence does.
std::vector<int> Fill(PrefixCache& cache, const std::vector<BlockHash>& chain) {
  std::vector<BlockHandle> blocks;
  std::vector<int> ids;
  for (const BlockHash& hash : chain) {
    blocks.push_back(*cache.Allocate());
    ids.push_back(blocks.back().id().value());
    cache.Insert(hash, blocks.back().id());
  }
  while (!blocks.empty()) blocks.pop_back();
  return ids;
}

TEST(BlockPool, CountsReferences) {
  BlockPool pool(3);
  std::optional<BlockHandle> a = pool.Allocate();
  ASSERT_TRUE(a.has_value());
  EXPECT_EQ(a->id(), BlockId(0));
  EXPECT_FALSE(a->shared());
  BlockHandle b = a->Share();
  EXPECT_TRUE(a->shared());
  EXPECT_EQ(pool.references(BlockId(0)), 2);
  EXPECT_EQ(pool.in_use(), 1);
  a->Reset();
  EXPECT_EQ(pool.references(BlockId(0)), 1);
  EXPECT_FALSE(b.shared());
  BlockHandle moved = std::move(b);
  EXPECT_TRUE(b.empty());  // NOLINT: what a move leaves is part of the contract
  moved = BlockHandle();
  EXPECT_EQ(pool.free(), 3);
}

TEST(BlockPool, RunsOutAndRecovers) {
  BlockPool pool(2);
  std::vector<BlockHandle> held;
  held.push_back(*pool.Allocate());
  held.push_back(*pool.Allocate());
  EXPECT_FALSE(pool.Allocate().has_value());
  held.pop_back();
  EXPECT_TRUE(pool.Allocate().has_value());
}

TEST(BlockPoolDeathTest, NoticesABlockThatDidNotComeHome) {
  EXPECT_DEATH(
      {
        std::optional<BlockHandle> outlives;
        BlockPool pool(2);
        outlives = pool.Allocate();
        pool.~BlockPool();
      },
      "did not come home");
}

TEST(PrefixCache, FindsTheLongestBeginning) {
  BlockPool pool(10);
  PrefixCache cache(pool);
  const std::vector<BlockHash> chain = Chain("a", 4);
  const std::vector<int> ids = Fill(cache, chain);
  EXPECT_EQ(pool.parked(), 4);
  EXPECT_EQ(cache.available(), 10);
  std::vector<BlockHash> longer = Chain("a", 6);
  std::vector<BlockHandle> hit = cache.Match(longer);
  ASSERT_EQ(hit.size(), 4u);
  for (size_t i = 0; i < hit.size(); ++i) EXPECT_EQ(hit[i].id().value(), ids[i]);
  EXPECT_EQ(cache.available(), 6);
  std::vector<BlockHandle> again = cache.Match(longer);
  EXPECT_EQ(again.size(), 4u);
  EXPECT_TRUE(hit[0].shared());
}

TEST(PrefixCache, SaltsKeepTenantsApart) {
  BlockPool pool(10);
  PrefixCache cache(pool);
  Fill(cache, Chain("a", 4));
  EXPECT_TRUE(cache.Match(Chain("b", 4)).empty());
  EXPECT_TRUE(cache.Match(Chain("", 4)).empty());
}

TEST(PrefixCache, GivesUpTheLeastRecentlyUsedFromTheLeaf) {
  BlockPool pool(6);
  PrefixCache cache(pool);
  const auto first = Chain("a", 3);
  const auto second = Chain("a", 3, 1000);
  Fill(cache, first);
  Fill(cache, second);
  cache.Match(first);  // used again: the second chain is the older one now
  std::vector<BlockHandle> taken;
  taken.push_back(*cache.Allocate());
  EXPECT_EQ(cache.Match(second).size(), 2u) << "the leaf went first";
  EXPECT_EQ(cache.Match(first).size(), 3u);
  while (static_cast<int>(taken.size()) < 6) taken.push_back(*cache.Allocate());
  EXPECT_FALSE(cache.Allocate().has_value());
  EXPECT_EQ(cache.entries(), 0);
}

TEST(PrefixCache, NeverGivesUpWhatIsHeld) {
  BlockPool pool(3);
  PrefixCache cache(pool);
  const auto chain = Chain("a", 2);
  Fill(cache, chain);
  const std::vector<BlockHandle> held = cache.Match(chain);
  ASSERT_EQ(held.size(), 2u);
  const std::optional<BlockHandle> last = cache.Allocate();
  ASSERT_TRUE(last.has_value());
  EXPECT_FALSE(cache.Allocate().has_value());
  EXPECT_EQ(cache.Match(chain).size(), 2u);
}

TEST(PrefixCache, AHashKeepsItsFirstBlock) {
  BlockPool pool(4);
  PrefixCache cache(pool);
  const auto chain = Chain("a", 1);
  BlockHandle first = *cache.Allocate();
  BlockHandle second = *cache.Allocate();
  cache.Insert(chain[0], first.id());
  cache.Insert(chain[0], second.id());
  second.Reset();
  EXPECT_EQ(pool.free(), 3) << "the double is not kept";
  EXPECT_EQ(cache.Match(chain)[0].id(), first.id());
}

TEST(PrefixCache, RandomUseNeverLosesABlock) {
  for (uint64_t seed = 1; seed <= 200; ++seed) {
    std::mt19937_64 random(seed);
    BlockPool pool(16);
    PrefixCache cache(pool);
    std::vector<std::vector<BlockHandle>> sequences;
    for (int turn = 0; turn < 300; ++turn) {
      if (random() % 2 == 0 || sequences.empty()) {
        const auto chain = Chain("s", 1 + static_cast<int>(random() % 6), static_cast<TokenId>(random() % 3) * 100);
        std::vector<BlockHandle> blocks = cache.Match(chain);
        while (blocks.size() < chain.size()) {
          std::optional<BlockHandle> block = cache.Allocate();
          if (!block.has_value()) break;
          cache.Insert(chain[blocks.size()], block->id());
          blocks.push_back(std::move(*block));
        }
        sequences.push_back(std::move(blocks));
      } else {
        std::swap(sequences[random() % sequences.size()], sequences.back());
        while (!sequences.back().empty()) sequences.back().pop_back();
        sequences.pop_back();
      }
      ASSERT_EQ(pool.free() + pool.parked() + pool.in_use(), 16) << "seed " << seed;
      ASSERT_EQ(cache.available(), 16 - pool.in_use()) << "seed " << seed;
    }
  }
}

}  // namespace
}  // namespace pagoda::coordinator
