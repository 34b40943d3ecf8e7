// Philox4x32-10, the counter-based generator: a block of four random words is a pure function of a counter and a key, so the
// random numbers of a sequence depend on (seed, choice, output index) and on nothing that happened around it.
// Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC'11), and its known-answer vectors (tests).
#pragma once

#include <array>
#include <cstdint>

namespace pagoda::worker {

using PhiloxBlock = std::array<uint32_t, 4>;
using PhiloxKey = std::array<uint32_t, 2>;

constexpr PhiloxBlock Philox4x32(PhiloxBlock counter, PhiloxKey key) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = uint64_t{0xD2511F53} * counter[0];
    const uint64_t product1 = uint64_t{0xCD9E8D57} * counter[2];
    counter = {static_cast<uint32_t>(product1 >> 32) ^ counter[1] ^ key[0], static_cast<uint32_t>(product1),
               static_cast<uint32_t>(product0 >> 32) ^ counter[3] ^ key[1], static_cast<uint32_t>(product0)};
    key[0] += 0x9E3779B9;
    key[1] += 0xBB67AE85;
  }
  return counter;
}

// Uniform in [0, 1), 53 bits.
constexpr double UniformOf(uint64_t seed, uint32_t choice, uint32_t output_index) {
  const PhiloxBlock block = Philox4x32({output_index, choice, 0, 0},
                                       {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)});
  const uint64_t bits = (uint64_t{block[1]} << 32) | block[0];
  return static_cast<double>(bits >> 11) * 0x1.0p-53;
}

}  // namespace pagoda::worker
