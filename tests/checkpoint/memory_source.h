// A ByteSource over a string, on its own heap block so that AddressSanitizer sees a read past its
// end.
#pragma once

#include <cstring>
#include <memory>
#include <string>

#include "checkpoint/byte_source.h"

namespace pagoda::checkpoint {

class MemorySource final : public ByteSource {
 public:
  explicit MemorySource(const std::string& bytes, bool can_map = true)
      : size_(bytes.size()), can_map_(can_map), bytes_(new std::byte[bytes.size()]) {
    std::memcpy(bytes_.get(), bytes.data(), bytes.size());
  }
  uint64_t size() const override { return size_; }
  std::string name() const override { return "memory"; }
  absl::Status Read(uint64_t offset, std::span<std::byte> out) const override {
    if (offset > size_ || out.size() > size_ - offset)
      return absl::OutOfRangeError("past the end of memory");
    if (!out.empty()) std::memcpy(out.data(), bytes_.get() + offset, out.size());
    return absl::OkStatus();
  }
  const std::byte* Map(uint64_t offset, uint64_t length) const override {
    if (!can_map_ || offset > size_ || length > size_ - offset) return nullptr;
    return bytes_.get() + offset;
  }

 private:
  const uint64_t size_;
  const bool can_map_;
  const std::unique_ptr<std::byte[]> bytes_;
};

}  // namespace pagoda::checkpoint
