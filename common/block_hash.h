// The chained hash of full KV blocks: hash(i) = SHA-256(hash(i-1) | tokens of block i), cut to 128 bits; the chain starts
// from a hash of the tenant's salt, so that no tenant can probe another's prefix cache. Router (affinity) and coordinator
// (prefix cache) compute the same values.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "common/ids.h"

namespace pagoda {

struct BlockHash {
  uint64_t high = 0;
  uint64_t low = 0;
  auto operator<=>(const BlockHash&) const = default;
  template <typename H>
  friend H AbslHashValue(H state, const BlockHash& hash) {
    return H::combine(std::move(state), hash.high, hash.low);
  }
};

BlockHash ChainStart(std::string_view salt);
BlockHash ChainNext(const BlockHash& previous, std::span<const TokenId> block);
// One hash per full block of `block_tokens` tokens; a partial last block has none.
std::vector<BlockHash> HashFullBlocks(std::string_view salt, std::span<const TokenId> tokens,
                                      int block_tokens);

}  // namespace pagoda

template <>
struct std::hash<pagoda::BlockHash> {
  size_t operator()(const pagoda::BlockHash& hash) const { return static_cast<size_t>(hash.low); }
};
