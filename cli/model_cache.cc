#include "cli/model_cache.h"

#include <filesystem>

namespace pagoda::cli {

absl::StatusOr<std::string> GetModel(const std::string& reference, const std::string&) {
  if (!std::filesystem::exists(reference)) return absl::NotFoundError(reference);
  return std::filesystem::absolute(reference).string();
}

}  // namespace pagoda::cli
