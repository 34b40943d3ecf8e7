// Properties of the partition: every row, column and head has exactly one owner (or one sub-group), cuts lie at blocks, and the
// planes are the reduction tree.
#include "worker/model/tensor_parallel.h"

#include <gtest/gtest.h>

#include <numeric>

namespace pagoda::worker {
namespace {

checkpoint::ModelSpec DefaultShape() {
  checkpoint::ModelSpec spec;
  spec.layers = 30;
  spec.hidden = 576;
  spec.heads = 9;
  spec.kv_heads = 3;
  spec.head_dim = 64;
  spec.ffn = 1536;
  spec.vocabulary = 49152;
  return spec;
}

checkpoint::ModelSpec OneBillionShape() {
  checkpoint::ModelSpec spec;
  spec.layers = 22;
  spec.hidden = 2048;
  spec.heads = 32;
  spec.kv_heads = 4;
  spec.head_dim = 64;
  spec.ffn = 5632;
  spec.vocabulary = 32003;  // not a whole number of chunks
  return spec;
}

// Consecutive ranges that cover [0, end).
void ExpectCovers(const std::vector<IndexRange>& ranges, int64_t end) {
  int64_t at = 0;
  for (const IndexRange& range : ranges) {
    EXPECT_EQ(range.begin, at);
    EXPECT_GE(range.end, range.begin);
    at = range.end;
  }
  EXPECT_EQ(at, end);
}

void CheckPartition(const checkpoint::ModelSpec& spec, int size, int ffn_unit) {
  const absl::StatusOr<GroupPartition> made = MakePartition(spec, size, ffn_unit);
  ASSERT_TRUE(made.ok()) << made.status();
  const GroupPartition& group = *made;
  ASSERT_EQ(group.ranks.size(), static_cast<size_t>(size));
  std::vector<IndexRange> heads, ffn, vocabulary;
  std::vector<int> rows_of_shard(static_cast<size_t>(spec.kv_heads));
  for (const RankPartition& rank : group.ranks) {
    heads.push_back(rank.query_heads);
    ffn.push_back(rank.ffn);
    vocabulary.push_back(rank.vocabulary);
    EXPECT_GE(rank.query_heads.size(), 1);
    EXPECT_GE(rank.ffn.size(), 1);
    EXPECT_EQ(rank.sub_group[static_cast<size_t>(rank.sub_index)], rank.rank);
    // Each head's KV head is here.
    const int64_t per_kv = spec.heads / spec.kv_heads;
    EXPECT_LE(rank.kv_heads.begin, rank.query_heads.begin / per_kv);
    EXPECT_GT(rank.kv_heads.end, (rank.query_heads.end - 1) / per_kv);
    for (int s = rank.shards.begin; s < rank.shards.end; ++s) {
      rows_of_shard[static_cast<size_t>(s)] += static_cast<int>(rank.output_rows.size());
    }
    if (size <= spec.kv_heads) {
      EXPECT_EQ(rank.sub_group.size(), 1u);
    } else {
      EXPECT_EQ(rank.shards.size(), 1);
    }
  }
  ExpectCovers(heads, spec.heads);
  ExpectCovers(ffn, spec.ffn);
  ExpectCovers(vocabulary, spec.vocabulary);
  for (const int rows : rows_of_shard) EXPECT_EQ(rows, spec.hidden);  // each partial sum is computed once, whole
  for (const int64_t cut : group.ffn_columns) EXPECT_EQ(cut % ffn_unit, 0);
  EXPECT_EQ(group.ffn_columns.back(), spec.ffn);
  EXPECT_EQ(group.attention_columns.back(), int64_t{spec.heads} * spec.head_dim);
  // Planes cover the shards and finishing them takes exactly one addition less than there are planes.
  int at = 0;
  for (const kernels::ShardRange& plane : group.planes) {
    EXPECT_EQ(plane.begin, at);
    at = plane.end;
  }
  EXPECT_EQ(at, spec.kv_heads);
  EXPECT_EQ(std::accumulate(group.adds_after_plane.begin(), group.adds_after_plane.end(), 0),
            static_cast<int>(group.planes.size()) - 1);
}

TEST(PartitionTest, EverySizeUpToTheQueryHeads) {
  for (int size = 1; size <= 9; ++size) {
    SCOPED_TRACE(absl::StrCat("default shape, T = ", size));
    CheckPartition(DefaultShape(), size, 32);
    CheckPartition(DefaultShape(), size, 256);
  }
  for (int size = 1; size <= 32; ++size) {
    SCOPED_TRACE(absl::StrCat("1.1B shape, T = ", size));
    CheckPartition(OneBillionShape(), size, 32);
    CheckPartition(OneBillionShape(), size, 256);
  }
}

TEST(PartitionTest, ThreeHeadsOnTwoRanksAreTwoAndOne) {
  const GroupPartition group = *MakePartition(DefaultShape(), 2, 32);
  EXPECT_EQ(group.ranks[0].kv_heads.size() + group.ranks[1].kv_heads.size(), 3);
  EXPECT_EQ(std::abs(group.ranks[0].kv_heads.size() - group.ranks[1].kv_heads.size()), 1);
}

TEST(PartitionTest, CutsDoNotDependOnTheSize) {
  const GroupPartition one = *MakePartition(OneBillionShape(), 1, 32);
  for (int size = 2; size <= 32; ++size) {
    const GroupPartition group = *MakePartition(OneBillionShape(), size, 32);
    EXPECT_EQ(group.ffn_columns, one.ffn_columns);
    EXPECT_EQ(group.attention_columns, one.attention_columns);
  }
}

TEST(PartitionTest, RefusesWhatDoesNotFit) {
  EXPECT_EQ(MakePartition(DefaultShape(), 0, 32).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(MakePartition(DefaultShape(), 10, 32).status().code(), absl::StatusCode::kInvalidArgument);
  checkpoint::ModelSpec odd = DefaultShape();
  odd.ffn = 1500;
  EXPECT_EQ(MakePartition(odd, 1, 32).status().code(), absl::StatusCode::kUnimplemented);
}

}  // namespace
}  // namespace pagoda::worker
