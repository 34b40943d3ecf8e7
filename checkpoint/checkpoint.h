// A model on disk, opened: its spec, its tensors by role, its text bundle. Two formats: one GGUF file, or a Hugging Face
// folder. Opening reads headers only; every number in them is hostile (checked arithmetic, counts against the bytes left,
// an error names the offset).
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "checkpoint/byte_source.h"
#include "checkpoint/model_spec.h"
#include "checkpoint/tensor_type.h"

namespace pagoda::checkpoint {

struct OpenedModel;  // what a format's reader found; opened_model.h

enum class TensorRole : uint8_t {
  kTokenEmbedding,   // [vocabulary, hidden]
  kOutputHead,       // [vocabulary, hidden]; the embedding when tied
  kFinalNorm,        // [hidden]
  kAttentionNorm,    // [hidden], per layer, as all below
  kQuery,            // [heads * head_dim, hidden]
  kKey,              // [kv_heads * head_dim, hidden]
  kValue,            // [kv_heads * head_dim, hidden]
  kQueryBias, kKeyBias, kValueBias,
  kAttentionOutput,  // [hidden, heads * head_dim]
  kFfnNorm,          // [hidden]
  kGate,             // [ffn, hidden]
  kUp,               // [ffn, hidden]
  kDown,             // [hidden, ffn]
};
inline constexpr int kTensorRoles = static_cast<int>(TensorRole::kDown) + 1;
std::string_view NameOf(TensorRole role);

struct TensorInfo {
  std::string name;  // as in the file
  TensorType type = TensorType::kF32;
  int64_t rows = 0;     // 1 for a vector
  int64_t columns = 0;
  int file = 0;         // index into Checkpoint::files()
  uint64_t offset = 0;  // from the start of that file
  uint64_t bytes = 0;
};

struct ModelFile {
  std::string name;  // relative to the model's folder; no separators that leave it
  uint64_t size = 0;
};

class Checkpoint {
 public:
  // `path`: a .gguf file (or the first of its parts), a folder with just that, or a folder with config.json and
  // *.safetensors.
  static absl::StatusOr<std::unique_ptr<Checkpoint>> Open(const std::string& path);
  // The same from given files (all that files() of a local copy names). Reads the headers and small files through the
  // sources, nothing else. Used by a worker that has no copy of its own.
  struct RemoteFile {
    std::string name;
    std::shared_ptr<ByteSource> source;
  };
  static absl::StatusOr<std::unique_ptr<Checkpoint>> Open(std::vector<RemoteFile> files);
  ~Checkpoint();

  const ModelSpec& spec() const { return spec_; }
  const std::vector<ModelFile>& files() const { return files_; }
  const std::vector<TensorInfo>& tensors() const { return tensors_; }
  // SHA-256 (hex) over the names, shapes, types and sizes of all tensors, the headers' bytes and the first and last bytes of each
  // tensor: cheap, and different for any model that differs where people differ.
  const std::string& digest() const { return digest_; }

  // kNotFound names the role, the layer and what the file has instead. `layer` is -1 for roles that have none.
  absl::StatusOr<const TensorInfo*> Find(TensorRole role, int layer) const;
  bool Has(TensorRole role, int layer) const;

  // Rows [row_begin, row_end) as stored. Maps when the source can, and lets the pages go with the last `owner`; else reads
  // into an owned buffer.
  struct Bytes {
    const std::byte* data = nullptr;
    uint64_t size = 0;
    std::shared_ptr<const void> owner;
  };
  absl::StatusOr<Bytes> ReadRows(const TensorInfo& tensor, int64_t row_begin, int64_t row_end) const;

  // What the router needs and nobody else reads: tokenizer, template, generation defaults. A sequence of named byte
  // strings that text/ knows how to open: "model.gguf.header" (the key-value part, as a GGUF file of its own that has no
  // tensors), or of a folder those that are there of config.json, tokenizer.json, tokenizer_config.json,
  // special_tokens_map.json, generation_config.json, chat_template.jinja.
  struct BundleEntry {
    std::string name;
    std::string bytes;
  };
  absl::StatusOr<std::vector<BundleEntry>> TextBundle() const;

 private:
  explicit Checkpoint(OpenedModel model);
  absl::Status IndexRoles();
  absl::Status CheckShape(TensorRole role, const TensorInfo& tensor) const;
  absl::Status ComputeDigest();

  std::unique_ptr<const OpenedModel> model_;
  ModelSpec spec_;
  std::vector<ModelFile> files_;
  std::vector<TensorInfo> tensors_;
  std::string digest_;
  std::vector<int> by_role_;  // [layers + 1][kTensorRoles] index into tensors_, -1: none; row 0 has no layer
};

}  // namespace pagoda::checkpoint
