#include "coordinator/cluster_state.h"

#include <gtest/gtest.h>

#include <random>

#include "tests/coordinator/cluster_facts.h"
#include "tests/coordinator/cluster_rig.h"

namespace pagoda::coordinator {
namespace {

using testing::Cluster;
using testing::Info;
using testing::kMs;
using testing::SmallDeployment;
using testing::SmallModel;

TEST(ClusterState, AssemblesInOrderOfRegistration) {
  Cluster cluster;
  cluster.state.Apply(SmallDeployment(2, 2, 1), SmallModel(), cluster.now);
  cluster.Obey();
  EXPECT_NE(cluster.state.pipelines().at(PipelineId(1)).message.find("needs 4 workers, 0 of 0 are idle"), std::string::npos);
  std::vector<WorkerId> workers;
  for (const char* name : {"d", "c", "b", "a", "e"}) workers.push_back(cluster.Join(name));
  ASSERT_EQ(cluster.PhaseOf(1), PipelinePhase::kReady);
  EXPECT_EQ(cluster.opened[PipelineId(1)], 1);
  for (int i = 0; i < 4; ++i) {
    EXPECT_EQ(cluster.assignments.at(workers[static_cast<size_t>(i)]).stage, i / 2);
    EXPECT_EQ(cluster.assignments.at(workers[static_cast<size_t>(i)]).rank, i % 2);
  }
  EXPECT_EQ(cluster.assignments.count(workers[4]), 0u);
  const Assignment& assignment = cluster.assignments.at(workers[0]);
  EXPECT_EQ(assignment.stages.size(), 2u);
  EXPECT_EQ(assignment.stages[1].layer_end, 8);
  EXPECT_EQ(assignment.model_peers, std::vector<std::string>{"me:1"});
  EXPECT_GE(int64_t{assignment.blocks} * assignment.block_tokens, assignment.max_model_len);
  ASSERT_EQ(cluster.links.at(workers[3]).peers.size(), 4u);
  EXPECT_EQ(cluster.links.at(workers[3]).peers[1].data_address, "data c");
}

TEST(ClusterState, ALostWorkerIsReplacedByASpareAndTheOthersKeepTheirPlace) {
  Cluster cluster;
  cluster.state.Apply(SmallDeployment(3, 1, 1), SmallModel(), cluster.now);
  const WorkerId a = cluster.Join("a"), b = cluster.Join("b"), c = cluster.Join("c"), spare = cluster.Join("s");
  ASSERT_EQ(cluster.PhaseOf(1), PipelinePhase::kReady);
  cluster.state.Gone(b, "killed", cluster.now);
  cluster.Obey();
  ASSERT_EQ(cluster.PhaseOf(1), PipelinePhase::kReady);
  EXPECT_EQ(cluster.closed[PipelineId(1)], 1);
  EXPECT_EQ(cluster.opened[PipelineId(1)], 2);
  EXPECT_EQ(cluster.state.pipelines().at(PipelineId(1)).epoch, Epoch(2));
  EXPECT_EQ(cluster.assignments.at(a).stage, 0);
  EXPECT_EQ(cluster.assignments.at(spare).stage, 1);
  EXPECT_EQ(cluster.assignments.at(c).stage, 2);
  for (const Action& action : cluster.log) {
    if (const auto* release = std::get_if<SendRelease>(&action)) {
      EXPECT_TRUE(release->keep_weights);
    }
  }
}

TEST(ClusterState, WithoutASpareItWaitsForTheWorkerToComeBack) {
  Cluster cluster;
  cluster.state.Apply(SmallDeployment(2, 1, 1), SmallModel(), cluster.now);
  cluster.Join("a");
  const WorkerId b = cluster.Join("b");
  cluster.state.Gone(b, "killed", cluster.now);
  cluster.Obey();
  EXPECT_EQ(cluster.PhaseOf(1), PipelinePhase::kPending);
  EXPECT_NE(cluster.state.pipelines().at(PipelineId(1)).message.find("needs 2 workers"), std::string::npos);
  const WorkerId again = cluster.Join("b", 2);
  EXPECT_NE(again, b);
  EXPECT_EQ(cluster.PhaseOf(1), PipelinePhase::kReady);
  EXPECT_EQ(cluster.assignments.at(again).stage, 1);
  EXPECT_EQ(cluster.state.workers().count(b), 0u);
}

TEST(ClusterState, WhoServesStaysWhenReplicasAreTakenAway) {
  Cluster cluster;
  cluster.state.Apply(SmallDeployment(1, 1, 2), SmallModel(), cluster.now);
  const WorkerId a = cluster.Join("a");
  cluster.Join("b");
  cluster.state.Gone(a, "killed", cluster.now);
  cluster.Obey();
  ASSERT_EQ(cluster.PhaseOf(1), PipelinePhase::kPending);
  ASSERT_TRUE(cluster.state.Scale("m", 1, cluster.now).ok());
  cluster.Obey();
  ASSERT_EQ(cluster.state.pipelines().size(), 1u);
  EXPECT_EQ(cluster.PhaseOf(2), PipelinePhase::kReady);
}

TEST(ClusterState, APipelineIsOfOneBuildAndProfile) {
  Cluster cluster;
  cluster.state.Apply(SmallDeployment(2, 1, 1), SmallModel(), cluster.now);
  const auto join = [&](const std::string& name, const std::string& version, const std::string& profile) {
    WorkerInfo info = Info(name);
    info.version = version;
    info.numerics_profile = profile;
    const WorkerId id = cluster.state.Join(info, cluster.now);
    cluster.Obey();
    return id;
  };
  const WorkerId a = join("a", "1", "cpu");
  join("b", "2", "cpu");
  join("c", "1", "gpu");
  EXPECT_EQ(cluster.PhaseOf(1), PipelinePhase::kPending);
  EXPECT_EQ(cluster.state.pipelines().at(PipelineId(1)).message,
            "needs 2 workers of one version and numerics profile, 1 of 3 are idle (3 of all versions)");
  const WorkerId d = join("d", "1", "cpu");
  ASSERT_EQ(cluster.PhaseOf(1), PipelinePhase::kReady);
  EXPECT_EQ(cluster.state.pipelines().at(PipelineId(1)).workers, (std::vector<WorkerId>{a, d}));
}

TEST(ClusterState, AnotherIncarnationReplacesTheOldOneAtOnce) {
  Cluster cluster;
  cluster.state.Apply(SmallDeployment(1, 1, 1), SmallModel(), cluster.now);
  cluster.Join("a", 1);
  cluster.Join("a", 2);
  EXPECT_EQ(cluster.state.workers().size(), 1u);
  EXPECT_EQ(cluster.PhaseOf(1), PipelinePhase::kReady);
  EXPECT_EQ(cluster.closed[PipelineId(1)], 1);
  EXPECT_EQ(cluster.opened[PipelineId(1)], 2);
}

TEST(ClusterState, ASilentWorkerLosesItsLease) {
  Cluster cluster;
  cluster.state.Apply(SmallDeployment(1, 1, 1), SmallModel(), cluster.now);
  const WorkerId a = cluster.Join("a");
  cluster.Pass(5000);
  EXPECT_EQ(cluster.PhaseOf(1), PipelinePhase::kReady);
  for (int i = 0; i < 3; ++i) {
    cluster.now += 334 * kMs;
    cluster.state.Tick(cluster.now);
    cluster.Obey();
  }
  EXPECT_EQ(cluster.state.FindWorker(a)->phase, WorkerPhase::kLost);
  EXPECT_EQ(cluster.PhaseOf(1), PipelinePhase::kPending);
  EXPECT_EQ(cluster.closed[PipelineId(1)], 1);
}

TEST(ClusterState, MessagesOfAnotherEpochAreDropped) {
  Cluster cluster;
  cluster.loads = false;
  cluster.state.Apply(SmallDeployment(1, 1, 1), SmallModel(), cluster.now);
  const WorkerId a = cluster.Join("a");
  cluster.state.Loaded(a, Epoch(99), LoadPhase::kLoaded, {}, cluster.now);
  EXPECT_EQ(cluster.PhaseOf(1), PipelinePhase::kLoading);
  cluster.state.EpochFailed(PipelineId(1), Epoch(99), "old news", cluster.now);
  EXPECT_EQ(cluster.PhaseOf(1), PipelinePhase::kLoading);
  cluster.state.Left(a, Epoch(99), cluster.now);
  EXPECT_EQ(cluster.state.FindWorker(a)->phase, WorkerPhase::kLoading);
}

TEST(ClusterState, AnAssemblyThatFailsIsTriedAgainLaterAndLater) {
  Cluster cluster;
  cluster.loads = false;
  cluster.state.Apply(SmallDeployment(1, 1, 1), SmallModel(), cluster.now);
  cluster.Join("a");
  int tries = 0;
  for (int i = 0; i < 6; ++i) {
    cluster.state.EpochFailed(PipelineId(1), cluster.state.pipelines().at(PipelineId(1)).epoch, "no such file", cluster.now);
    cluster.Obey();
    EXPECT_EQ(cluster.PhaseOf(1), PipelinePhase::kPending);
    cluster.Pass(10000);
    EXPECT_EQ(cluster.PhaseOf(1), PipelinePhase::kLoading);
    ++tries;
  }
  EXPECT_EQ(cluster.saved_epoch, static_cast<uint64_t>(tries + 1));
  cluster.loads = true;
}

// A fault that every try repeats costs ever fewer tries, says what it is all the time, and a new worker ends the pause.
TEST(ClusterState, RepeatedFaultsBackOffToHalfAMinuteAndAreTold) {
  Cluster cluster;
  cluster.loads = false;
  cluster.state.Apply(SmallDeployment(1, 1, 1), SmallModel(), cluster.now);
  cluster.Join("a");
  const auto pipeline = [&]() -> const PipelineRecord& { return cluster.state.pipelines().at(PipelineId(1)); };
  EXPECT_EQ(Explain(pipeline(), cluster.now), "") << "the first try";
  std::vector<int64_t> pauses;
  for (int i = 0; i < 12; ++i) {
    cluster.state.EpochFailed(PipelineId(1), pipeline().epoch, "the KV cache is too large", cluster.now);
    cluster.Obey();
    ASSERT_EQ(cluster.PhaseOf(1), PipelinePhase::kPending);
    const std::string told = Explain(pipeline(), cluster.now);
    EXPECT_NE(told.find("the KV cache is too large"), std::string::npos) << told;
    EXPECT_NE(told.find("the next try is in"), std::string::npos) << told;
    if (i == 11) break;
    const int64_t failed = cluster.now;
    for (int turn = 0; turn < 400 && cluster.PhaseOf(1) == PipelinePhase::kPending; ++turn) cluster.Pass(100);
    pauses.push_back((cluster.now - failed) / kMs);
    EXPECT_NE(Explain(pipeline(), cluster.now).find("the KV cache is too large"), std::string::npos) << "while it loads again";
  }
  EXPECT_EQ(pauses.front(), 200);
  EXPECT_EQ(pauses[1], 400);
  EXPECT_EQ(pauses.back(), 30'000);
  cluster.loads = true;
  cluster.Join("b");
  EXPECT_EQ(cluster.PhaseOf(1), PipelinePhase::kReady) << "at once";
  EXPECT_EQ(Explain(pipeline(), cluster.now), "");
}

TEST(ClusterState, AWorkersOwnKvCapBoundsThePool) {
  Cluster cluster;
  WorkerInfo info = Info("a");
  info.kv_cache_bytes = 1 << 20;
  const WorkerId capped = cluster.state.Join(info, cluster.now);
  cluster.state.Apply(SmallDeployment(1, 1, 1), SmallModel(), cluster.now);
  cluster.Obey();
  ASSERT_EQ(cluster.PhaseOf(1), PipelinePhase::kReady);
  // K and V, 8 layers, 2 heads of 16, 16 tokens, two bytes.
  EXPECT_EQ(cluster.assignments.at(capped).blocks, (1 << 20) / (2 * 8 * 2 * 16 * 16 * 2));
}

// Two equal workers of one machine that measured 22.4 and 6.1 GB/s, each in the other's way, get equal halves; two machines
// that really differ do not.
TEST(ClusterState, StartUpNoiseOfOneHostMovesNoLayers) {
  const auto first_stage = [](const std::string& second_host, double second_rate) {
    Cluster cluster;
    WorkerInfo a = Info("a"), b = Info("b");
    a.host = "one";
    a.memory_bandwidth = 22.4e9;
    b.host = second_host;
    b.memory_bandwidth = second_rate;
    cluster.state.Join(a, cluster.now);
    cluster.state.Join(b, cluster.now);
    cluster.state.Apply(SmallDeployment(2, 1, 1), SmallModel(30), cluster.now);
    cluster.Obey();
    return cluster.state.pipelines().at(PipelineId(1)).placement.stages.at(0).layer_end;
  };
  EXPECT_EQ(first_stage("one", 6.1e9), 15);
  EXPECT_EQ(first_stage("two", 16e9), 15) << "less than measurements of equal machines differ";
  EXPECT_GT(first_stage("two", 6.1e9), 20);
}

TEST(ClusterState, ReleasedWorkersAreNotUsedBeforeTheyHaveLeft) {
  Cluster cluster;
  cluster.state.Apply(SmallDeployment(2, 1, 1), SmallModel(), cluster.now);
  const WorkerId a = cluster.Join("a"), b = cluster.Join("b");
  cluster.leaves = false;
  const WorkerId c = cluster.Join("c");
  cluster.state.Gone(b, "killed", cluster.now);
  cluster.Obey();
  EXPECT_EQ(cluster.PhaseOf(1), PipelinePhase::kPending) << "a has not left yet, and c alone is too few";
  cluster.state.Left(a, Epoch(1), cluster.now);
  cluster.Obey();
  EXPECT_EQ(cluster.PhaseOf(1), PipelinePhase::kReady);
  EXPECT_EQ(cluster.assignments.at(c).stage, 1);
}

TEST(ClusterState, ScalesAndApplies) {
  Cluster cluster;
  for (const char* name : {"a", "b", "c"}) cluster.Join(name);
  cluster.state.Apply(SmallDeployment(1, 1, 2), SmallModel(), cluster.now);
  cluster.Obey();
  EXPECT_EQ(cluster.state.pipelines().size(), 2u);
  cluster.state.Apply(SmallDeployment(1, 1, 2), SmallModel(), cluster.now);
  cluster.Obey();
  EXPECT_EQ(cluster.saved_epoch, 2u) << "the same spec twice changes nothing";
  ASSERT_TRUE(cluster.state.Scale("m", 3, cluster.now).ok());
  cluster.Obey();
  EXPECT_EQ(cluster.PhaseOf(3), PipelinePhase::kReady);
  ASSERT_TRUE(cluster.state.Scale("m", 1, cluster.now).ok());
  cluster.Obey();
  EXPECT_EQ(cluster.state.pipelines().size(), 1u);
  EXPECT_FALSE(cluster.state.Scale("x", 1, cluster.now).ok());
  EXPECT_FALSE(cluster.state.Scale("m", -1, cluster.now).ok());
  // Another shape: a new pipeline takes over.
  cluster.state.Apply(SmallDeployment(2, 1, 1), SmallModel(), cluster.now);
  cluster.Obey();
  ASSERT_EQ(cluster.state.pipelines().size(), 1u);
  EXPECT_EQ(cluster.state.pipelines().begin()->second.placement.stages.size(), 2u);
  EXPECT_EQ(cluster.state.pipelines().begin()->second.phase, PipelinePhase::kReady);
  ASSERT_TRUE(cluster.state.Delete("m", cluster.now).ok());
  cluster.Obey();
  EXPECT_TRUE(cluster.state.pipelines().empty());
  for (const auto& [id, worker] : cluster.state.workers()) EXPECT_EQ(worker.phase, WorkerPhase::kIdle);
}

TEST(ClusterState, SaysWhyAModelDoesNotFit) {
  Cluster cluster;
  DeploymentSpec spec = SmallDeployment(1, 1, 1);
  spec.kv_cache_bytes = 1;
  cluster.state.Apply(spec, SmallModel(), cluster.now);
  cluster.Join("a");
  EXPECT_NE(cluster.state.pipelines().at(PipelineId(1)).message.find("does not fit"), std::string::npos);
}

TEST(ClusterState, RestoredPipelinesKeepTheirIdsAndEpochsGoOn) {
  Cluster cluster;
  cluster.state.Restore(41, 7, {{PipelineId(5), "m", {}, {}}});
  cluster.saved_epoch = 41;
  cluster.state.Apply(SmallDeployment(1, 1, 2), SmallModel(), cluster.now);
  cluster.Join("a");
  cluster.Join("b");
  EXPECT_EQ(cluster.PhaseOf(5), PipelinePhase::kReady);
  EXPECT_EQ(cluster.PhaseOf(8), PipelinePhase::kReady);
  EXPECT_EQ(cluster.saved_epoch, 43u);
}

// Whatever happens, once the storm is over everything that can run runs, and each worker has at most one place.
TEST(ClusterState, RandomLossesAlwaysEndReady) {
  for (uint64_t seed = 1; seed <= 300; ++seed) {
    std::mt19937_64 random(seed);
    Cluster cluster;
    cluster.state.Apply(SmallDeployment(2, 1, 2), SmallModel(), cluster.now);
    uint64_t incarnation = 1;
    for (int turn = 0; turn < 60; ++turn) {
      const std::string name = "w" + std::to_string(random() % 5);
      switch (random() % 6) {
        case 0:
        case 1:
          cluster.Join(name, ++incarnation);
          break;
        case 2:
          for (const auto& [id, worker] : cluster.state.workers()) {
            if (worker.info.name == name) {
              cluster.state.Gone(id, "killed", cluster.now);
              break;
            }
          }
          break;
        case 3:
          cluster.leaves = random() % 2 == 0;
          break;
        case 4:
          cluster.state.EpochFailed(PipelineId(1 + random() % 2), Epoch(cluster.saved_epoch), "fault", cluster.now);
          break;
        default:
          cluster.Pass(static_cast<int64_t>(random() % 3) * 100);
      }
      cluster.Obey();
      std::map<WorkerId, int> places;
      for (const auto& [id, pipeline] : cluster.state.pipelines()) {
        for (const WorkerId worker : pipeline.workers) {
          ASSERT_EQ(++places[worker], 1) << "seed " << seed;
          ASSERT_EQ(cluster.state.FindWorker(worker)->pipeline, id) << "seed " << seed;
        }
      }
    }
    cluster.leaves = true;
    for (int i = 0; i < 5; ++i) cluster.Join("w" + std::to_string(i), ++incarnation);
    cluster.Pass(35000);
    for (const auto& [id, pipeline] : cluster.state.pipelines()) {
      ASSERT_EQ(pipeline.phase, PipelinePhase::kReady) << "seed " << seed << ": " << pipeline.message;
    }
  }
}

}  // namespace
}  // namespace pagoda::coordinator
