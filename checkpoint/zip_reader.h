// Reads members of a zip archive (a Python wheel) without trust: every number is checked against
// the file, nothing is written but what the caller names. No zip64, no encryption. Internal to this
// folder. Source: PKWARE APPNOTE 4.3.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "checkpoint/byte_source.h"

namespace pagoda::checkpoint {

struct ZipMember {
  std::string name;  // as in the archive: never use it as a path
  uint16_t method = 0;
  uint32_t crc = 0;
  uint64_t compressed_bytes = 0;
  uint64_t bytes = 0;
  uint64_t header_offset = 0;
};

absl::StatusOr<std::vector<ZipMember>> ListZip(const ByteSource& archive);
// Writes the member to `path` and checks its size and CRC; a file that fails is removed.
absl::Status ExtractZipMember(const ByteSource& archive, const ZipMember& member,
                              const std::string& path);

}  // namespace pagoda::checkpoint
