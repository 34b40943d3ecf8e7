#include "tests/fakes/gguf_writer.h"

#include <utility>

namespace pagoda::testing {
namespace {

constexpr uint64_t kAlignment = 32;
constexpr uint32_t kUint32 = 4, kInt32 = 5, kFloat32 = 6, kBool = 7, kString = 8, kArray = 9;

void Pad(std::string& bytes) {
  bytes.resize((bytes.size() + kAlignment - 1) / kAlignment * kAlignment, '\0');
}

}  // namespace

std::string RawString(std::string_view text) {
  return Raw<uint64_t>(text.size()) + std::string(text);
}

void GgufWriter::AddRaw(std::string_view key, uint32_t type, std::string_view bytes) {
  metadata_ += RawString(key) + Raw(type);
  metadata_ += bytes;
  ++values_;
}

void GgufWriter::AddUint32(std::string_view key, uint32_t value) {
  AddRaw(key, kUint32, Raw(value));
}
void GgufWriter::AddFloat(std::string_view key, float value) { AddRaw(key, kFloat32, Raw(value)); }
void GgufWriter::AddBool(std::string_view key, bool value) {
  AddRaw(key, kBool, Raw<uint8_t>(value ? 1 : 0));
}
void GgufWriter::AddString(std::string_view key, std::string_view value) {
  AddRaw(key, kString, RawString(value));
}

void GgufWriter::AddStrings(std::string_view key, const std::vector<std::string>& values) {
  std::string bytes = Raw(kString) + Raw<uint64_t>(values.size());
  for (const std::string& value : values) bytes += RawString(value);
  AddRaw(key, kArray, bytes);
}

void GgufWriter::AddInts(std::string_view key, const std::vector<int32_t>& values) {
  std::string bytes = Raw(kInt32) + Raw<uint64_t>(values.size());
  for (const int32_t value : values) bytes += Raw(value);
  AddRaw(key, kArray, bytes);
}

void GgufWriter::AddTensor(std::string_view name, const std::vector<uint64_t>& dimensions,
                           uint32_t type, std::string bytes) {
  AddTensorAt(name, dimensions, type, data_bytes_, std::move(bytes));
}

void GgufWriter::AddTensorAt(std::string_view name, const std::vector<uint64_t>& dimensions,
                             uint32_t type, uint64_t offset, std::string bytes) {
  std::string header = RawString(name) + Raw<uint32_t>(static_cast<uint32_t>(dimensions.size()));
  for (const uint64_t dimension : dimensions) header += Raw(dimension);
  header += Raw(type) + Raw(offset);
  Pad(bytes);
  data_bytes_ += bytes.size();
  tensors_.push_back({std::move(header), std::move(bytes)});
}

std::string GgufWriter::Finish() const { return FinishWithCounts(tensors_.size(), values_); }

std::string GgufWriter::FinishWithCounts(uint64_t tensors, uint64_t values) const {
  std::string file = "GGUF" + Raw(version_) + Raw(tensors) + Raw(values) + metadata_;
  for (const Tensor& tensor : tensors_) file += tensor.header;
  Pad(file);
  for (const Tensor& tensor : tensors_) file += tensor.bytes;
  return file;
}

std::string BuildSafetensorsRaw(std::string_view header, std::string_view data) {
  return Raw<uint64_t>(header.size()) + std::string(header) + std::string(data);
}

std::string BuildSafetensors(const std::vector<SafetensorsEntry>& entries) {
  std::string header = R"({"__metadata__":{"format":"pt"})";
  std::string data;
  for (const SafetensorsEntry& entry : entries) {
    header += ",\"" + entry.name + "\":{\"dtype\":\"" + entry.dtype + "\",\"shape\":[";
    for (size_t i = 0; i < entry.shape.size(); ++i)
      header += (i == 0 ? "" : ",") + std::to_string(entry.shape[i]);
    header += "],\"data_offsets\":[" + std::to_string(data.size());
    data += entry.bytes;
    header += "," + std::to_string(data.size()) + "]}";
  }
  header += "}";
  header.resize((header.size() + 7) / 8 * 8, ' ');
  return BuildSafetensorsRaw(header, data);
}

}  // namespace pagoda::testing
