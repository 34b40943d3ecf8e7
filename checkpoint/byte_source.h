// Where the bytes of a model come from: a file here, a hub over HTTPS, a peer worker. Ranges only; nobody has to hold a
// whole model. Implementations are safe to call from several threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "common/status.h"

namespace pagoda::checkpoint {

class ByteSource {
 public:
  virtual ~ByteSource() = default;
  virtual uint64_t size() const = 0;
  virtual std::string name() const = 0;  // for messages
  // Fills `out` from `offset`. kOutOfRange past the end, kUnavailable when the source is gone.
  virtual absl::Status Read(uint64_t offset, std::span<std::byte> out) const = 0;
  // The bytes in place, or nullptr when this source cannot map (then use Read).
  virtual const std::byte* Map(uint64_t offset, uint64_t length) const = 0;
  // Mapped bytes that will not be read soon: they may leave this process's memory, and come back when they are read.
  virtual void Release(uint64_t /*offset*/, uint64_t /*length*/) const {}
};

// A local file, mapped read-only.
absl::StatusOr<std::shared_ptr<ByteSource>> OpenFile(const std::string& path);

}  // namespace pagoda::checkpoint
