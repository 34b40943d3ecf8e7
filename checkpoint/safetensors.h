// The header of a .safetensors file. Internal to this folder.
// Source: the safetensors README: 8 bytes of length, JSON, then the data without holes.
#pragma once

#include <vector>

#include "checkpoint/checkpoint.h"

namespace pagoda::checkpoint {

struct SafetensorsHeader {
  std::vector<TensorInfo> tensors;         // of types that we read; ranges checked
  std::vector<std::string> other_tensors;  // names of the rest (integers, booleans, 8-bit floats)
  uint64_t header_bytes = 0;
};
// `file` goes into TensorInfo::file.
absl::StatusOr<SafetensorsHeader> ReadSafetensorsHeader(const ByteSource& source, int file);

}  // namespace pagoda::checkpoint
