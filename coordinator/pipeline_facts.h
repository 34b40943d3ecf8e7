// What follows from the records of a pipeline and its deployment: the settings of its next epoch, and what routers are told of it.
// Pure; used by the control thread and by the simulation (tests/sim).
#pragma once

#include "coordinator/cluster_state.h"
#include "coordinator/links.h"
#include "coordinator/scheduler.h"

namespace pagoda::coordinator {

// With the KV that its workers said they still have.
EpochSettings EpochSettingsOf(const ClusterState& cluster, const OpenEpoch& open);

struct PipelineCondition {
  SchedulerStats stats;
  bool leaving = false;  // this coordinator was told to stop, or what ran there goes elsewhere
  bool moving = false;   // its KV goes to another pipeline: no new work
  PipelineId kv_moved_to = {};
  int64_t created_unix_s = 0;
};
PipelineSnapshot SnapshotOf(const PipelineRecord& pipeline, const DeploymentRecord& deployment, const PipelineCondition& condition);

}  // namespace pagoda::coordinator
