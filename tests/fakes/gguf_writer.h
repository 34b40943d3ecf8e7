// Writes GGUF and safetensors files in memory, field by field, so that a test may also write wrong
// ones.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace pagoda::testing {

class GgufWriter {
 public:
  explicit GgufWriter(uint32_t version = 3) : version_(version) {}

  void AddUint32(std::string_view key, uint32_t value);
  void AddFloat(std::string_view key, float value);
  void AddBool(std::string_view key, bool value);
  void AddString(std::string_view key, std::string_view value);
  void AddStrings(std::string_view key, const std::vector<std::string>& values);
  void AddInts(std::string_view key, const std::vector<int32_t>& values);
  // Any value: its GGUF type number and its bytes as they are in the file.
  void AddRaw(std::string_view key, uint32_t type, std::string_view bytes);

  // Dimensions as GGUF has them (columns first); `type` is ggml's number. Data is laid out in the
  // order of the calls.
  void AddTensor(std::string_view name, const std::vector<uint64_t>& dimensions, uint32_t type,
                 std::string bytes);
  // The same with an offset of the caller's; `bytes` may be empty.
  void AddTensorAt(std::string_view name, const std::vector<uint64_t>& dimensions, uint32_t type,
                   uint64_t offset, std::string bytes);

  std::string Finish() const;
  // With these numbers in the header, whatever was added.
  std::string FinishWithCounts(uint64_t tensors, uint64_t values) const;

 private:
  struct Tensor {
    std::string header;
    std::string bytes;
  };
  const uint32_t version_;
  uint64_t values_ = 0;
  std::string metadata_;
  std::vector<Tensor> tensors_;
  uint64_t data_bytes_ = 0;
};

struct SafetensorsEntry {
  std::string name;
  std::string dtype;  // "F32", "F16", "BF16"
  std::vector<int64_t> shape;
  std::string bytes;
};
std::string BuildSafetensors(const std::vector<SafetensorsEntry>& entries);
// A file with this header text and these data bytes.
std::string BuildSafetensorsRaw(std::string_view header, std::string_view data);

// The bytes of a number, little-endian.
template <typename T>
std::string Raw(T value) {
  return std::string(reinterpret_cast<const char*>(&value), sizeof(value));
}
std::string RawString(std::string_view text);  // as GGUF: 8 bytes of length, then the text

}  // namespace pagoda::testing
