// Which pipelines have lately been given which prompt prefixes: an LRU map from block hash to
// pipelines, bounded by bytes. A guess by the router about the coordinators' prefix caches; being
// wrong costs time, never correctness. Not thread-safe.
#pragma once

#include <cstddef>
#include <list>
#include <span>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "common/block_hash.h"
#include "router/cluster_view.h"

namespace pagoda::router {

class PrefixIndex {
 public:
  explicit PrefixIndex(size_t capacity_bytes);

  // Leading blocks of `chain` that `pipeline` has been given.
  int MatchedBlocks(std::span<const BlockHash> chain, PipelineKey pipeline) const;
  // Notes that `pipeline` computes `chain`.
  void Insert(std::span<const BlockHash> chain, PipelineKey pipeline);
  // Forgets a pipeline that is gone.
  void Erase(PipelineKey pipeline);

  size_t entries() const { return entries_.size(); }
  static constexpr size_t kBytesPerEntry = 160;  // hash, list node, map slot, two pipelines
  static constexpr size_t kMaxPipelinesPerEntry = 4;

 private:
  struct Entry {
    std::vector<PipelineKey> pipelines;  // latest first
    std::list<BlockHash>::iterator place;
  };
  const size_t capacity_;  // entries
  absl::flat_hash_map<BlockHash, Entry> entries_;
  std::list<BlockHash> by_use_;  // latest first
};

}  // namespace pagoda::router
