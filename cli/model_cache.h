// A model's reference made a local path, with progress on the terminal.
#pragma once

#include <string>

#include "common/status.h"

namespace pagoda::cli {

// `cache_dir` empty: the default one. Does nothing but look when the model is there already.
absl::StatusOr<std::string> GetModel(const std::string& reference, const std::string& cache_dir);

}  // namespace pagoda::cli
