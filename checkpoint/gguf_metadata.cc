#include "checkpoint/gguf_metadata.h"

#include <bit>
#include <cstring>
#include <set>
#include <string_view>
#include <utility>

#include "common/limits.h"

namespace pagoda::checkpoint {
namespace {

static_assert(std::endian::native == std::endian::little, "GGUF and safetensors are little-endian");

constexpr uint32_t kMagic = 0x46554747;  // "GGUF"
constexpr uint64_t kDefaultAlignment = 32;
constexpr uint64_t kMaxAlignment = 1u << 20;
constexpr uint64_t kMaxKeyBytes = 65535;
constexpr uint32_t kMaxDimensions = 4;
constexpr int kMaxArrayDepth = 4;
constexpr uint64_t kMinValueBytes = 8 + 4 + 1;       // key length, type, value
constexpr uint64_t kMinTensorBytes = 8 + 4 + 4 + 8;  // name length, dimensions, type, offset

enum ValueType : uint32_t {
  kUint8,
  kInt8,
  kUint16,
  kInt16,
  kUint32,
  kInt32,
  kFloat32,
  kBool,
  kString,
  kArray,
  kUint64,
  kInt64,
  kFloat64,
};

// The fewest bytes one element takes in a file; 0: no such type.
uint64_t MinBytes(uint32_t type) {
  switch (type) {
    case kUint8:
    case kInt8:
    case kBool:
      return 1;
    case kUint16:
    case kInt16:
      return 2;
    case kUint32:
    case kInt32:
    case kFloat32:
      return 4;
    case kUint64:
    case kInt64:
    case kFloat64:
    case kString:
      return 8;
    case kArray:
      return 12;
    default:
      return 0;
  }
}

// Walks over the beginning of a file. The first error sticks; every number read after it is 0.
class Cursor {
 public:
  Cursor(std::span<const std::byte> bytes, uint64_t file_size)
      : bytes_(bytes), file_size_(std::max<uint64_t>(file_size, bytes.size())) {}

  uint64_t offset() const { return offset_; }
  uint64_t left_in_file() const { return file_size_ - offset_; }
  bool ok() const { return status_.ok(); }
  const absl::Status& status() const { return status_; }

  void Fail(std::string_view what) {
    if (ok()) {
      status_ = absl::InvalidArgumentError(
          absl::StrCat("GGUF header, offset ", offset_, ": ", AsAbsl(what)));
    }
  }

  // Whether `count` more bytes can be taken.
  bool Need(uint64_t count) {
    if (!ok()) return false;
    if (count > left_in_file()) {
      Fail(absl::StrCat("needs ", count, " bytes more, the file has ", left_in_file()));
      return false;
    }
    if (count > bytes_.size() - offset_) {
      status_ = absl::OutOfRangeError(absl::StrCat("the GGUF header goes on past ", bytes_.size(),
                                                   " bytes; at least ", offset_ + count));
      return false;
    }
    return true;
  }

  template <typename T>
  T Number() {
    T value{};
    if (!Need(sizeof(T))) return value;
    std::memcpy(&value, bytes_.data() + offset_, sizeof(T));
    offset_ += sizeof(T);
    return value;
  }

  std::string String(uint64_t limit) {
    const uint64_t length = Number<uint64_t>();
    if (!ok()) return {};
    if (length > limit) {
      Fail(absl::StrCat("a string of ", length, " bytes; at most ", limit, " are allowed"));
      return {};
    }
    if (!Need(length)) return {};
    std::string text(reinterpret_cast<const char*>(bytes_.data() + offset_), length);
    offset_ += length;
    return text;
  }

  bool Bool() {
    const uint8_t value = Number<uint8_t>();
    if (value > 1) Fail(absl::StrCat("a bool is 0 or 1, not ", value));
    return value == 1;
  }

 private:
  const std::span<const std::byte> bytes_;
  const uint64_t file_size_;
  uint64_t offset_ = 0;
  absl::Status status_;
};

uint64_t ReadUint(Cursor& cursor, uint32_t type) {
  switch (type) {
    case kUint8:
      return cursor.Number<uint8_t>();
    case kUint16:
      return cursor.Number<uint16_t>();
    case kUint32:
      return cursor.Number<uint32_t>();
    default:
      return cursor.Number<uint64_t>();
  }
}

int64_t ReadInt(Cursor& cursor, uint32_t type) {
  switch (type) {
    case kInt8:
      return cursor.Number<int8_t>();
    case kInt16:
      return cursor.Number<int16_t>();
    case kInt32:
      return cursor.Number<int32_t>();
    default:
      return cursor.Number<int64_t>();
  }
}

double ReadFloat(Cursor& cursor, uint32_t type) {
  return type == kFloat32 ? cursor.Number<float>() : cursor.Number<double>();
}

template <typename T, typename ReadOne>
GgufValue ReadElements(Cursor& cursor, uint64_t count, ReadOne read_one) {
  std::vector<T> elements;
  for (uint64_t i = 0; i < count && cursor.ok(); ++i) elements.push_back(read_one());
  return {std::move(elements)};
}

GgufValue ReadArray(Cursor& cursor, int depth) {
  const uint32_t type = cursor.Number<uint32_t>();
  const uint64_t count = cursor.Number<uint64_t>();
  if (!cursor.ok()) return {};
  const uint64_t element_bytes = MinBytes(type);
  if (element_bytes == 0) {
    cursor.Fail(absl::StrCat("an array of unknown type ", type));
    return {};
  }
  if (count > cursor.left_in_file() / element_bytes) {
    cursor.Fail(absl::StrCat("an array of ", count, " elements does not fit in the ",
                             cursor.left_in_file(), " bytes that are left"));
    return {};
  }
  if (type != kArray && type != kString && !cursor.Need(count * element_bytes)) return {};
  switch (type) {
    case kUint8:
    case kUint16:
    case kUint32:
    case kUint64:
      return ReadElements<uint64_t>(cursor, count, [&] { return ReadUint(cursor, type); });
    case kInt8:
    case kInt16:
    case kInt32:
    case kInt64:
      return ReadElements<int64_t>(cursor, count, [&] { return ReadInt(cursor, type); });
    case kFloat32:
    case kFloat64:
      return ReadElements<double>(cursor, count, [&] { return ReadFloat(cursor, type); });
    case kBool:
      return ReadElements<bool>(cursor, count, [&] { return cursor.Bool(); });
    case kString:
      return ReadElements<std::string>(
          cursor, count, [&] { return cursor.String(limits::kMaxModelTextFileBytes); });
    default:
      break;
  }
  // Arrays of arrays: nothing we read has one, so they are walked over and left empty.
  if (depth >= kMaxArrayDepth) {
    cursor.Fail(absl::StrCat("arrays nested more than ", kMaxArrayDepth, " deep"));
    return {};
  }
  for (uint64_t i = 0; i < count && cursor.ok(); ++i) ReadArray(cursor, depth + 1);
  return {};
}

GgufValue ReadValue(Cursor& cursor, uint32_t type) {
  switch (type) {
    case kUint8:
    case kUint16:
    case kUint32:
    case kUint64:
      return {ReadUint(cursor, type)};
    case kInt8:
    case kInt16:
    case kInt32:
    case kInt64:
      return {ReadInt(cursor, type)};
    case kFloat32:
    case kFloat64:
      return {ReadFloat(cursor, type)};
    case kBool:
      return {cursor.Bool()};
    case kString:
      return {cursor.String(limits::kMaxModelTextFileBytes)};
    case kArray:
      return ReadArray(cursor, 1);
    default:
      cursor.Fail(absl::StrCat("a value of unknown type ", type));
      return {};
  }
}

void ReadValues(Cursor& cursor, uint64_t count, std::map<std::string, GgufValue>& values) {
  for (uint64_t i = 0; i < count && cursor.ok(); ++i) {
    std::string key = cursor.String(kMaxKeyBytes);
    const uint32_t type = cursor.Number<uint32_t>();
    if (!cursor.ok()) return;
    if (values.contains(key)) {
      cursor.Fail(absl::StrCat("the key \"", key, "\" comes twice"));
      return;
    }
    GgufValue value = ReadValue(cursor, type);
    values.emplace(std::move(key), std::move(value));
  }
}

void ReadTensors(Cursor& cursor, uint64_t count, uint64_t alignment,
                 std::vector<GgufTensorHeader>& tensors) {
  std::set<std::string> names;
  for (uint64_t i = 0; i < count && cursor.ok(); ++i) {
    GgufTensorHeader tensor;
    tensor.at = cursor.offset();
    tensor.name = cursor.String(kMaxKeyBytes);
    const uint32_t dimensions = cursor.Number<uint32_t>();
    if (dimensions > kMaxDimensions) {
      cursor.Fail(
          absl::StrCat("a tensor of ", dimensions, " dimensions; at most ", kMaxDimensions));
    }
    for (uint32_t d = 0; d < dimensions && cursor.ok(); ++d) {
      tensor.dimensions.push_back(cursor.Number<uint64_t>());
    }
    tensor.type = cursor.Number<uint32_t>();
    tensor.offset = cursor.Number<uint64_t>();
    if (!cursor.ok()) return;
    if (tensor.offset % alignment != 0) {
      cursor.Fail(absl::StrCat("tensor ", tensor.name, " begins at ", tensor.offset,
                               ", which is not a multiple of ", alignment));
    }
    if (!names.insert(tensor.name).second)
      cursor.Fail(absl::StrCat("tensor ", tensor.name, " comes twice"));
    tensors.push_back(std::move(tensor));
  }
}

void CheckVersion(Cursor& cursor) {
  if (cursor.Number<uint32_t>() != kMagic)
    cursor.Fail("does not begin with GGUF: this is no GGUF file");
}

template <typename T>
const T* Get(const std::map<std::string, GgufValue>& values, const std::string& key) {
  const auto found = values.find(key);
  return found == values.end() ? nullptr : std::get_if<T>(&found->second.value);
}

}  // namespace

absl::StatusOr<GgufHeader> GgufHeader::Parse(std::span<const std::byte> bytes, uint64_t file_size) {
  Cursor cursor(bytes, file_size);
  GgufHeader header;
  CheckVersion(cursor);
  header.version = cursor.Number<uint32_t>();
  if (header.version != 2 && header.version != 3) {
    cursor.Fail(absl::StrCat("GGUF version ", header.version,
                             "; versions 2 and 3 (little-endian) are read"));
  }
  const uint64_t tensor_count = cursor.Number<uint64_t>();
  const uint64_t value_count = cursor.Number<uint64_t>();
  if (tensor_count > cursor.left_in_file() / kMinTensorBytes ||
      tensor_count > limits::kMaxModelTensors) {
    cursor.Fail(absl::StrCat("announces ", tensor_count, " tensors, which do not fit"));
  }
  if (value_count > cursor.left_in_file() / kMinValueBytes) {
    cursor.Fail(absl::StrCat("announces ", value_count, " values, which do not fit"));
  }
  if (!cursor.ok()) return cursor.status();
  ReadValues(cursor, value_count, header.values);
  header.metadata_bytes = cursor.offset();
  uint64_t alignment = kDefaultAlignment;
  if (header.values.contains("general.alignment")) {
    alignment = header.FindUint("general.alignment").value_or(0);
    if (!std::has_single_bit(alignment) || alignment > kMaxAlignment) {
      cursor.Fail("general.alignment is not a power of two in its limits");
    }
  }
  ReadTensors(cursor, tensor_count, alignment, header.tensors);
  if (!cursor.ok()) return cursor.status();
  header.header_bytes = cursor.offset();
  header.data_begin = (header.header_bytes + alignment - 1) / alignment * alignment;
  return header;
}

std::optional<uint64_t> GgufHeader::FindUint(const std::string& key) const {
  if (const uint64_t* value = Get<uint64_t>(values, key)) return *value;
  if (const int64_t* value = Get<int64_t>(values, key); value != nullptr && *value >= 0) {
    return static_cast<uint64_t>(*value);
  }
  return std::nullopt;
}

std::optional<double> GgufHeader::FindFloat(const std::string& key) const {
  const double* value = Get<double>(values, key);
  return value == nullptr ? std::nullopt : std::optional<double>(*value);
}

std::optional<bool> GgufHeader::FindBool(const std::string& key) const {
  const bool* value = Get<bool>(values, key);
  return value == nullptr ? std::nullopt : std::optional<bool>(*value);
}

const std::string* GgufHeader::FindString(const std::string& key) const {
  return Get<std::string>(values, key);
}

const std::vector<std::string>* GgufHeader::FindStrings(const std::string& key) const {
  return Get<std::vector<std::string>>(values, key);
}

std::optional<std::vector<double>> GgufHeader::FindNumbers(const std::string& key) const {
  if (const auto* list = Get<std::vector<double>>(values, key)) return *list;
  if (const auto* list = Get<std::vector<uint64_t>>(values, key)) {
    return std::vector<double>(list->begin(), list->end());
  }
  if (const auto* list = Get<std::vector<int64_t>>(values, key)) {
    return std::vector<double>(list->begin(), list->end());
  }
  return std::nullopt;
}

}  // namespace pagoda::checkpoint
