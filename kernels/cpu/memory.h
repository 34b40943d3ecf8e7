// Memory for weights, activations and KV: zero-filled, 64-byte aligned, on huge pages where it is large. An arena hands out
// parts of 256 MiB mappings, so that many middle-sized matrices share huge pages; a mapping goes back when all its parts are
// gone. One thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

namespace pagoda::kernels::cpu {

using Memory = std::shared_ptr<uint8_t>;

class HugeArena {
 public:
  // Null when the system has no memory.
  Memory Allocate(size_t bytes);

 private:
  Memory chunk_;
  size_t used_ = 0;
};

// A mapping of its own. Null when the system has no memory.
Memory MapMemory(size_t bytes);

}  // namespace pagoda::kernels::cpu
