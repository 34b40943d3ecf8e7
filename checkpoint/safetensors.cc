#include "checkpoint/safetensors.h"

#include <algorithm>
#include <limits>
#include <map>
#include <optional>

#include "checkpoint/strict_json.h"
#include "common/limits.h"

namespace pagoda::checkpoint {
namespace {

constexpr uint64_t kLengthBytes = 8;
constexpr size_t kMaxTensorDimensions = 8;

struct DataType {
  uint64_t bytes;
  std::optional<TensorType> type;
};

const DataType* FindDataType(const std::string& name) {
  static const std::map<std::string, DataType> kTypes = {
      {"F32", {4, TensorType::kF32}},
      {"F16", {2, TensorType::kF16}},
      {"BF16", {2, TensorType::kBF16}},
      {"F64", {8, {}}},
      {"I64", {8, {}}},
      {"U64", {8, {}}},
      {"I32", {4, {}}},
      {"U32", {4, {}}},
      {"I16", {2, {}}},
      {"U16", {2, {}}},
      {"I8", {1, {}}},
      {"U8", {1, {}}},
      {"BOOL", {1, {}}},
      {"F8_E4M3", {1, {}}},
      {"F8_E5M2", {1, {}}},
  };
  const auto found = kTypes.find(name);
  return found == kTypes.end() ? nullptr : &found->second;
}

struct Range {
  uint64_t begin;
  uint64_t end;
  std::string name;
};

absl::Status Malformed(std::string_view tensor, std::string_view problem) {
  return absl::InvalidArgumentError(
      absl::StrCat("safetensors header: tensor ", AsAbsl(tensor), " ", AsAbsl(problem)));
}

absl::StatusOr<std::vector<uint64_t>> Numbers(const Json& entry, const char* key,
                                              const std::string& tensor, size_t most) {
  const auto found = entry.find(key);
  if (found == entry.end() || !found->is_array() || found->size() > most) {
    return Malformed(tensor,
                     absl::StrCat("has no array \"", key, "\" of at most ", most, " numbers"));
  }
  std::vector<uint64_t> numbers;
  for (const Json& number : *found) {
    if (!number.is_number_unsigned())
      return Malformed(tensor, absl::StrCat("has a \"", key, "\" that is no count"));
    numbers.push_back(number.get<uint64_t>());
  }
  return numbers;
}

// Checks one entry and adds it to `header`. `data_size`: bytes after the header.
absl::StatusOr<Range> ReadEntry(const std::string& name, const Json& entry, uint64_t data_size,
                                int file, SafetensorsHeader& header) {
  if (!entry.is_object()) return Malformed(name, "is not an object");
  const auto dtype = entry.find("dtype");
  const DataType* type = dtype != entry.end() && dtype->is_string()
                             ? FindDataType(dtype->get<std::string>())
                             : nullptr;
  if (type == nullptr) return Malformed(name, "has a dtype that is not known");
  PAGODA_ASSIGN_OR_RETURN(const std::vector<uint64_t> shape,
                          Numbers(entry, "shape", name, kMaxTensorDimensions));
  PAGODA_ASSIGN_OR_RETURN(const std::vector<uint64_t> offsets,
                          Numbers(entry, "data_offsets", name, 2));
  if (offsets.size() != 2 || offsets[1] < offsets[0] || offsets[1] > data_size) {
    return Malformed(name, absl::StrCat("has data_offsets outside the ", data_size,
                                        " bytes of data; was the file cut?"));
  }
  uint64_t elements = 1;
  uint64_t bytes = 0;
  bool overflow = false;
  for (const uint64_t side : shape) overflow |= __builtin_mul_overflow(elements, side, &elements);
  overflow |= __builtin_mul_overflow(elements, type->bytes, &bytes);
  if (overflow || bytes != offsets[1] - offsets[0])
    return Malformed(name, "has a shape that its data_offsets contradict");
  if (!type->type) {
    header.other_tensors.push_back(name);
    return Range{offsets[0], offsets[1], name};
  }
  TensorInfo tensor;
  tensor.name = name;
  tensor.type = *type->type;
  tensor.columns =
      shape.empty() ? 1 : static_cast<int64_t>(std::min<uint64_t>(shape.back(), INT64_MAX));
  tensor.rows = tensor.columns == 0 ? 0 : static_cast<int64_t>(elements) / tensor.columns;
  tensor.file = file;
  tensor.offset = header.header_bytes + offsets[0];
  tensor.bytes = bytes;
  header.tensors.push_back(std::move(tensor));
  return Range{offsets[0], offsets[1], name};
}

absl::Status CheckCover(std::vector<Range> ranges, uint64_t data_size) {
  std::sort(ranges.begin(), ranges.end(), [](const Range& a, const Range& b) {
    return std::tie(a.begin, a.end) < std::tie(b.begin, b.end);
  });
  uint64_t end = 0;
  for (const Range& range : ranges) {
    if (range.begin != end)
      return Malformed(range.name, "overlaps another or leaves a hole before it");
    end = range.end;
  }
  if (end != data_size) {
    return absl::InvalidArgumentError(absl::StrCat("safetensors header: the tensors take ", end,
                                                   " bytes, the file has ", data_size,
                                                   " for them"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<SafetensorsHeader> ReadSafetensorsHeader(const ByteSource& source, int file) {
  uint64_t length = 0;
  if (source.size() < kLengthBytes)
    return absl::InvalidArgumentError("too short for a safetensors file");
  PAGODA_RETURN_IF_ERROR(source.Read(0, std::as_writable_bytes(std::span(&length, 1))));
  if (length > source.size() - kLengthBytes || length > limits::kMaxModelHeaderBytes) {
    return absl::InvalidArgumentError(absl::StrCat("offset 0: the safetensors header announces ", length,
                                                   " bytes, the file has ", source.size()));
  }
  std::string text(length, '\0');
  PAGODA_RETURN_IF_ERROR(source.Read(kLengthBytes, std::as_writable_bytes(std::span(text))));
  PAGODA_ASSIGN_OR_RETURN(const Json json, ParseJsonObject(text, "the safetensors header"));
  if (json.size() > static_cast<size_t>(limits::kMaxModelTensors)) {
    return absl::InvalidArgumentError(
        absl::StrCat("the safetensors header has ", json.size(), " tensors"));
  }
  SafetensorsHeader header;
  header.header_bytes = kLengthBytes + length;
  const uint64_t data_size = source.size() - header.header_bytes;
  std::vector<Range> ranges;
  for (const auto& [name, entry] : json.items()) {
    if (name == "__metadata__") continue;
    absl::StatusOr<Range> range = ReadEntry(name, entry, data_size, file, header);
    if (!range.ok()) {
      const size_t at = text.find(Json(name).dump());
      if (at == std::string::npos) return range.status();  // written with escapes
      return Annotate(range.status(), absl::StrCat("offset ", kLengthBytes + at));
    }
    ranges.push_back(*std::move(range));
  }
  PAGODA_RETURN_IF_ERROR(CheckCover(std::move(ranges), data_size));
  return header;
}

}  // namespace pagoda::checkpoint
