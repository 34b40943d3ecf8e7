#include "worker/model/tensor_parallel.h"

#include <algorithm>

#include "kernels/numerics.h"

namespace pagoda::worker {
namespace {

using kernels::ShardRange;

// Part `index` of `parts` of [begin, end), cut at multiples of `unit` from begin (of 1 when there are fewer units than parts).
IndexRange Cut(IndexRange whole, int parts, int index, int64_t unit) {
  if (whole.size() / unit < parts || whole.size() % unit != 0) unit = 1;
  const int64_t units = whole.size() / unit;
  return {whole.begin + units * index / parts * unit, whole.begin + units * (index + 1) / parts * unit};
}

absl::StatusOr<std::vector<int64_t>> FfnCuts(const checkpoint::ModelSpec& spec, int ffn_unit) {
  const int shards = spec.virtual_shards();
  int64_t unit = ffn_unit;
  if (spec.ffn % unit != 0 || spec.ffn / unit < shards) unit = kernels::kQuantBlock;
  if (spec.ffn % unit != 0 || spec.ffn / unit < shards) {
    return absl::UnimplementedError(absl::StrCat("the FFN has ", spec.ffn, " columns: they cannot be cut into ", shards,
                                                 " parts at multiples of ", kernels::kQuantBlock));
  }
  std::vector<int64_t> cuts;
  for (int i = 0; i <= shards; ++i) cuts.push_back(spec.ffn / unit * i / shards * unit);
  return cuts;
}

// Which ranks own or share which shards.
void AssignShards(int shards, RankPartition& rank) {
  const int size = rank.tensor_parallel;
  if (size <= shards) {
    rank.shards = {shards * rank.rank / size, shards * (rank.rank + 1) / size};
    rank.sub_group = {rank.rank};
    rank.sub_index = 0;
    return;
  }
  for (int s = 0; s < shards; ++s) {
    const int begin = size * s / shards;
    const int end = size * (s + 1) / shards;
    if (rank.rank < begin || rank.rank >= end) continue;
    rank.shards = {s, s + 1};
    rank.sub_index = rank.rank - begin;
    for (int member = begin; member < end; ++member) rank.sub_group.push_back(member);
  }
}

void FillRanges(const checkpoint::ModelSpec& spec, const GroupPartition& group, RankPartition& rank) {
  const int64_t heads_per_shard = spec.heads / group.virtual_shards;
  const int members = static_cast<int>(rank.sub_group.size());
  rank.kv_heads = {rank.shards.begin, rank.shards.end};
  rank.output_query_heads = {rank.shards.begin * heads_per_shard, rank.shards.end * heads_per_shard};
  rank.query_heads = Cut(rank.output_query_heads, members, rank.sub_index, 1);
  rank.down_ffn = {group.ffn_columns[rank.shards.begin], group.ffn_columns[rank.shards.end]};
  rank.ffn = Cut(rank.down_ffn, members, rank.sub_index, kernels::kQuantBlock);
  rank.output_rows = Cut({0, spec.hidden}, members, rank.sub_index, 16);
  const int64_t chunks = (spec.vocabulary + kVocabularyChunk - 1) / kVocabularyChunk;
  const auto vocabulary_cut = [&](int i) {
    return std::min<int64_t>(spec.vocabulary, chunks * i / rank.tensor_parallel * kVocabularyChunk);
  };
  rank.vocabulary = {vocabulary_cut(rank.rank), vocabulary_cut(rank.rank + 1)};
  rank.planes = kernels::OwnedSubtrees(group.virtual_shards, rank.shards);
}

}  // namespace

absl::StatusOr<GroupPartition> MakePartition(const checkpoint::ModelSpec& spec, int tensor_parallel, int ffn_unit) {
  if (tensor_parallel < 1 || tensor_parallel > spec.heads) {
    return absl::InvalidArgumentError(absl::StrCat("tensor parallel size ", tensor_parallel, ": this model takes 1 to ",
                                                   spec.heads, " (its query heads)"));
  }
  GroupPartition group;
  group.virtual_shards = spec.virtual_shards();
  const int64_t attention_columns = static_cast<int64_t>(spec.heads) * spec.head_dim / group.virtual_shards;
  if (attention_columns % kernels::kQuantBlock != 0 || spec.hidden % kernels::kQuantBlock != 0) {
    return absl::UnimplementedError(
        absl::StrCat("hidden size ", spec.hidden, " and query heads per KV head times head size ", attention_columns,
                     " must be multiples of ", kernels::kQuantBlock));
  }
  for (int i = 0; i <= group.virtual_shards; ++i) group.attention_columns.push_back(attention_columns * i);
  PAGODA_ASSIGN_OR_RETURN(group.ffn_columns, FfnCuts(spec, ffn_unit));
  for (int r = 0; r < tensor_parallel; ++r) {
    RankPartition rank{.tensor_parallel = tensor_parallel, .rank = r};
    AssignShards(group.virtual_shards, rank);
    FillRanges(spec, group, rank);
    if (rank.sub_index == 0) group.planes.insert(group.planes.end(), rank.planes.begin(), rank.planes.end());
    group.ranks.push_back(std::move(rank));
  }
  group.adds_after_plane = kernels::AddsAfterPlane(group.virtual_shards, group.planes);
  return group;
}

}  // namespace pagoda::worker
