#include "worker/control/model_opener.h"

#include "checkpoint/model_cache.h"
#include "common/log.h"

namespace pagoda::worker {
namespace {

using checkpoint::Checkpoint;
using SharedCheckpoint = std::shared_ptr<const Checkpoint>;

absl::StatusOr<SharedCheckpoint> OpenLocal(const std::string& cache_root, const Assignment& assignment) {
  PAGODA_ASSIGN_OR_RETURN(const std::string path, checkpoint::ModelCache(cache_root).Resolve(assignment.model));
  PAGODA_ASSIGN_OR_RETURN(std::unique_ptr<Checkpoint> model, Checkpoint::Open(path));
  if (!assignment.model_digest.empty() && model->digest() != assignment.model_digest) {
    return absl::FailedPreconditionError(absl::StrCat("the copy at ", path, " has digest ", model->digest(),
                                                      ", the deployment's is ", assignment.model_digest));
  }
  LogInfo("model_opened", {{"model", assignment.model}, {"path", path}, {"digest", model->digest()}});
  return SharedCheckpoint(std::move(model));
}

}  // namespace

ModelOpener MakeModelOpener(const ModelOpenerOptions& options) {
  return [options](const Assignment& assignment,
                   const std::function<bool(double)>&) -> absl::StatusOr<SharedCheckpoint> {
    std::string root = options.cache_root;
    if (root.empty()) {
      PAGODA_ASSIGN_OR_RETURN(root, checkpoint::DefaultCacheFolder());
    }
    return OpenLocal(root, assignment);
  };
}

}  // namespace pagoda::worker
