#include "checkpoint/checkpoint.h"

#include <algorithm>
#include <array>
#include <filesystem>
#include <unordered_map>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"
#include "checkpoint/opened_model.h"
#include "checkpoint/sha256.h"
#include "common/limits.h"

namespace pagoda::checkpoint {
namespace {

// Of each tensor, at both ends: what the digest reads.
constexpr uint64_t kDigestEdgeBytes = 64;
constexpr uint64_t kDigestChunkBytes = 1u << 20;

bool EndsWith(const std::string& name, std::string_view end) {
  return name.size() >= end.size() && name.compare(name.size() - end.size(), end.size(), end) == 0;
}

absl::Status HashRange(const ByteSource& source, uint64_t offset, uint64_t length, Sha256& hash) {
  std::vector<std::byte> buffer(std::min(length, kDigestChunkBytes));
  while (length > 0) {
    const std::span<std::byte> part =
        std::span(buffer).first(std::min<uint64_t>(length, buffer.size()));
    PAGODA_RETURN_IF_ERROR(source.Read(offset, part));
    hash.Update(part);
    offset += part.size();
    length -= part.size();
  }
  return absl::OkStatus();
}

// "name-00001-of-00003.gguf": the other parts' names follow from the first's.
constexpr std::string_view kSplitPattern = "-00001-of-00000.gguf";

absl::StatusOr<std::vector<std::string>> SplitNames(const std::string& first) {
  const size_t stem =
      first.size() < kSplitPattern.size() ? std::string::npos : first.size() - kSplitPattern.size();
  int parts = 0;
  if (stem == std::string::npos || first.compare(stem, 10, kSplitPattern.substr(0, 10)) != 0 ||
      !absl::SimpleAtoi(first.substr(stem + 10, 5), &parts)) {
    return std::vector<std::string>{first};
  }
  if (parts < 1 || parts > limits::kMaxModelFiles) {
    return absl::InvalidArgumentError(absl::StrCat(first, " says it has ", parts, " parts"));
  }
  std::vector<std::string> names;
  for (int part = 1; part <= parts; ++part) {
    names.push_back(absl::StrFormat("%s-%05d-of-%05d.gguf", first.substr(0, stem), part, parts));
  }
  return names;
}

// A .gguf file or its first part, a folder with just that in it, or a Hugging Face folder.
absl::StatusOr<std::vector<Checkpoint::RemoteFile>> ListModelFiles(const std::string& path) {
  namespace fs = std::filesystem;
  std::error_code error;
  fs::path file = path;
  if (fs::is_directory(path, error)) {
    std::vector<fs::path> found;
    for (fs::directory_iterator entry(path, error), end; !error && entry != end;
         entry.increment(error)) {
      if (entry->path().extension() == ".gguf") found.push_back(entry->path());
    }
    if (found.empty() || fs::exists(fs::path(path) / "config.json", error))
      return ListHuggingFaceFolder(path);
    file = *std::min_element(found.begin(), found.end());
    PAGODA_ASSIGN_OR_RETURN(const std::vector<std::string> parts,
                            SplitNames(file.filename().string()));
    if (parts.size() != found.size()) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, " has ", found.size(), " .gguf files: name the one to open"));
    }
  }
  if (file.extension() != ".gguf") {
    if (!fs::exists(file, error)) return absl::NotFoundError(absl::StrCat(path, " does not exist"));
    return absl::InvalidArgumentError(absl::StrCat(
        path, " is neither a .gguf file nor a folder with config.json and *.safetensors"));
  }
  PAGODA_ASSIGN_OR_RETURN(const std::vector<std::string> names,
                          SplitNames(file.filename().string()));
  std::vector<Checkpoint::RemoteFile> files;
  for (const std::string& name : names) {
    PAGODA_ASSIGN_OR_RETURN(std::shared_ptr<ByteSource> source,
                            OpenFile((file.parent_path() / name).string()));
    files.push_back({name, std::move(source)});
  }
  return files;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Checkpoint>> Checkpoint::Open(const std::string& path) {
  PAGODA_ASSIGN_OR_RETURN(std::vector<RemoteFile> files, ListModelFiles(path));
  absl::StatusOr<std::unique_ptr<Checkpoint>> opened = Open(std::move(files));
  if (!opened.ok()) return Annotate(opened.status(), path);
  return opened;
}

absl::StatusOr<std::unique_ptr<Checkpoint>> Checkpoint::Open(std::vector<RemoteFile> files) {
  if (files.empty()) return absl::InvalidArgumentError("a model needs at least one file");
  const bool gguf = std::any_of(files.begin(), files.end(), [](const RemoteFile& file) {
    return EndsWith(file.name, ".gguf");
  });
  absl::StatusOr<OpenedModel> model =
      gguf ? OpenGguf(std::move(files)) : OpenHuggingFace(std::move(files));
  if (!model.ok()) return model.status();
  PAGODA_RETURN_IF_ERROR(Validate(model->spec));
  std::unique_ptr<Checkpoint> checkpoint(new Checkpoint(*std::move(model)));
  PAGODA_RETURN_IF_ERROR(checkpoint->IndexRoles());
  PAGODA_RETURN_IF_ERROR(checkpoint->ComputeDigest());
  return checkpoint;
}

Checkpoint::Checkpoint(OpenedModel model)
    : spec_(std::move(model.spec)),
      files_(std::move(model.files)),
      tensors_(std::move(model.tensors)) {
  model_ = std::make_unique<const OpenedModel>(std::move(model));
}

Checkpoint::~Checkpoint() = default;

absl::Status Checkpoint::IndexRoles() {
  std::unordered_map<std::string_view, int> by_name;
  for (size_t i = 0; i < tensors_.size(); ++i)
    by_name.emplace(tensors_[i].name, static_cast<int>(i));
  by_role_.assign(static_cast<size_t>(spec_.layers + 1) * kTensorRoles, -1);
  for (int layer = -1; layer < spec_.layers; ++layer) {
    for (int index = 0; index < kTensorRoles; ++index) {
      const TensorRole role = static_cast<TensorRole>(index);
      if (HasLayer(role) != (layer >= 0)) continue;
      const std::string name = TensorNameOf(model_->naming, role, layer);
      const auto found = by_name.find(name);
      const bool wanted = IsRequired(spec_, role);
      if (found == by_name.end() && wanted) {
        return absl::NotFoundError(absl::StrCat("the model has no tensor ", name, " (",
                                                AsAbsl(NameOf(role)), "), which its architecture ",
                                                spec_.architecture, " needs"));
      }
      if (found == by_name.end() || !wanted) continue;
      PAGODA_RETURN_IF_ERROR(CheckShape(role, tensors_[static_cast<size_t>(found->second)]));
      by_role_[static_cast<size_t>((layer + 1) * kTensorRoles + index)] = found->second;
    }
  }
  if (spec_.tied_embedding) {
    by_role_[static_cast<size_t>(TensorRole::kOutputHead)] =
        by_role_[static_cast<size_t>(TensorRole::kTokenEmbedding)];
  }
  return absl::OkStatus();
}

absl::Status Checkpoint::CheckShape(TensorRole role, const TensorInfo& tensor) const {
  const Shape shape = ShapeOf(spec_, role);
  if (tensor.rows == shape.rows && tensor.columns == shape.columns) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "tensor ", tensor.name, " (", AsAbsl(NameOf(role)), ") is ", tensor.rows, " x ",
      tensor.columns, "; the model's settings make it ", shape.rows, " x ", shape.columns));
}

bool Checkpoint::Has(TensorRole role, int layer) const {
  if (layer < -1 || layer >= spec_.layers || HasLayer(role) != (layer >= 0)) return false;
  return by_role_[static_cast<size_t>((layer + 1) * kTensorRoles + static_cast<int>(role))] >= 0;
}

absl::StatusOr<const TensorInfo*> Checkpoint::Find(TensorRole role, int layer) const {
  if (!Has(role, layer)) {
    return absl::NotFoundError(absl::StrCat("the model has no ", AsAbsl(NameOf(role)),
                                            " for layer ", layer, "; it has ", spec_.layers,
                                            " layers and ", tensors_.size(), " tensors"));
  }
  const int index =
      by_role_[static_cast<size_t>((layer + 1) * kTensorRoles + static_cast<int>(role))];
  return &tensors_[static_cast<size_t>(index)];
}

absl::StatusOr<Checkpoint::Bytes> Checkpoint::ReadRows(const TensorInfo& tensor, int64_t row_begin,
                                                       int64_t row_end) const {
  if (row_begin < 0 || row_end < row_begin || row_end > tensor.rows) {
    return absl::OutOfRangeError(absl::StrCat("rows ", row_begin, " to ", row_end, " of tensor ",
                                              tensor.name, ", which has ", tensor.rows));
  }
  PAGODA_ASSIGN_OR_RETURN(const uint64_t row_bytes, TensorBytes(tensor.type, 1, tensor.columns));
  const uint64_t offset = tensor.offset + static_cast<uint64_t>(row_begin) * row_bytes;
  const uint64_t size = static_cast<uint64_t>(row_end - row_begin) * row_bytes;
  const std::shared_ptr<ByteSource>& source = model_->sources.at(static_cast<size_t>(tensor.file));
  if (const std::byte* data = source->Map(offset, size)) {
    return Bytes{data, size, std::shared_ptr<const void>(data, [source, offset, size](const void*) { source->Release(offset, size); })};
  }
  auto buffer = std::make_shared<std::vector<std::byte>>(size);
  const absl::Status read = source->Read(offset, *buffer);
  if (!read.ok()) return Annotate(read, absl::StrCat("reading tensor ", tensor.name));
  return Bytes{buffer->data(), size, buffer};
}

absl::StatusOr<std::vector<Checkpoint::BundleEntry>> Checkpoint::TextBundle() const {
  return model_->bundle;
}

absl::Status Checkpoint::ComputeDigest() {
  Sha256 hash;
  std::vector<const TensorInfo*> sorted;
  for (const TensorInfo& tensor : tensors_) sorted.push_back(&tensor);
  std::sort(sorted.begin(), sorted.end(),
            [](const TensorInfo* a, const TensorInfo* b) { return a->name < b->name; });
  for (const TensorInfo* tensor : sorted) {
    hash.UpdateField(absl::StrCat(tensor->name, " ", AsAbsl(NameOf(tensor->type)), " ",
                                  tensor->rows, " ", tensor->columns, " ", tensor->bytes));
    const ByteSource& source = *model_->sources[static_cast<size_t>(tensor->file)];
    const uint64_t edge = std::min(tensor->bytes, kDigestEdgeBytes);
    PAGODA_RETURN_IF_ERROR(HashRange(source, tensor->offset, edge, hash));
    PAGODA_RETURN_IF_ERROR(HashRange(source, tensor->offset + tensor->bytes - edge, edge, hash));
  }
  for (size_t i = 0; i < files_.size(); ++i) {
    // A GGUF file may be called anything; within a folder the names are part of the model.
    hash.UpdateField(model_->naming == TensorNaming::kGguf ? "model.gguf" : files_[i].name);
    PAGODA_RETURN_IF_ERROR(HashRange(*model_->sources[i], 0, model_->header_bytes[i], hash));
  }
  digest_ = hash.FinishHex();
  return absl::OkStatus();
}

}  // namespace pagoda::checkpoint
