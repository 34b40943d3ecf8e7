#include "common/block_hash.h"

#include <openssl/sha.h>

#include <cstring>

#include "common/status.h"

namespace pagoda {

static BlockHash Cut(const unsigned char* digest) {
  BlockHash hash;
  std::memcpy(&hash.high, digest, 8);
  std::memcpy(&hash.low, digest + 8, 8);
  return hash;
}

BlockHash ChainStart(std::string_view salt) {
  unsigned char digest[SHA256_DIGEST_LENGTH];
  SHA256(reinterpret_cast<const unsigned char*>(salt.data()), salt.size(), digest);
  return Cut(digest);
}

BlockHash ChainNext(const BlockHash& previous, std::span<const TokenId> block) {
  std::vector<unsigned char> message(16 + block.size_bytes());
  std::memcpy(message.data(), &previous.high, 8);
  std::memcpy(message.data() + 8, &previous.low, 8);
  std::memcpy(message.data() + 16, block.data(), block.size_bytes());
  unsigned char digest[SHA256_DIGEST_LENGTH];
  SHA256(message.data(), message.size(), digest);
  return Cut(digest);
}

std::vector<BlockHash> HashFullBlocks(std::string_view salt, std::span<const TokenId> tokens,
                                      int block_tokens) {
  PAGODA_CHECK(block_tokens > 0);
  std::vector<BlockHash> hashes;
  BlockHash chain = ChainStart(salt);
  const size_t step = static_cast<size_t>(block_tokens);
  for (size_t begin = 0; begin + step <= tokens.size(); begin += step) {
    chain = ChainNext(chain, tokens.subspan(begin, step));
    hashes.push_back(chain);
  }
  return hashes;
}

}  // namespace pagoda
