#include "kernels/reduction_tree.h"

#include <cstddef>

#include <cstddef>

namespace pagoda::kernels {
namespace {

int Middle(ShardRange node) { return node.begin + (node.size() + 1) / 2; }

void CollectOwned(ShardRange node, ShardRange owned, std::vector<ShardRange>& out) {
  if (node.size() <= 0 || node.end <= owned.begin || owned.end <= node.begin) return;
  if (owned.begin <= node.begin && node.end <= owned.end) {
    out.push_back(node);
    return;
  }
  const int middle = Middle(node);
  CollectOwned({node.begin, middle}, owned, out);
  CollectOwned({middle, node.end}, owned, out);
}

// The leaves below `node` are those of `leaves` (ranges, in order); counts one add at the last leaf of each inner node.
void CountAdds(ShardRange node, const std::vector<ShardRange>& leaves, size_t& next,
               std::vector<int>& adds) {
  if (next >= leaves.size()) return;
  if (leaves[next] == node || node.size() <= 1) {
    ++next;
    return;
  }
  const int middle = Middle(node);
  CountAdds({node.begin, middle}, leaves, next, adds);
  CountAdds({middle, node.end}, leaves, next, adds);
  if (next > 0) ++adds[next - 1];
}

}  // namespace

std::vector<ShardRange> OwnedSubtrees(int shards, ShardRange owned) {
  std::vector<ShardRange> out;
  CollectOwned({0, shards}, owned, out);
  return out;
}

std::vector<int> AddsAfterLeaf(ShardRange subtree) {
  std::vector<ShardRange> leaves;
  for (int i = subtree.begin; i < subtree.end; ++i) leaves.push_back({i, i + 1});
  std::vector<int> adds(leaves.size(), 0);
  size_t next = 0;
  CountAdds(subtree, leaves, next, adds);
  return adds;
}

std::vector<int> AddsAfterPlane(int shards, const std::vector<ShardRange>& planes) {
  std::vector<int> adds(planes.size(), 0);
  size_t next = 0;
  CountAdds({0, shards}, planes, next, adds);
  return adds;
}

}  // namespace pagoda::kernels
