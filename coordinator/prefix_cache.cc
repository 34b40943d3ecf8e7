#include "coordinator/prefix_cache.h"

#include <utility>

namespace pagoda::coordinator {

PrefixCache::PrefixCache(BlockPool& pool) : pool_(pool), slots_(static_cast<size_t>(pool.total())) {
  pool_.SetKeeper(this);
}

PrefixCache::~PrefixCache() {
  Clear();
  pool_.SetKeeper(nullptr);
}

std::vector<BlockHandle> PrefixCache::Match(std::span<const BlockHash> chain) {
  std::vector<BlockHandle> found;
  for (const BlockHash& hash : chain) {
    const auto entry = by_hash_.find(hash);
    if (entry == by_hash_.end()) break;
    const BlockId block = entry->second;
    if (pool_.is_parked(block)) {
      parked_.erase(SlotOf(block).parked_at);
      found.push_back(pool_.Reclaim(block));
    } else {
      found.push_back(pool_.Share(block));
    }
  }
  return found;
}

bool PrefixCache::Insert(const BlockHash& hash, BlockId block) {
  Slot& slot = SlotOf(block);
  if (slot.hash.has_value()) return false;
  if (!by_hash_.emplace(hash, block).second) return false;
  slot.hash = hash;
  return true;
}

std::optional<BlockHandle> PrefixCache::Allocate() {
  if (pool_.free() == 0 && !parked_.empty()) GiveUpOldest();
  return pool_.Allocate();
}

void PrefixCache::Clear() {
  while (!parked_.empty()) GiveUpOldest();
  for (auto& [hash, block] : by_hash_) SlotOf(block).hash.reset();
  by_hash_.clear();
}

bool PrefixCache::Keep(BlockId block) {
  Slot& slot = SlotOf(block);
  if (!slot.hash.has_value()) return false;
  parked_.push_back(block);
  slot.parked_at = std::prev(parked_.end());
  return true;
}

void PrefixCache::GiveUpOldest() {
  const BlockId block = parked_.front();
  parked_.pop_front();
  Slot& slot = SlotOf(block);
  by_hash_.erase(*slot.hash);
  slot.hash.reset();
  pool_.Unpark(block);
}

}  // namespace pagoda::coordinator
