// Deployments and pipelines as JSON, alike in every store. Fields that are not there keep their defaults, so versions N and
// N-1 read each other's.
#pragma once

#include <string>

#include "common/status.h"
#include "coordinator/cluster_records.h"
#include "coordinator/deployment.h"

namespace pagoda::coordinator {

std::string Encode(const DeploymentSpec& spec);
absl::StatusOr<DeploymentSpec> DecodeDeployment(const std::string& text);
std::string Encode(const RestoredPipeline& pipeline);
absl::StatusOr<RestoredPipeline> DecodePipeline(const std::string& text);

}  // namespace pagoda::coordinator
