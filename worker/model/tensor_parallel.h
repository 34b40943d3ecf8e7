// Who owns what inside one tensor-parallel group: pure arithmetic on a model spec, the same on every rank. Thread-safe.
//
// The model fixes V virtual shards (its KV heads): shard s has the query heads of KV head s and a range of FFN columns.
//   T <= V: rank r owns consecutive whole shards (sizes differ by one at most; 3 shards on 2 ranks: 2 + 1).
//   T >  V: several ranks share a shard (a "sub-group"). They split its query heads (each keeps the KV head) and its FFN
//           columns, put attention output and FFN intermediate together inside the sub-group, and then each computes a slice of the
//           rows of that shard's partial sum.
// After either, the ranks gather the partial sums ("planes") and everyone finishes the same tree: same bits for every T.
#pragma once

#include <cstdint>
#include <vector>

#include "checkpoint/model_spec.h"
#include "common/status.h"
#include "kernels/reduction_tree.h"

namespace pagoda::worker {

struct IndexRange {
  int64_t begin = 0;
  int64_t end = 0;  // exclusive
  int64_t size() const { return end - begin; }
  bool operator==(const IndexRange&) const = default;
};

// Logits are produced and log-sum-exp runs over chunks of this many vocabulary rows; ranks own whole chunks.
inline constexpr int64_t kVocabularyChunk = 1024;

struct RankPartition {
  int tensor_parallel = 1;
  int rank = 0;
  kernels::ShardRange shards;   // owned, or the one that is shared
  std::vector<int> sub_group;   // ranks that share the shard, ascending, this one among them; {rank} when T <= V
  int sub_index = 0;            // of this rank in sub_group
  IndexRange query_heads;       // of the model
  IndexRange kv_heads;          // of the model
  IndexRange ffn;               // columns of the FFN intermediate that this rank computes
  IndexRange down_ffn;          // columns of the FFN intermediate that it multiplies by `down`: of all of `shards`
  IndexRange output_query_heads;  // heads whose output it multiplies by `o`: of all of `shards`
  IndexRange output_rows;       // of o and down: [0, hidden) when T <= V
  IndexRange vocabulary;        // rows of the head; may be empty
  std::vector<kernels::ShardRange> planes;  // what this rank adds to the gather, left to right (T > V: a slice of the one)
};

struct GroupPartition {
  int virtual_shards = 1;
  std::vector<int64_t> attention_columns;   // V + 1 cuts of o's input columns
  std::vector<int64_t> ffn_columns;         // V + 1 cuts of down's input columns
  std::vector<RankPartition> ranks;
  std::vector<kernels::ShardRange> planes;  // of all ranks, left to right
  std::vector<int> adds_after_plane;        // how to finish the tree
};

// `ffn_unit`: FFN cuts are multiples of it: 32, or 256 where the down weights are stored in super-blocks.
// kInvalidArgument when T is not in [1, query heads]; kUnimplemented when the model cannot be cut at multiples of 32 columns.
absl::StatusOr<GroupPartition> MakePartition(const checkpoint::ModelSpec& spec, int tensor_parallel, int ffn_unit);

}  // namespace pagoda::worker
