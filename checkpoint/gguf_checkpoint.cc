// GGUF: one file (or the parts that llama.cpp's gguf-split makes) to an OpenedModel.
#include <algorithm>
#include <cstring>
#include <limits>
#include <map>
#include <set>

#include "checkpoint/gguf_metadata.h"
#include "checkpoint/opened_model.h"
#include "common/limits.h"

namespace pagoda::checkpoint {
namespace {

constexpr uint64_t kFirstReadBytes = 4u << 20;
constexpr uint64_t kTensorCountOffset = 8;
constexpr uint64_t kMaxDivisors = 4096;

// ggml_type numbers, as files have them (ggml.h). -1: a type this program does not read.
std::optional<TensorType> TypeOf(uint32_t ggml_type) {
  static const std::map<uint32_t, TensorType> kTypes = {
      {0, TensorType::kF32},   {1, TensorType::kF16},   {2, TensorType::kQ4_0},
      {3, TensorType::kQ4_1},  {6, TensorType::kQ5_0},  {7, TensorType::kQ5_1},
      {8, TensorType::kQ8_0},  {10, TensorType::kQ2_K}, {11, TensorType::kQ3_K},
      {12, TensorType::kQ4_K}, {13, TensorType::kQ5_K}, {14, TensorType::kQ6_K},
      {30, TensorType::kBF16},
  };
  const auto found = kTypes.find(ggml_type);
  return found == kTypes.end() ? std::nullopt : std::optional<TensorType>(found->second);
}

absl::StatusOr<GgufHeader> ReadHeader(const ByteSource& source) {
  const uint64_t most = std::min<uint64_t>(source.size(), limits::kMaxModelHeaderBytes);
  if (const std::byte* mapped = source.Map(0, most))
    return GgufHeader::Parse({mapped, most}, source.size());
  std::vector<std::byte> bytes;
  for (uint64_t want = std::min(kFirstReadBytes, most);; want = std::min(want * 2, most)) {
    const size_t have = bytes.size();
    bytes.resize(want);
    PAGODA_RETURN_IF_ERROR(source.Read(have, std::span(bytes).subspan(have)));
    absl::StatusOr<GgufHeader> header = GgufHeader::Parse(bytes, source.size());
    if (header.ok() || !absl::IsOutOfRange(header.status()) || want == most) return header;
  }
}

absl::StatusOr<TensorInfo> ReadTensorInfo(const GgufTensorHeader& header, uint64_t data_begin,
                                          uint64_t file_size, int file) {
  TensorInfo tensor;
  tensor.name = header.name;
  tensor.file = file;
  const std::optional<TensorType> type = TypeOf(header.type);
  if (!type) {
    return absl::UnimplementedError(
        absl::StrCat("tensor ", header.name, " has ggml type ", header.type,
                     ", which is not read; F32, F16, BF16, Q4_0 to Q8_0 and Q2_K to Q6_K are"));
  }
  tensor.type = *type;
  constexpr uint64_t kMaxSide = std::numeric_limits<int64_t>::max();
  uint64_t rows = 1;
  for (size_t d = 1; d < header.dimensions.size(); ++d) {
    if (__builtin_mul_overflow(rows, header.dimensions[d], &rows) || rows > kMaxSide) {
      return absl::InvalidArgumentError(
          absl::StrCat("tensor ", header.name, " has more rows than can be counted"));
    }
  }
  const uint64_t columns = header.dimensions.empty() ? 1 : header.dimensions[0];
  if (columns > kMaxSide) {
    return absl::InvalidArgumentError(
        absl::StrCat("tensor ", header.name, " has ", columns, " columns"));
  }
  tensor.rows = static_cast<int64_t>(rows);
  tensor.columns = static_cast<int64_t>(columns);
  const absl::StatusOr<uint64_t> bytes = TensorBytes(tensor.type, tensor.rows, tensor.columns);
  if (!bytes.ok()) return Annotate(bytes.status(), absl::StrCat("tensor ", header.name));
  tensor.bytes = *bytes;
  if (data_begin > file_size || header.offset > file_size - data_begin ||
      tensor.bytes > file_size - data_begin - header.offset) {
    return absl::InvalidArgumentError(absl::StrCat(
        "tensor ", header.name, " of ", tensor.bytes, " bytes at offset ", header.offset,
        " of the data (which begins at ", data_begin, ") goes past the end of the file, which has ",
        file_size, " bytes; was the file cut?"));
  }
  tensor.offset = data_begin + header.offset;
  return tensor;
}

// Reads "<architecture>.<key>" values, remembering the first that is missing or too large.
class Settings {
 public:
  Settings(const GgufHeader& header, std::string prefix)
      : header_(header), prefix_(std::move(prefix)) {}

  int Int(std::string_view key, std::optional<int64_t> fallback = std::nullopt) {
    return static_cast<int>(Bounded(key, fallback, std::numeric_limits<int>::max()));
  }
  int64_t Int64(std::string_view key, std::optional<int64_t> fallback = std::nullopt) {
    return Bounded(key, fallback, int64_t{1} << 40);
  }
  float Float(std::string_view key, float fallback) const {
    return static_cast<float>(header_.FindFloat(Name(key)).value_or(fallback));
  }
  bool Has(std::string_view key) const { return header_.values.contains(Name(key)); }
  const std::string* String(std::string_view key) const { return header_.FindString(Name(key)); }
  const absl::Status& status() const { return status_; }

 private:
  std::string Name(std::string_view key) const { return absl::StrCat(prefix_, ".", AsAbsl(key)); }

  int64_t Bounded(std::string_view key, std::optional<int64_t> fallback, int64_t most) {
    const std::string name = Name(key);
    if (!header_.values.contains(name) && fallback) return *fallback;
    const std::optional<uint64_t> value = header_.FindUint(name);
    if (value && *value <= static_cast<uint64_t>(most)) return static_cast<int64_t>(*value);
    if (status_.ok()) {
      const char* problem = header_.FindNumbers(name) ? "differs per layer, which is not supported"
                            : value                   ? "is out of range"
                                                      : "is missing or no integer";
      status_ = absl::InvalidArgumentError(absl::StrCat("the GGUF key ", name, " ", problem));
    }
    return 0;
  }

  const GgufHeader& header_;
  const std::string prefix_;
  absl::Status status_;
};

absl::Status ReadRope(Settings& settings, RopeLayout layout, ModelSpec& spec) {
  RopeSpec& rope = spec.rope;
  rope.layout = layout;
  rope.dimensions = settings.Int("rope.dimension_count", spec.head_dim);
  rope.base = settings.Float("rope.freq_base", 10000.0f);
  rope.original_context = settings.Int64("rope.scaling.original_context_length", spec.max_context);
  const std::string* type = settings.String("rope.scaling.type");
  rope.factor = settings.Float("rope.scaling.factor", settings.Float("rope.scale_linear", 1.0f));
  if (type == nullptr ? rope.factor != 1.0f : *type == "linear") {
    rope.scaling = RopeScalingKind::kLinear;
  } else if (type != nullptr && *type == "yarn") {
    rope.scaling = RopeScalingKind::kYarn;
    rope.yarn_beta_fast = settings.Float("rope.scaling.yarn_beta_fast", 32.0f);
    rope.yarn_beta_slow = settings.Float("rope.scaling.yarn_beta_slow", 1.0f);
    const float factor = settings.Float("rope.scaling.attn_factor", 1.0f);
    rope.yarn_attention_factor = 0.0f;
    if (factor != 1.0f) rope.yarn_attention_factor = factor * RopeAttentionFactor(rope);
  } else if (type != nullptr && *type != "none") {
    return absl::UnimplementedError(
        absl::StrCat("rope scaling of type ", *type, " is not supported; none, linear, yarn are"));
  }
  if (rope.scaling == RopeScalingKind::kNone) rope.factor = 1.0f;
  return absl::OkStatus();
}

absl::StatusOr<ModelSpec> ReadSpec(const GgufHeader& header,
                                   const std::vector<TensorInfo>& tensors) {
  const std::string* name = header.FindString("general.architecture");
  if (name == nullptr)
    return absl::InvalidArgumentError("the GGUF file does not name its general.architecture");
  const Architecture* architecture = FindByGgufName(*name);
  if (architecture == nullptr) {
    return absl::UnimplementedError(absl::StrCat("the architecture \"", *name,
                                                 "\" is not supported; GGUF files of ",
                                                 KnownArchitectures(TensorNaming::kGguf), " are"));
  }
  Settings settings(header, *name);
  ModelSpec spec;
  spec.architecture = architecture->name;
  spec.layers = settings.Int("block_count");
  spec.hidden = settings.Int("embedding_length");
  spec.heads = settings.Int("attention.head_count");
  spec.kv_heads = settings.Int("attention.head_count_kv", spec.heads);
  spec.head_dim =
      settings.Int("attention.key_length", spec.heads > 0 ? spec.hidden / spec.heads : 0);
  spec.ffn = settings.Int("feed_forward_length");
  spec.max_context = settings.Int64("context_length");
  spec.norm_epsilon = settings.Float("attention.layer_norm_rms_epsilon", 1e-5f);
  spec.sliding_window = settings.Int("attention.sliding_window", 0);
  spec.attention_bias = architecture->attention_bias;
  if (settings.Int("attention.value_length", spec.head_dim) != spec.head_dim) {
    return absl::UnimplementedError("values of another size than keys are not supported");
  }
  if (settings.Int("expert_count", 0) != 0) {
    return absl::UnimplementedError("a mixture of experts is not supported yet");
  }
  PAGODA_RETURN_IF_ERROR(ReadRope(settings, architecture->gguf_rope, spec));
  PAGODA_RETURN_IF_ERROR(settings.status());
  spec.tied_embedding = true;
  for (const TensorInfo& tensor : tensors) {
    if (tensor.name == TensorNameOf(TensorNaming::kGguf, TensorRole::kOutputHead, -1))
      spec.tied_embedding = false;
    if (tensor.name == TensorNameOf(TensorNaming::kGguf, TensorRole::kQueryBias, 0))
      spec.attention_bias = true;
    if (tensor.name == TensorNameOf(TensorNaming::kGguf, TensorRole::kTokenEmbedding, -1)) {
      spec.vocabulary =
          static_cast<int>(std::min<int64_t>(tensor.rows, std::numeric_limits<int>::max()));
    }
    if (tensor.name == "blk.0.attn_output.bias" || tensor.name == "blk.0.ffn_up.bias") {
      return absl::UnimplementedError(
          absl::StrCat("tensor ", tensor.name, ": a bias there is not supported"));
    }
  }
  return spec;
}

// rope_freqs.weight: Llama 3.x's scaling, written out.
absl::Status ReadDivisors(const OpenedModel& model, RopeSpec& rope) {
  for (const TensorInfo& tensor : model.tensors) {
    if (tensor.name != "rope_freqs.weight") continue;
    if (tensor.type != TensorType::kF32 || tensor.rows != 1 ||
        tensor.columns > static_cast<int64_t>(kMaxDivisors)) {
      return absl::InvalidArgumentError(
          "rope_freqs.weight is not a vector of F32 of a size that makes sense");
    }
    rope.frequency_divisors.resize(static_cast<size_t>(tensor.columns));
    return model.sources[static_cast<size_t>(tensor.file)]->Read(
        tensor.offset, std::as_writable_bytes(std::span(rope.frequency_divisors)));
  }
  return absl::OkStatus();
}

// The key-value part, turned into a GGUF file that announces no tensors.
absl::StatusOr<std::string> TextHeader(const ByteSource& source, const GgufHeader& header) {
  std::string bytes(header.metadata_bytes, '\0');
  PAGODA_RETURN_IF_ERROR(source.Read(0, std::as_writable_bytes(std::span(bytes))));
  std::memset(bytes.data() + kTensorCountOffset, 0, sizeof(uint64_t));
  return bytes;
}

absl::Status AddFile(Checkpoint::RemoteFile file, const GgufHeader& header, OpenedModel& model) {
  const int index = static_cast<int>(model.files.size());
  for (const GgufTensorHeader& tensor_header : header.tensors) {
    absl::StatusOr<TensorInfo> tensor =
        ReadTensorInfo(tensor_header, header.data_begin, file.source->size(), index);
    if (!tensor.ok())
      return Annotate(tensor.status(), absl::StrCat("GGUF header, offset ", tensor_header.at));
    model.tensors.push_back(*std::move(tensor));
  }
  std::vector<const TensorInfo*> own;
  for (const TensorInfo& tensor : model.tensors) {
    if (tensor.file == index) own.push_back(&tensor);
  }
  PAGODA_RETURN_IF_ERROR(CheckNoOverlap(std::move(own)));
  model.header_bytes.push_back(header.header_bytes);
  model.files.push_back({file.name, file.source->size()});
  model.sources.push_back(std::move(file.source));
  return absl::OkStatus();
}

absl::Status CheckSplits(const std::vector<GgufHeader>& headers) {
  const uint64_t announced = headers[0].FindUint("split.count").value_or(1);
  if (std::max<uint64_t>(announced, 1) != headers.size()) {
    return absl::InvalidArgumentError(absl::StrCat("the model is split into ", announced,
                                                   " GGUF files, ", headers.size(), " are here"));
  }
  for (size_t i = 0; i < headers.size(); ++i) {
    if (headers[i].FindUint("split.no").value_or(0) != i) {
      return absl::InvalidArgumentError(
          absl::StrCat("GGUF part ", i + 1, " of ", headers.size(), " is missing"));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<OpenedModel> OpenGguf(std::vector<Checkpoint::RemoteFile> files) {
  std::sort(files.begin(), files.end(),
            [](const auto& a, const auto& b) { return a.name < b.name; });
  std::vector<GgufHeader> headers;
  for (const Checkpoint::RemoteFile& file : files) {
    absl::StatusOr<GgufHeader> header = ReadHeader(*file.source);
    if (!header.ok()) return Annotate(header.status(), file.name);
    headers.push_back(*std::move(header));
  }
  PAGODA_RETURN_IF_ERROR(CheckSplits(headers));
  OpenedModel model;
  model.naming = TensorNaming::kGguf;
  for (size_t i = 0; i < files.size(); ++i) {
    const std::string name = files[i].name;
    const absl::Status added = AddFile(std::move(files[i]), headers[i], model);
    if (!added.ok()) return Annotate(added, name);
  }
  std::set<std::string_view> names;
  for (const TensorInfo& tensor : model.tensors) {
    if (!names.insert(tensor.name).second) {
      return absl::InvalidArgumentError(absl::StrCat("tensor ", tensor.name, " is in two files"));
    }
  }
  PAGODA_ASSIGN_OR_RETURN(model.spec, ReadSpec(headers[0], model.tensors));
  PAGODA_RETURN_IF_ERROR(ReadDivisors(model, model.spec.rope));
  PAGODA_ASSIGN_OR_RETURN(std::string text, TextHeader(*model.sources[0], headers[0]));
  model.bundle.push_back({"model.gguf.header", std::move(text)});
  return model;
}

}  // namespace pagoda::checkpoint
