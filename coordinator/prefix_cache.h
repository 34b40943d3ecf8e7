// Which full KV blocks hold which tokens, by chained hash (common/block_hash.h): so that a prompt that begins as an earlier
// one did skips what was computed. A block enters when the results of its rows were read. While a sequence holds it, it is
// simply shared; when the last holder goes it is parked in least-recently-used order and given up from the front when room
// is needed. Sequences release their blocks from the tail, so a chain is given up from its leaf.
// Owned by the pipeline's engine thread; no locks. Must be destroyed before the pool.
#pragma once

#include <list>
#include <optional>
#include <span>
#include <unordered_map>
#include <vector>

#include "common/block_hash.h"
#include "coordinator/block_pool.h"

namespace pagoda::coordinator {

class PrefixCache final : public BlockKeeper {
 public:
  explicit PrefixCache(BlockPool& pool);
  ~PrefixCache() override;  // gives up everything; no handle may be left

  // Handles to the blocks of the longest known beginning of `chain` (hash i covers blocks 0..i).
  std::vector<BlockHandle> Match(std::span<const BlockHash> chain);
  bool Knows(const BlockHash& hash) const { return by_hash_.contains(hash); }
  // `block`, in use, now holds the tokens of `hash`. A hash that is known keeps its block: then nothing happens
  // and the answer is false.
  bool Insert(const BlockHash& hash, BlockId block);

  // Free, or parked and given up for this. Nothing when every block is in use.
  std::optional<BlockHandle> Allocate();
  // How many Allocate() calls would work now.
  int available() const { return pool_.free() + static_cast<int>(parked_.size()); }
  int entries() const { return static_cast<int>(by_hash_.size()); }
  void Clear();  // forgets everything; blocks in use stay so

  bool Keep(BlockId block) override;

 private:
  struct Slot {
    std::optional<BlockHash> hash;
    std::list<BlockId>::iterator parked_at;  // valid when the pool says that it is parked
  };
  Slot& SlotOf(BlockId block) { return slots_[static_cast<size_t>(block.value())]; }
  void GiveUpOldest();

  BlockPool& pool_;
  std::unordered_map<BlockHash, BlockId> by_hash_;
  std::vector<Slot> slots_;       // per block
  std::list<BlockId> parked_;     // front: least recently used
};

}  // namespace pagoda::coordinator
