// The key-value part of a GGUF file (v2, v3), parsed without its tensors' data. Also what text/ reads a tokenizer from.
// Source: ggml docs/gguf.md.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "common/status.h"

namespace pagoda::checkpoint {

struct GgufTensorHeader {
  std::string name;
  std::vector<uint64_t> dimensions;  // as in the file: columns first
  uint32_t type = 0;
  uint64_t offset = 0;  // from data_begin
  uint64_t at = 0;      // this entry's place in the file, for errors
};

// Arrays keep their element kind; integers are widened to (u)int64, floats to double.
struct GgufValue {
  std::variant<std::monostate, uint64_t, int64_t, double, bool, std::string, std::vector<uint64_t>,
               std::vector<int64_t>, std::vector<double>, std::vector<bool>, std::vector<std::string>>
      value;
};

class GgufHeader {
 public:
  // `bytes` is the beginning of a file of `file_size` bytes. kOutOfRange (with how many bytes would help) when the header
  // goes on past `bytes`; kInvalidArgument with the offset when it is malformed.
  static absl::StatusOr<GgufHeader> Parse(std::span<const std::byte> bytes, uint64_t file_size);

  std::optional<uint64_t> FindUint(const std::string& key) const;   // any integer kind that is >= 0
  std::optional<double> FindFloat(const std::string& key) const;
  std::optional<bool> FindBool(const std::string& key) const;
  const std::string* FindString(const std::string& key) const;
  const std::vector<std::string>* FindStrings(const std::string& key) const;
  std::optional<std::vector<double>> FindNumbers(const std::string& key) const;  // any numeric array

  uint32_t version = 0;
  std::map<std::string, GgufValue> values;
  std::vector<GgufTensorHeader> tensors;
  uint64_t metadata_bytes = 0;  // up to the last byte of the key-value part
  uint64_t header_bytes = 0;    // up to the last byte of the tensor list
  uint64_t data_begin = 0;      // aligned
};

}  // namespace pagoda::checkpoint
