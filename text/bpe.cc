#include "text/bpe.h"

#include <algorithm>
#include <limits>
#include <queue>

namespace pagoda::text {
namespace {

// Below this length a scan for the best pair beats a heap.
constexpr size_t kShortWord = 32;
constexpr uint32_t kNoRank = std::numeric_limits<uint32_t>::max();

uint64_t PairKey(TokenId left, TokenId right) {
  return (static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32) | static_cast<uint32_t>(right);
}

}  // namespace

void MergeTable::Add(TokenId left, TokenId right, uint32_t rank, TokenId result) {
  merges_[PairKey(left, right)] = {rank, result};
}

const MergeTable::Merge* MergeTable::Find(TokenId left, TokenId right) const {
  const auto found = merges_.find(PairKey(left, right));
  return found == merges_.end() ? nullptr : &found->second;
}

void MergeTable::Apply(std::vector<TokenId>* symbols) const {
  if (symbols->size() < 2) return;
  if (symbols->size() <= kShortWord) {
    ApplyShort(symbols);
  } else {
    ApplyLong(symbols);
  }
}

void MergeTable::ApplyShort(std::vector<TokenId>* symbols) const {
  Merge pairs[kShortWord];  // pairs[i] joins i and i + 1
  std::vector<TokenId>& ids = *symbols;
  size_t count = ids.size();
  const auto pair_at = [&](size_t i) {
    const Merge* merge = Find(ids[i], ids[i + 1]);
    return merge != nullptr ? *merge : Merge{kNoRank, -1};
  };
  for (size_t i = 0; i + 1 < count; ++i) pairs[i] = pair_at(i);
  while (count > 1) {
    size_t best = 0;
    for (size_t i = 1; i + 1 < count; ++i) {
      if (pairs[i].rank < pairs[best].rank) best = i;
    }
    if (pairs[best].rank == kNoRank) break;
    ids[best] = pairs[best].result;
    for (size_t i = best + 1; i + 1 < count; ++i) {
      ids[i] = ids[i + 1];
      pairs[i - 1] = pairs[i];
    }
    --count;
    if (best + 1 < count) pairs[best] = pair_at(best);
    if (best > 0) pairs[best - 1] = pair_at(best - 1);
  }
  ids.resize(count);
}

void MergeTable::ApplyLong(std::vector<TokenId>* symbols) const {
  struct Link {
    int32_t previous;
    int32_t next;
  };
  struct Candidate {
    uint32_t rank;
    int32_t position;
    TokenId result;
    bool operator>(const Candidate& other) const {
      return rank != other.rank ? rank > other.rank : position > other.position;
    }
  };
  std::vector<TokenId>& ids = *symbols;
  const auto count = static_cast<int32_t>(ids.size());
  std::vector<Link> links(ids.size());
  std::vector<Candidate> first;
  for (int32_t i = 0; i < count; ++i) {
    links[i] = {i - 1, i + 1 < count ? i + 1 : -1};
    if (i + 1 == count) break;
    if (const Merge* merge = Find(ids[i], ids[i + 1])) {
      first.push_back({merge->rank, i, merge->result});
    }
  }
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> queue(std::greater<>(),
                                                                               std::move(first));
  const auto push = [&](int32_t position) {
    if (position < 0 || links[position].next < 0) return;
    if (const Merge* merge = Find(ids[position], ids[links[position].next])) {
      queue.push({merge->rank, position, merge->result});
    }
  };
  while (!queue.empty()) {
    const Candidate top = queue.top();
    queue.pop();
    if (ids[top.position] < 0) continue;  // was joined to its left neighbour
    const int32_t next = links[top.position].next;
    if (next < 0) continue;
    const Merge* merge = Find(ids[top.position], ids[next]);
    if (merge == nullptr || merge->result != top.result) continue;  // its neighbours changed
    ids[top.position] = top.result;
    ids[next] = -1;
    links[top.position].next = links[next].next;
    if (links[next].next >= 0) links[links[next].next].previous = top.position;
    push(links[top.position].previous);
    push(top.position);
  }
  int32_t out = 0;
  for (int32_t i = 0; i >= 0; i = links[i].next) ids[out++] = ids[i];
  ids.resize(out);
}

}  // namespace pagoda::text
