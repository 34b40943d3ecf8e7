// A ClusterState with workers that obey it, for its tests.
#pragma once

#include <gtest/gtest.h>

#include <map>
#include <string>
#include <vector>

#include "coordinator/cluster_state.h"

namespace pagoda::coordinator::testing {

inline constexpr int64_t kMs = 1'000'000;

inline WorkerInfo Info(const std::string& name, uint64_t incarnation = 1) {
  WorkerInfo info;
  info.name = name;
  info.incarnation = incarnation;
  info.memory_bytes = int64_t{1} << 32;
  info.numerics_profile = "p";
  info.data_address = "data " + name;
  return info;
}

// Obeys the actions as good workers would, and keeps what was told.
class Cluster {
 public:
  Cluster() : state(ClusterLimits{.lease_ns = 1000 * kMs, .own_blob_addresses = {"me:1"}}) {}

  WorkerId Join(const std::string& name, uint64_t incarnation = 1) {
    const WorkerId id = state.Join(Info(name, incarnation), now);
    Obey();
    return id;
  }
  void Obey() {
    for (std::vector<Action> actions = state.TakeActions(); !actions.empty(); actions = state.TakeActions()) {
      for (const Action& action : actions) {
        log.push_back(action);
        if (const auto* assign = std::get_if<SendAssignment>(&action)) {
          assignments[assign->worker] = assign->assignment;
          EXPECT_LE(assign->assignment.epoch.value(), saved_epoch) << "an epoch is saved before it is used";
          if (loads) state.Loaded(assign->worker, assign->assignment.epoch, LoadPhase::kLoaded, {}, now);
        } else if (const auto* link = std::get_if<SendLinkUp>(&action)) {
          links[link->worker] = *link;
          if (loads) state.Loaded(link->worker, link->epoch, LoadPhase::kLinked, {}, now);
        } else if (const auto* release = std::get_if<SendRelease>(&action)) {
          if (leaves) state.Left(release->worker, release->epoch, now);
        } else if (const auto* save = std::get_if<SaveEpoch>(&action)) {
          EXPECT_GT(save->epoch.value(), saved_epoch) << "epochs rise";
          saved_epoch = save->epoch.value();
        } else if (const auto* open = std::get_if<OpenEpoch>(&action)) {
          ++opened[open->pipeline];
        } else if (const auto* close = std::get_if<CloseEpoch>(&action)) {
          ++closed[close->pipeline];
        } else if (const auto* stop = std::get_if<StopPipeline>(&action)) {
          if (stop->how == StopHow::kDrain && drains) state.Drained(stop->pipeline, now);
        }
      }
    }
  }
  void Beat() {
    for (const auto& [id, worker] : state.workers()) beating.push_back(id);
    for (const WorkerId id : beating) state.Heartbeat(id, {}, now);
    beating.clear();
  }
  void Pass(int64_t ms) {
    for (int64_t i = 0; i < ms; i += 100) {
      now += 100 * kMs;
      Beat();
      state.Tick(now);
      Obey();
    }
  }
  PipelinePhase PhaseOf(uint64_t pipeline) { return state.pipelines().at(PipelineId(pipeline)).phase; }

  ClusterState state;
  int64_t now = 1;
  bool loads = true;
  bool leaves = true;
  bool drains = true;
  uint64_t saved_epoch = 0;
  std::vector<Action> log;
  std::vector<WorkerId> beating;
  std::map<WorkerId, Assignment> assignments;
  std::map<WorkerId, SendLinkUp> links;
  std::map<PipelineId, int> opened, closed;
};

}  // namespace pagoda::coordinator::testing
