#include "router/policy/prefix_index.h"

#include <algorithm>

namespace pagoda::router {

PrefixIndex::PrefixIndex(size_t capacity_bytes)
    : capacity_(std::max<size_t>(1, capacity_bytes / kBytesPerEntry)) {}

int PrefixIndex::MatchedBlocks(std::span<const BlockHash> chain, PipelineKey pipeline) const {
  int matched = 0;
  for (const BlockHash& hash : chain) {
    const auto found = entries_.find(hash);
    if (found == entries_.end() || std::ranges::count(found->second.pipelines, pipeline) == 0)
      break;
    ++matched;
  }
  return matched;
}

void PrefixIndex::Insert(std::span<const BlockHash> chain, PipelineKey pipeline) {
  // A chain longer than the whole index would push out its own head, without which the rest can
  // never match.
  chain = chain.first(std::min(chain.size(), capacity_));
  // From the tail on, so that the head, which more prompts share, is the last to be forgotten.
  for (size_t i = chain.size(); i-- > 0;) {
    const auto [found, added] = entries_.try_emplace(chain[i]);
    Entry& entry = found->second;
    if (added) {
      by_use_.push_front(chain[i]);
      entry.place = by_use_.begin();
    } else {
      by_use_.splice(by_use_.begin(), by_use_, entry.place);
    }
    std::erase(entry.pipelines, pipeline);
    entry.pipelines.insert(entry.pipelines.begin(), pipeline);
    if (entry.pipelines.size() > kMaxPipelinesPerEntry) entry.pipelines.pop_back();
  }
  while (entries_.size() > capacity_) {
    entries_.erase(by_use_.back());
    by_use_.pop_back();
  }
}

void PrefixIndex::Erase(PipelineKey pipeline) {
  for (auto place = by_use_.begin(); place != by_use_.end();) {
    auto found = entries_.find(*place);
    std::erase(found->second.pipelines, pipeline);
    if (found->second.pipelines.empty()) {
      entries_.erase(found);
      place = by_use_.erase(place);
    } else {
      ++place;
    }
  }
}

}  // namespace pagoda::router
