// Spares, workers that come back with their shards, silence that is looked into, and pauses of the coordinator itself.
#include <gtest/gtest.h>

#include "absl/strings/match.h"
#include "coordinator/cluster_state.h"
#include "tests/coordinator/cluster_facts.h"

namespace pagoda::coordinator {
namespace {

using testing::SmallDeployment;
using testing::SmallModel;

constexpr int64_t kMs = 1'000'000;

// Obeys as good workers would, with a shard digest per stage.
struct Cluster {
  ClusterState state{ClusterLimits{.lease_ns = 3000 * kMs, .own_blob_addresses = {}}};
  int64_t now = 1000 * kMs;
  std::vector<Action> log;
  std::map<std::string, Assignment> assigned;  // the newest, by worker name
  std::vector<ProbeWorker> probes;
  std::vector<ReportFault> faults;
  RestoredPipeline saved;

  WorkerId Join(const std::string& name, const std::string& held = "", int64_t memory = int64_t{1} << 32) {
    WorkerInfo info;
    info.name = name;
    info.memory_bytes = memory;
    info.numerics_profile = "p";
    info.data_address = "data " + name;
    info.blob_address = "127.0.0.1:1";
    info.held_shard = held;
    const WorkerId id = state.Join(info, now);
    Obey();
    return id;
  }
  std::string NameOf(WorkerId id) { return state.FindWorker(id)->info.name; }
  void Obey() {
    for (std::vector<Action> actions = state.TakeActions(); !actions.empty(); actions = state.TakeActions()) {
      for (const Action& action : actions) {
        log.push_back(action);
        if (const auto* assign = std::get_if<SendAssignment>(&action)) {
          assigned[NameOf(assign->worker)] = assign->assignment;
          LoadDetails details;
          details.shard_digest = absl::StrCat("shard of stage ", assign->assignment.stage);
          state.Loaded(assign->worker, assign->assignment.epoch, LoadPhase::kLoaded, details, now);
        } else if (const auto* link = std::get_if<SendLinkUp>(&action)) {
          state.Loaded(link->worker, link->epoch, LoadPhase::kLinked, {}, now);
        } else if (const auto* release = std::get_if<SendRelease>(&action)) {
          state.Left(release->worker, release->epoch, now);
        } else if (const auto* probe = std::get_if<ProbeWorker>(&action)) {
          probes.push_back(*probe);
        } else if (const auto* fault = std::get_if<ReportFault>(&action)) {
          faults.push_back(*fault);
        } else if (const auto* save = std::get_if<SavePipeline>(&action)) {
          saved = save->pipeline;
        }
      }
    }
  }
  void Beat(WorkerId id, const WorkerProgress& progress = {}) { state.Heartbeat(id, progress, now); }
  void Pass(int64_t ms, const std::vector<WorkerId>& beating) {
    for (int64_t t = 0; t < ms; t += 100) {
      now += 100 * kMs;
      for (const WorkerId id : beating) Beat(id);
      state.Tick(now);
      Obey();
    }
  }
  const PipelineRecord& pipeline() { return state.pipelines().begin()->second; }
};

int64_t NeededAt(const PipelineRecord& pipeline, size_t place) {
  const RankPlacement& rank = pipeline.placement.ranks.at(place);
  return rank.weights_bytes + rank.workspace_bytes + rank.kv_bytes;
}

TEST(ClusterFailover, ASpareTakesTheLostPlaceAndTheOthersKeepTheirs) {
  Cluster cluster;
  cluster.state.Apply(SmallDeployment(3, 1, 1), SmallModel(), cluster.now);
  cluster.Join("a");
  const WorkerId b = cluster.Join("b");
  cluster.Join("c");
  ASSERT_EQ(cluster.pipeline().phase, PipelinePhase::kReady);
  cluster.Join("spare", "", NeededAt(cluster.pipeline(), 1));  // room for this shard and no more
  const std::vector<StagePlacement> stages = cluster.pipeline().placement.stages;
  const int blocks = cluster.pipeline().placement.blocks;
  cluster.state.Gone(b, "killed", cluster.now);
  cluster.Obey();
  ASSERT_EQ(cluster.pipeline().phase, PipelinePhase::kReady) << cluster.pipeline().message;
  EXPECT_EQ(cluster.assigned.at("a").stage, 0);
  EXPECT_EQ(cluster.assigned.at("spare").stage, 1);
  EXPECT_EQ(cluster.assigned.at("c").stage, 2);
  EXPECT_EQ(cluster.pipeline().placement.blocks, blocks) << "another number of blocks would cost everybody's KV";
  for (size_t s = 0; s < stages.size(); ++s) EXPECT_EQ(cluster.pipeline().placement.stages[s].layer_begin, stages[s].layer_begin);
}

TEST(ClusterFailover, WhoLeftIsForgottenAndWhoWasLostIsShownForAnHour) {
  Cluster cluster;
  cluster.state.Apply(SmallDeployment(2, 1, 1), SmallModel(), cluster.now);
  const WorkerId left = cluster.Join("left");
  const WorkerId lost = cluster.Join("lost");
  cluster.state.Gone(left, "it was told to stop", cluster.now, /*planned=*/true);
  cluster.state.Gone(lost, "killed", cluster.now);
  cluster.Obey();
  cluster.now += 61'000 * kMs;
  cluster.Pass(200, {});
  EXPECT_EQ(cluster.state.FindWorker(left), nullptr);
  ASSERT_NE(cluster.state.FindWorker(lost), nullptr);
  EXPECT_EQ(cluster.state.FindWorker(lost)->phase, WorkerPhase::kLost);
  cluster.now += 3'600'000 * kMs;
  cluster.Pass(200, {});
  EXPECT_EQ(cluster.state.FindWorker(lost), nullptr);
}

TEST(ClusterFailover, WhoStalledGivesItsPlaceToASpare) {
  for (const bool slow_leaves_first : {true, false}) {
    Cluster cluster;
    cluster.state.Apply(SmallDeployment(2, 1, 1), SmallModel(), cluster.now);
    const WorkerId slow = cluster.Join("slow");
    const WorkerId sound = cluster.Join("sound");
    cluster.Join("spare");
    ASSERT_EQ(cluster.pipeline().phase, PipelinePhase::kReady);
    const Epoch epoch = cluster.pipeline().epoch;
    WorkerProgress progress;
    progress.epoch = epoch.value();
    progress.last_step = 4;
    progress.current_step = 5;
    progress.operation = "run the layers";
    cluster.Beat(slow, progress);
    progress.operation = progress.waiting_for = "receive from stage 0 rank 0";
    cluster.Beat(sound, progress);
    cluster.state.StepStalled(cluster.pipeline().id, epoch, StepNumber(5), "no result of step 5", cluster.now);
    // They let go one after the other; in between the spare and one of them would be enough.
    std::vector<WorkerId> released;
    for (const Action& action : cluster.state.TakeActions()) {
      if (const auto* release = std::get_if<SendRelease>(&action)) released.push_back(release->worker);
    }
    ASSERT_EQ(released.size(), 2u);
    cluster.now += 5'000 * kMs;  // the pause after a failed epoch
    for (const WorkerId id : slow_leaves_first ? std::vector{slow, sound} : std::vector{sound, slow}) {
      cluster.state.Left(id, epoch, cluster.now);
      cluster.Obey();
    }
    cluster.Pass(1'000, {slow, sound});
    ASSERT_EQ(cluster.pipeline().phase, PipelinePhase::kReady) << cluster.pipeline().message;
    EXPECT_EQ(cluster.assigned.at("spare").stage, 0);
    EXPECT_EQ(cluster.assigned.at("sound").stage, 1);
    EXPECT_EQ(cluster.state.FindWorker(slow)->phase, WorkerPhase::kIdle);
  }
}

TEST(ClusterFailover, ASpareWithoutRoomForTheShardMeansAnotherPlacement) {
  Cluster cluster;
  cluster.state.Apply(SmallDeployment(2, 1, 1), SmallModel(), cluster.now);
  cluster.Join("a");
  const WorkerId b = cluster.Join("b");
  const int blocks = cluster.pipeline().placement.blocks;
  cluster.Join("small", "", NeededAt(cluster.pipeline(), 1) * 3 / 4);
  cluster.state.Gone(b, "killed", cluster.now);
  cluster.Obey();
  EXPECT_EQ(cluster.pipeline().phase, PipelinePhase::kReady) << cluster.pipeline().message;
  EXPECT_LT(cluster.pipeline().placement.blocks, blocks);
}

TEST(ClusterFailover, ANewCoordinatorGivesWorkersTheirPlacesBack) {
  Cluster before;
  before.state.Apply(SmallDeployment(2, 1, 1), SmallModel(), before.now);
  before.Join("a");
  before.Join("b");
  ASSERT_EQ(before.saved.shard_digests, (std::vector<std::string>{"shard of stage 0", "shard of stage 1"}));
  Cluster after;
  after.state.Restore(1, 1, {before.saved});
  after.state.Apply(SmallDeployment(2, 1, 1), SmallModel(), after.now);
  after.Join("spare");
  after.Join("b", "shard of stage 1");
  EXPECT_NE(after.pipeline().phase, PipelinePhase::kReady) << "two would do, but the one that has stage 0 is awaited";
  after.Join("a", "shard of stage 0");
  ASSERT_EQ(after.pipeline().phase, PipelinePhase::kReady) << after.pipeline().message;
  EXPECT_EQ(after.assigned.at("a").stage, 0);
  EXPECT_EQ(after.assigned.at("b").stage, 1);
  EXPECT_EQ(after.assigned.count("spare"), 0u);
}

TEST(ClusterFailover, WhoDoesNotComeBackIsNotAwaitedForEver) {
  Cluster before;
  before.state.Apply(SmallDeployment(2, 1, 1), SmallModel(), before.now);
  before.Join("a");
  before.Join("b");
  Cluster after;
  after.state.Restore(1, 1, {before.saved});
  after.state.Apply(SmallDeployment(2, 1, 1), SmallModel(), after.now);
  const WorkerId spare = after.Join("spare");
  const WorkerId b = after.Join("b", "shard of stage 1");
  after.Pass(1500, {spare, b});
  EXPECT_NE(after.pipeline().phase, PipelinePhase::kReady);
  after.Pass(1000, {spare, b});
  EXPECT_EQ(after.pipeline().phase, PipelinePhase::kReady);
  EXPECT_EQ(after.assigned.at("spare").stage, 0);
  EXPECT_EQ(after.assigned.at("b").stage, 1);
}

TEST(ClusterFailover, AStoppedWorkerIsNamedWithinTwoSeconds) {
  Cluster cluster;
  cluster.state.Apply(SmallDeployment(2, 1, 1), SmallModel(), cluster.now);
  const WorkerId a = cluster.Join("a");
  const WorkerId b = cluster.Join("b");
  const WorkerId spare = cluster.Join("spare");
  WorkerProgress progress;
  progress.current_step = 41;
  progress.last_step = 40;
  progress.operation = "run the layers";
  cluster.Beat(b, progress);
  const int64_t stopped_ns = cluster.now;
  while (cluster.probes.empty() && cluster.now < stopped_ns + 5000 * kMs) cluster.Pass(100, {a, spare});
  ASSERT_EQ(cluster.probes.size(), 1u);
  cluster.state.Probed(b, ProbeResult::kAnswered, cluster.now);
  cluster.Obey();
  EXPECT_LE(cluster.now - stopped_ns, 2000 * kMs);
  ASSERT_EQ(cluster.faults.size(), 1u);
  EXPECT_EQ(cluster.faults[0].kind, FaultKind::kWedge);
  for (const char* part : {"stage 1 rank 0 (b)", "run the layers", "step 41"}) {
    EXPECT_TRUE(absl::StrContains(cluster.faults[0].text, part)) << cluster.faults[0].text;
  }
  EXPECT_EQ(cluster.assigned.count("spare"), 0u) << "named at once, given up a moment later: it may only starve";
  cluster.Pass(1000, {a, spare});
  EXPECT_EQ(cluster.pipeline().phase, PipelinePhase::kReady) << "the spare took its place";
  EXPECT_EQ(cluster.assigned.at("spare").stage, 1);
}

TEST(ClusterFailover, AWorkerThatOnlyStarvedKeepsItsPlace) {
  Cluster cluster;
  cluster.state.Apply(SmallDeployment(1, 1, 1), SmallModel(), cluster.now);
  const WorkerId a = cluster.Join("a");
  cluster.Pass(1500, {});
  ASSERT_EQ(cluster.probes.size(), 1u);
  cluster.state.Probed(a, ProbeResult::kAnswered, cluster.now);
  cluster.Obey();
  cluster.Pass(300, {});
  cluster.Beat(a);
  cluster.Pass(3000, {a});
  EXPECT_EQ(cluster.pipeline().epoch, Epoch(1)) << "nothing was taken apart";
}

TEST(ClusterFailover, WhatCannotBeReachedKeepsItsLease) {
  Cluster cluster;
  cluster.state.Apply(SmallDeployment(1, 1, 1), SmallModel(), cluster.now);
  const WorkerId a = cluster.Join("a");
  cluster.Pass(1500, {});
  ASSERT_EQ(cluster.probes.size(), 1u);
  cluster.state.Probed(a, ProbeResult::kUnreachable, cluster.now);
  cluster.Obey();
  ASSERT_EQ(cluster.faults.size(), 1u);
  EXPECT_EQ(cluster.faults[0].kind, FaultKind::kPartition);
  EXPECT_EQ(cluster.pipeline().phase, PipelinePhase::kReady) << "it may come back";
  cluster.Beat(a);
  cluster.Pass(1000, {a});
  EXPECT_EQ(cluster.pipeline().phase, PipelinePhase::kReady);
  cluster.Pass(3500, {});
  EXPECT_NE(cluster.pipeline().phase, PipelinePhase::kReady);
}

TEST(ClusterFailover, APauseOfTheCoordinatorItselfLosesNobody) {
  Cluster cluster;
  cluster.state.Apply(SmallDeployment(2, 1, 1), SmallModel(), cluster.now);
  const WorkerId a = cluster.Join("a");
  const WorkerId b = cluster.Join("b");
  cluster.Pass(1000, {a, b});
  cluster.now += 60'000 * kMs;  // stopped; what the workers said meanwhile is still unread
  cluster.state.Tick(cluster.now);
  cluster.Obey();
  EXPECT_EQ(cluster.pipeline().phase, PipelinePhase::kReady);
  EXPECT_TRUE(cluster.probes.empty());
  cluster.Pass(1000, {a, b});
  EXPECT_EQ(cluster.pipeline().phase, PipelinePhase::kReady);
}

TEST(ClusterFailover, WhoComesAndGoesIsTakenLastUnlessItWasToldTo) {
  for (const bool told_to : {false, true}) {
    Cluster cluster;
    for (int i = 0; i < 4; ++i) {
      const WorkerId first = cluster.Join("first");
      cluster.now += 100 * kMs;
      cluster.state.Gone(first, told_to ? "it was told to stop" : "crashed", cluster.now, /*planned=*/told_to);
      cluster.Obey();
    }
    cluster.Join("first");
    cluster.Join("second");
    cluster.state.Tick(cluster.now);
    cluster.state.Apply(SmallDeployment(1, 1, 1), SmallModel(), cluster.now);
    cluster.Obey();
    EXPECT_EQ(cluster.assigned.count("first"), told_to ? 1u : 0u);
    EXPECT_EQ(cluster.assigned.count("second"), told_to ? 0u : 1u);
  }
}

}  // namespace
}  // namespace pagoda::coordinator
