// Fewer workers than a pipeline was asked to have, and nobody to come: those that are left serve.
#include <gtest/gtest.h>

#include "coordinator/cluster_state.h"
#include "coordinator/services/describe.h"
#include "tests/coordinator/cluster_facts.h"
#include "tests/coordinator/cluster_rig.h"

namespace pagoda::coordinator {
namespace {

using testing::Cluster;
using testing::Info;
using testing::kMs;
using testing::SmallDeployment;
using testing::SmallModel;

class MakeshiftTest : public ::testing::Test {
 protected:
  // A pipeline of `names`, ready.
  void Serve(int stages, int ranks, const std::vector<const char*>& names, int replicas = 1) {
    cluster_.state.Apply(SmallDeployment(stages, ranks, replicas), SmallModel(), cluster_.now);
    for (const char* name : names) ids_[name] = cluster_.Join(name);
    ASSERT_EQ(cluster_.PhaseOf(1), PipelinePhase::kReady);
  }
  void Lose(const char* name) {
    cluster_.state.Gone(ids_.at(name), "killed", cluster_.now);
    cluster_.Obey();
  }
  const PipelineRecord& pipeline(uint64_t id = 1) const { return cluster_.state.pipelines().at(PipelineId(id)); }
  const Assignment& assignment(const char* name) const { return cluster_.assignments.at(ids_.at(name)); }

  Cluster cluster_;
  std::map<std::string, WorkerId> ids_;
};

TEST_F(MakeshiftTest, OneOfTwoStagesServesAloneAndBothAgainWhenTheOtherIsBack) {
  Serve(2, 1, {"a", "b"});
  const int64_t context = pipeline().placement.max_model_len;
  Lose("b");
  cluster_.Pass(4900);
  EXPECT_EQ(cluster_.PhaseOf(1), PipelinePhase::kPending) << "it may come back";
  cluster_.Pass(300);
  ASSERT_EQ(cluster_.PhaseOf(1), PipelinePhase::kReady);
  EXPECT_EQ(assignment("a").stages.size(), 1u);
  EXPECT_EQ(assignment("a").stages[0].layer_end, 8);
  EXPECT_EQ(pipeline().placement.max_model_len, context) << "no stream finds less room than it had";
  EXPECT_EQ(pipeline().makeshift, "runs with 1 of 2 workers, in 1 stage, until more are there");
  ids_["b"] = cluster_.Join("b", 2);
  cluster_.Pass(9000);
  EXPECT_EQ(pipeline().workers.size(), 1u) << "not for one that comes and goes";
  cluster_.Pass(1300);
  ASSERT_EQ(cluster_.PhaseOf(1), PipelinePhase::kReady);
  EXPECT_EQ(pipeline().workers.size(), 2u);
  EXPECT_EQ(pipeline().makeshift, "");
  EXPECT_EQ(cluster_.opened[PipelineId(1)], 3);
  const auto* last = [&]() -> const CloseEpoch* {
    const CloseEpoch* found = nullptr;
    for (const Action& action : cluster_.log) {
      if (const auto* close = std::get_if<CloseEpoch>(&action)) found = close;
    }
    return found;
  }();
  ASSERT_NE(last, nullptr);
  EXPECT_TRUE(last->planned) << "nobody is to blame for the last end";
}

TEST_F(MakeshiftTest, TheLargestLayoutThatCanBeMadeOfThemIsTaken) {
  Serve(3, 2, {"a", "b", "c", "d", "e", "f"});
  Lose("c");
  cluster_.Pass(5300);
  ASSERT_EQ(cluster_.PhaseOf(1), PipelinePhase::kReady);
  EXPECT_EQ(pipeline().placement.stages.size(), 2u);
  EXPECT_EQ(pipeline().workers.size(), 4u) << "two groups of two";
  Lose("a");
  Lose("b");
  cluster_.Pass(300);
  // Three are left of the makeshift's four: it waits again, for it was ready.
  cluster_.Pass(5300);
  ASSERT_EQ(cluster_.PhaseOf(1), PipelinePhase::kReady);
  EXPECT_EQ(pipeline().placement.stages.size(), 3u);
  EXPECT_EQ(pipeline().placement.stages[0].tensor_parallel, 1) << "three single ones are more than a group of two";
}

TEST_F(MakeshiftTest, NotBeforeItServedOnceNotBesideAnotherAndNotByHandCutLayers) {
  cluster_.state.Apply(SmallDeployment(2, 1, 1), SmallModel(), cluster_.now);
  ids_["a"] = cluster_.Join("a");
  cluster_.Pass(20000);
  EXPECT_EQ(cluster_.PhaseOf(1), PipelinePhase::kPending) << "what was asked for was never there";

  Cluster two;
  two.state.Apply(SmallDeployment(2, 1, 2), SmallModel(), two.now);
  std::vector<WorkerId> workers;
  for (const char* name : {"a", "b", "c", "d"}) workers.push_back(two.Join(name));
  two.state.Gone(workers[1], "killed", two.now);
  two.Obey();
  two.Pass(20000);
  EXPECT_EQ(two.PhaseOf(1), PipelinePhase::kPending) << "the other one has its streams";
  two.state.Gone(workers[2], "killed", two.now);
  two.Obey();
  EXPECT_TRUE(two.PhaseOf(1) == PipelinePhase::kReady || two.PhaseOf(2) == PipelinePhase::kReady) << "of the halves of both";

  Cluster by_hand;
  DeploymentSpec spec = SmallDeployment(2, 1, 1);
  spec.layers_per_stage = {5, 3};
  by_hand.state.Apply(spec, SmallModel(), by_hand.now);
  by_hand.Join("a");
  by_hand.state.Gone(by_hand.Join("b"), "killed", by_hand.now);
  by_hand.Obey();
  by_hand.Pass(20000);
  EXPECT_EQ(by_hand.PhaseOf(1), PipelinePhase::kPending);
}

TEST_F(MakeshiftTest, WhatDoesNotFitIsNotTried) {
  auto sizes = std::make_shared<ModelSizes>(*SmallModel().sizes);
  for (LayerBytes& layer : sizes->layers) layer.ffn = 4 << 20;
  Cluster small;
  for (const char* name : {"a", "b"}) {
    WorkerInfo info = Info(name);
    info.memory_bytes = 40 << 20;  // for workspace, a sequence and four layers each, not eight
    ids_[name] = small.state.Join(info, small.now);
  }
  small.state.Apply(SmallDeployment(2, 1, 1), {.digest = "digest", .sizes = sizes}, small.now);
  small.Obey();
  ASSERT_EQ(small.PhaseOf(1), PipelinePhase::kReady) << small.state.pipelines().at(PipelineId(1)).message;
  small.state.Gone(ids_.at("b"), "killed", small.now);
  small.Obey();
  small.Pass(20000);
  EXPECT_EQ(small.PhaseOf(1), PipelinePhase::kPending);
}

TEST_F(MakeshiftTest, AWorkerThatIsTooSmallDoesNotEndIt) {
  Serve(2, 1, {"a", "b"});
  Lose("b");
  cluster_.Pass(5300);
  ASSERT_EQ(cluster_.PhaseOf(1), PipelinePhase::kReady);
  WorkerInfo small = Info("b", 2);
  small.memory_bytes = 1 << 20;
  cluster_.state.Join(small, cluster_.now);
  cluster_.Obey();
  cluster_.Pass(30000);
  EXPECT_EQ(cluster_.PhaseOf(1), PipelinePhase::kReady);
  EXPECT_EQ(cluster_.opened[PipelineId(1)], 2) << "its streams were not interrupted for it";
  Lose("a");  // and comes back at once: both are there, and do not make what is asked for
  ids_["a"] = cluster_.Join("a", 2);
  cluster_.Pass(5600);
  EXPECT_EQ(cluster_.PhaseOf(1), PipelinePhase::kReady) << pipeline().message;
  EXPECT_EQ(pipeline().workers, std::vector<WorkerId>{ids_.at("a")});
}

TEST_F(MakeshiftTest, ATooSmallWorkerStandsInNobodysWay) {
  WorkerInfo tiny = Info("tiny");
  tiny.memory_bytes = 1 << 20;
  cluster_.state.Join(tiny, cluster_.now);
  cluster_.Obey();
  Serve(2, 1, {"a", "b"});
  Lose("a");
  cluster_.Pass(5600);
  ASSERT_EQ(cluster_.PhaseOf(1), PipelinePhase::kReady) << "as a makeshift of b";
  ids_["a"] = cluster_.Join("a", 2);
  cluster_.Pass(11000);
  ASSERT_EQ(cluster_.PhaseOf(1), PipelinePhase::kReady);
  EXPECT_EQ(pipeline().workers.size(), 2u) << "a and b, although tiny came before";
}

TEST_F(MakeshiftTest, ANewCoordinatorTakesItUpAtOnce) {
  Serve(2, 1, {"a", "b"});
  Lose("b");
  cluster_.Pass(5300);
  ASSERT_EQ(cluster_.PhaseOf(1), PipelinePhase::kReady);
  RestoredPipeline saved;
  for (const Action& action : cluster_.log) {
    if (const auto* save = std::get_if<SavePipeline>(&action)) saved = save->pipeline;
  }
  ASSERT_EQ(saved.placement.ranks.size(), 1u);
  Cluster next;
  next.saved_epoch = cluster_.saved_epoch;
  next.state.Restore(cluster_.saved_epoch, 1, {saved});
  next.state.Apply(SmallDeployment(2, 1, 1), SmallModel(), next.now);
  next.Join("a");
  next.Pass(2300);  // until those that held shards might have come
  EXPECT_EQ(next.PhaseOf(1), PipelinePhase::kReady);
  EXPECT_NE(next.state.pipelines().at(PipelineId(1)).makeshift, "");
}

TEST_F(MakeshiftTest, OperatorsSeeIt) {
  Serve(2, 1, {"a", "b"});
  Lose("b");
  cluster_.Pass(5300);
  ClusterView view;
  view.now_ns = cluster_.now;
  view.pipelines.push_back({.record = pipeline(), .status = {}});
  v1::Deployment shown;
  Describe(cluster_.state.deployments().at("m"), view, shown);
  EXPECT_EQ(shown.state(), v1::DEPLOYMENT_STATE_DEGRADED);
  EXPECT_EQ(shown.message(), "pipeline 1 runs with 1 of 2 workers, in 1 stage, until more are there");
  EXPECT_EQ(shown.replicas_ready(), 1);
}

}  // namespace
}  // namespace pagoda::coordinator
