// What the reader of one format hands to Checkpoint: internal to this folder.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "checkpoint/architectures.h"
#include "checkpoint/checkpoint.h"

namespace pagoda::checkpoint {

struct OpenedModel {
  ModelSpec spec;
  TensorNaming naming = TensorNaming::kGguf;
  std::vector<ModelFile> files;
  std::vector<std::shared_ptr<ByteSource>> sources;  // of files, same order
  std::vector<TensorInfo> tensors;                   // ranges checked against their files
  std::vector<uint64_t> header_bytes;                // of each file: what the digest takes in whole
  std::vector<Checkpoint::BundleEntry> bundle;
};

absl::StatusOr<OpenedModel> OpenGguf(std::vector<Checkpoint::RemoteFile> files);
absl::StatusOr<OpenedModel> OpenHuggingFace(std::vector<Checkpoint::RemoteFile> files);

// The files of a model's folder that OpenHuggingFace needs. Names from an index are single path
// components, or refused.
absl::StatusOr<std::vector<Checkpoint::RemoteFile>> ListHuggingFaceFolder(
    const std::string& folder);

// Whole small file; kInvalidArgument above `limit`.
absl::StatusOr<std::string> ReadWhole(const ByteSource& source, uint64_t limit);

// The tensors of one file, checked not to overlap.
absl::Status CheckNoOverlap(std::vector<const TensorInfo*> tensors);

}  // namespace pagoda::checkpoint
