// The one order in which the partial sums of a tensor-parallel layer are added (design section 5), whoever owns them.
//
// A layer's sum over its input columns is cut into `shards` virtual shards fixed by the model. Their f32 partial sums are
// the leaves of a balanced binary tree: node [begin, end) adds [begin, mid) and [mid, end), mid = begin + (end-begin+1)/2.
// A rank that owns shards [a, b) adds every subtree that lies wholly inside [a, b) and sends the maximal ones ("planes");
// anyone who has all planes finishes the tree. The result is the same bits for every number of ranks.
#pragma once

#include <vector>

namespace pagoda::kernels {

struct ShardRange {
  int begin = 0;
  int end = 0;  // exclusive
  int size() const { return end - begin; }
  bool operator==(const ShardRange&) const = default;
};

// The maximal subtrees of the tree over `shards` leaves inside `owned`, left to right.
std::vector<ShardRange> OwnedSubtrees(int shards, ShardRange owned);

// How to add one subtree while its leaves are produced left to right, with a stack: after leaf i (counted within the
// subtree) pop and add `adds_after_leaf[i]` times (left operand below right operand).
std::vector<int> AddsAfterLeaf(ShardRange subtree);

// How to finish the tree from the planes of all ranks, left to right: after plane i pop and add `adds_after_plane[i]` times.
// Requires: planes are disjoint subtrees that cover [0, shards) in order.
std::vector<int> AddsAfterPlane(int shards, const std::vector<ShardRange>& planes);

}  // namespace pagoda::kernels
