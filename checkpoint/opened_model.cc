#include "checkpoint/opened_model.h"

#include <algorithm>

namespace pagoda::checkpoint {

absl::StatusOr<std::string> ReadWhole(const ByteSource& source, uint64_t limit) {
  if (source.size() > limit) {
    return absl::InvalidArgumentError(absl::StrCat(source.name(), " has ", source.size(),
                                                   " bytes; at most ", limit, " are allowed"));
  }
  std::string text(source.size(), '\0');
  PAGODA_RETURN_IF_ERROR(source.Read(0, std::as_writable_bytes(std::span(text))));
  return text;
}

absl::Status CheckNoOverlap(std::vector<const TensorInfo*> tensors) {
  std::sort(tensors.begin(), tensors.end(),
            [](const TensorInfo* a, const TensorInfo* b) { return a->offset < b->offset; });
  const TensorInfo* previous = nullptr;
  for (const TensorInfo* tensor : tensors) {
    if (tensor->bytes == 0) continue;
    if (previous != nullptr && tensor->offset - previous->offset < previous->bytes) {
      return absl::InvalidArgumentError(absl::StrCat("tensors ", previous->name, " and ",
                                                     tensor->name, " overlap at offset ",
                                                     tensor->offset));
    }
    previous = tensor;
  }
  return absl::OkStatus();
}

}  // namespace pagoda::checkpoint
