// The cluster as the public API shows it: to `pagoda.v1.Admin` and to routers whose status page is being looked at.
#pragma once

#include "coordinator/coordinator.h"
#include "pagoda/v1/admin.pb.h"

namespace pagoda::coordinator {

void Describe(const DeploymentRecord& deployment, const ClusterView& view, ::pagoda::v1::Deployment& out);
void Describe(const ClusterView& view, const CoordinatorOptions& options, ::pagoda::v1::ClusterState& out);

}  // namespace pagoda::coordinator
