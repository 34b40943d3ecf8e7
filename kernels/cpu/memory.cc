#include "kernels/cpu/memory.h"

#include <sys/mman.h>

namespace pagoda::kernels::cpu {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;
// Only what is used of a chunk takes memory, but for the rest of a huge page at its end: few and large.
constexpr size_t kChunk = size_t{256} << 20;
constexpr size_t kOwnMapping = size_t{16} << 20;

size_t RoundUp(size_t value, size_t unit) { return (value + unit - 1) / unit * unit; }

}  // namespace

Memory MapMemory(size_t bytes) {
  // Huge pages need an aligned start, which mmap does not promise: map more and give back the edges.
  const size_t size = RoundUp(bytes == 0 ? 1 : bytes, bytes >= kHugePage ? kHugePage : 4096);
  const size_t spare = bytes >= kHugePage ? kHugePage : 0;
  if (size < bytes) return nullptr;
  void* mapped = mmap(nullptr, size + spare, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) return nullptr;
  auto* begin = static_cast<uint8_t*>(mapped);
  if (spare != 0) {
    const size_t skip = RoundUp(reinterpret_cast<uintptr_t>(begin), kHugePage) - reinterpret_cast<uintptr_t>(begin);
    if (skip != 0) munmap(begin, skip);
    if (skip != spare) munmap(begin + skip + size, spare - skip);
    begin += skip;
    madvise(begin, size, MADV_HUGEPAGE);
  }
  return Memory(begin, [size](uint8_t* data) { munmap(data, size); });
}

Memory HugeArena::Allocate(size_t bytes) {
  const size_t size = RoundUp(bytes == 0 ? 1 : bytes, 64);
  if (size >= kOwnMapping) return MapMemory(bytes);
  if (chunk_ == nullptr || used_ + size > kChunk) {
    chunk_ = MapMemory(kChunk);
    used_ = 0;
    if (chunk_ == nullptr) return nullptr;
  }
  Memory part(chunk_, chunk_.get() + used_);
  used_ += size;
  return part;
}

}  // namespace pagoda::kernels::cpu
