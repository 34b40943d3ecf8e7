// What a coordinator must not forget: deployments, pipelines' ids and the last epoch. Nothing of a request is here.
// One method is one durable transaction. Implementations: the embedded one (sqlite_store.h); a shared one for several hosts
// has the same interface. Owned by the coordinator's control thread.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "common/ids.h"
#include "common/status.h"
#include "coordinator/deployment.h"

namespace pagoda::coordinator {

struct StoredPipeline {
  PipelineId pipeline;
  std::string deployment;
};

struct StoredState {
  std::vector<DeploymentSpec> deployments;  // by name
  std::vector<StoredPipeline> pipelines;    // by id
  uint64_t last_epoch = 0;
  uint64_t last_pipeline = 0;
};

class Store {
 public:
  virtual ~Store() = default;
  virtual absl::StatusOr<StoredState> Load() = 0;
  virtual absl::Status PutDeployment(const DeploymentSpec& spec) = 0;
  virtual absl::Status DeleteDeployment(const std::string& name) = 0;
  virtual absl::Status PutPipeline(const StoredPipeline& pipeline) = 0;
  virtual absl::Status DeletePipeline(PipelineId pipeline) = 0;
  // The last epoch only rises. kFailedPrecondition when another coordinator has used this one or a later one.
  virtual absl::Status AdvanceEpoch(Epoch epoch) = 0;
};

}  // namespace pagoda::coordinator
