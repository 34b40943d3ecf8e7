// One spec takes the place of another: who serves meanwhile, who is drained when, and what a new coordinator makes of it.
#include <gtest/gtest.h>

#include "coordinator/cluster_state.h"
#include "coordinator/coordinator.h"
#include "coordinator/services/describe.h"
#include "coordinator/store/encoding.h"
#include "tests/coordinator/cluster_facts.h"
#include "tests/coordinator/cluster_rig.h"

namespace pagoda::coordinator {
namespace {

namespace v1 = ::pagoda::v1;
using testing::Cluster;
using testing::kMs;
using testing::SmallDeployment;
using testing::SmallModel;

DeploymentSpec Int8(DeploymentSpec spec) {
  spec.kv_cache_type = "int8";
  return spec;
}

class RolloutTest : public ::testing::Test {
 protected:
  RolloutTest() { cluster_.drains = false; }  // something runs everywhere, until it is told otherwise

  void Apply(const DeploymentSpec& spec, const std::string& digest = "digest") {
    ModelFacts model = SmallModel();
    model.digest = digest;
    cluster_.state.Apply(spec, model, cluster_.now);
    cluster_.Obey();
  }
  void Join(std::initializer_list<const char*> names) {
    for (const char* name : names) cluster_.Join(name);
  }
  const PipelineRecord& pipeline(uint64_t id) { return cluster_.state.pipelines().at(PipelineId(id)); }
  bool Has(uint64_t id) { return cluster_.state.pipelines().contains(PipelineId(id)); }
  // Serves with that KV type; empty: it does not.
  std::string Serves(uint64_t id) {
    if (!Has(id) || pipeline(id).phase != PipelinePhase::kReady) return "";
    return cluster_.state.DeploymentOf(pipeline(id)).spec.kv_cache_type;
  }
  void Finish(uint64_t id) {
    cluster_.state.Drained(PipelineId(id), cluster_.now);
    cluster_.Obey();
  }
  v1::Deployment Shown() {
    ClusterView view;
    view.now_ns = cluster_.now;
    for (const auto& [id, record] : cluster_.state.pipelines()) view.pipelines.push_back({.record = record, .status = {}});
    v1::Deployment shown;
    Describe(cluster_.state.deployments().at("m"), view, shown);
    return shown;
  }
  // As the store has it, through its own text.
  std::vector<RestoredPipeline> StoredPipelines() {
    std::map<PipelineId, RestoredPipeline> stored;
    for (const Action& action : cluster_.log) {
      if (const auto* save = std::get_if<SavePipeline>(&action)) stored[save->pipeline.id] = *DecodePipeline(Encode(save->pipeline));
      if (const auto* forget = std::get_if<ForgetPipeline>(&action)) stored.erase(forget->pipeline);
    }
    std::vector<RestoredPipeline> all;
    for (auto& [id, pipeline] : stored) {
      pipeline.sizes = SmallModel().sizes;
      all.push_back(std::move(pipeline));
    }
    return all;
  }
  // A new coordinator that the workers come to.
  void FailOver(const DeploymentSpec& spec, std::initializer_list<const char*> workers, const std::string& digest = "digest") {
    const std::vector<RestoredPipeline> stored = StoredPipelines();
    Cluster next;
    next.now = cluster_.now;
    next.drains = false;
    next.saved_epoch = cluster_.saved_epoch;
    next.state.Restore(cluster_.saved_epoch, 9, stored);
    cluster_ = std::move(next);
    Apply(spec, digest);
    Join(workers);
  }

  Cluster cluster_;
};

TEST_F(RolloutTest, WhatServesServesOnUntilTheNewOneIsReady) {
  Join({"a", "b"});
  Apply(SmallDeployment(1, 1, 1));
  cluster_.loads = false;  // the new one takes its time
  Apply(Int8(SmallDeployment(1, 1, 1)));
  EXPECT_EQ(Serves(1), "f16");
  EXPECT_EQ(cluster_.PhaseOf(2), PipelinePhase::kLoading);
  EXPECT_EQ(Shown().state(), v1::DEPLOYMENT_STATE_ROLLING);
  EXPECT_EQ(Shown().replicas_ready(), 0);
  EXPECT_EQ(Shown().message(), "the spec applied before serves with 1 pipeline until those of this one are ready");
  cluster_.loads = true;
  const WorkerId loading = pipeline(2).workers.at(0);
  cluster_.state.Loaded(loading, pipeline(2).epoch, LoadPhase::kLoaded, {}, cluster_.now);
  cluster_.Obey();
  EXPECT_EQ(Serves(2), "int8");
  EXPECT_TRUE(pipeline(1).draining);
  EXPECT_EQ(Shown().state(), v1::DEPLOYMENT_STATE_READY);
  Finish(1);
  EXPECT_FALSE(Has(1));
}

TEST_F(RolloutTest, WithoutRoomForBothOneAfterTheOtherIsReplaced) {
  Join({"a", "b"});
  Apply(SmallDeployment(1, 1, 2));
  Apply(Int8(SmallDeployment(1, 1, 2)));
  EXPECT_EQ(Serves(1), "f16");
  EXPECT_TRUE(pipeline(2).draining) << "its worker is for the first of the new ones";
  cluster_.Pass(1000);
  EXPECT_EQ(Serves(1), "f16") << "not both at once";
  Finish(2);
  EXPECT_EQ(Serves(3), "int8");
  cluster_.Pass(300);
  EXPECT_TRUE(pipeline(1).draining);
  Finish(1);
  cluster_.Pass(300);
  EXPECT_EQ(Serves(3), "int8");
  EXPECT_EQ(Serves(4), "int8");
}

TEST_F(RolloutTest, TheNextIsReplacedWhenTheFirstServesAndNoneWhenItDoesNotLoad) {
  Join({"a", "b", "c"});
  Apply(SmallDeployment(1, 1, 3));
  cluster_.loads = false;
  Apply(Int8(SmallDeployment(1, 1, 3)));
  ASSERT_TRUE(pipeline(3).draining);
  Finish(3);
  cluster_.Pass(3000);
  ASSERT_EQ(cluster_.PhaseOf(4), PipelinePhase::kLoading);
  EXPECT_EQ(Serves(1), "f16");
  EXPECT_EQ(Serves(2), "f16");
  cluster_.state.EpochFailed(PipelineId(4), pipeline(4).epoch, "it does not load", cluster_.now);
  cluster_.Pass(30'000);
  EXPECT_EQ(Serves(1), "f16");
  EXPECT_EQ(Serves(2), "f16");
}

TEST_F(RolloutTest, ALostWorkerDoesNotStopARollout) {
  Join({"a", "b", "c", "d"});
  Apply(SmallDeployment(2, 1, 2));
  Apply(Int8(SmallDeployment(2, 1, 2)));
  ASSERT_TRUE(pipeline(2).draining);
  cluster_.loads = false;
  Finish(2);
  ASSERT_EQ(cluster_.PhaseOf(3), PipelinePhase::kLoading);
  cluster_.state.Gone(pipeline(3).workers.at(1), "killed", cluster_.now);  // for good
  cluster_.loads = true;
  cluster_.Obey();
  cluster_.Pass(2000);
  ASSERT_TRUE(pipeline(1).draining) << "with one of its workers there are enough again";
  Finish(1);
  cluster_.Pass(300);
  EXPECT_EQ(Serves(3), "int8");
}

TEST_F(RolloutTest, RoomIsForWhomItWasMade) {
  Join({"a", "b"});
  Apply(SmallDeployment(2, 1, 1));
  ModelFacts other = SmallModel();
  other.digest = "other";
  DeploymentSpec second = SmallDeployment(2, 1, 1);
  second.name = "n";
  cluster_.state.Apply(second, other, cluster_.now);  // pipeline 2, which waits for workers
  cluster_.Obey();
  Apply(Int8(SmallDeployment(2, 1, 1)));
  ASSERT_TRUE(pipeline(1).draining);
  Finish(1);
  cluster_.Pass(300);
  EXPECT_EQ(Serves(3), "int8");
  EXPECT_EQ(cluster_.PhaseOf(2), PipelinePhase::kPending);
}

TEST_F(RolloutTest, WhatTakesNewWorkHasItsWorkersBeforeWhatDrains) {
  Join({"a", "b", "c", "d"});
  Apply(SmallDeployment(2, 1, 1));
  Apply(Int8(SmallDeployment(2, 1, 1)));
  ASSERT_TRUE(pipeline(1).draining);
  ASSERT_EQ(Serves(2), "int8");
  // A host dies with the leader and the workers of what drains.
  FailOver(Int8(SmallDeployment(2, 1, 1)), {"c", "d"});
  cluster_.Pass(2300);
  EXPECT_EQ(Serves(2), "int8");
  EXPECT_EQ(cluster_.PhaseOf(1), PipelinePhase::kPending);
}

TEST_F(RolloutTest, WhatCanNotBePlacedStopsNothing) {
  Join({"a", "b"});
  Apply(SmallDeployment(2, 1, 1));
  Apply(SmallDeployment(4, 1, 1));
  cluster_.Pass(20'000);
  EXPECT_EQ(Serves(1), "f16");
  EXPECT_EQ(Shown().message(),
            "the spec applied before serves with 1 pipeline until those of this one are ready; needs 4 workers, 0 of 2 are idle");
  // Applied again as it was: nothing has happened.
  Apply(SmallDeployment(2, 1, 1));
  cluster_.drains = true;
  cluster_.Pass(300);
  EXPECT_EQ(Serves(1), "f16");
  EXPECT_EQ(cluster_.opened.at(PipelineId(1)), 1);
  EXPECT_EQ(Shown().state(), v1::DEPLOYMENT_STATE_READY);
  EXPECT_EQ(Shown().replicas_ready(), 1);
}

TEST_F(RolloutTest, ALongerQueueNeedsNoNewPipeline) {
  Join({"a"});
  Apply(SmallDeployment(1, 1, 1));
  DeploymentSpec spec = SmallDeployment(1, 1, 1);
  spec.max_queued_requests = 77;
  cluster_.log.clear();
  Apply(spec);
  ASSERT_EQ(cluster_.log.size(), 1u);
  const auto* limit = std::get_if<LimitQueue>(&cluster_.log.front());
  ASSERT_NE(limit, nullptr);
  EXPECT_EQ(limit->max_queued_requests, 77);
  EXPECT_EQ(Serves(1), "f16");
}

// Its streams finish with the tokens that they would have had.
TEST_F(RolloutTest, WhatDrainsIsAssembledAgainAsItWas) {
  Join({"a", "b"});
  Apply(SmallDeployment(2, 1, 1));
  DeploymentSpec other = Int8(SmallDeployment(2, 1, 1));
  other.activation_bits = 12;
  Apply(other, "another");
  ASSERT_EQ(cluster_.PhaseOf(1), PipelinePhase::kDraining);
  cluster_.state.Gone(pipeline(1).workers.at(1), "killed", cluster_.now);
  cluster_.Obey();
  const WorkerId again = cluster_.Join("b", 2);
  ASSERT_EQ(cluster_.PhaseOf(1), PipelinePhase::kDraining);
  EXPECT_EQ(cluster_.assignments.at(again).pipeline, PipelineId(1));
  EXPECT_EQ(cluster_.assignments.at(again).model_digest, "digest");
  EXPECT_EQ(cluster_.assignments.at(again).kv_cache_type, "f16");
  EXPECT_EQ(cluster_.assignments.at(again).activation_bits, 8);
  EXPECT_EQ(NumericsOf(pipeline(1), cluster_.state.DeploymentOf(pipeline(1))), "p kv=f16 activations=8");
  Finish(1);
  ASSERT_EQ(cluster_.PhaseOf(2), PipelinePhase::kReady);
  EXPECT_EQ(cluster_.assignments.at(again).model_digest, "another");
  EXPECT_EQ(NumericsOf(pipeline(2), cluster_.state.DeploymentOf(pipeline(2))), "p kv=int8 activations=12");
}

TEST_F(RolloutTest, WhatDrainsMakesShiftWithWhatIsLeft) {
  Join({"a", "b"});
  Apply(SmallDeployment(2, 1, 1));
  Apply(Int8(SmallDeployment(2, 1, 1)));
  ASSERT_EQ(cluster_.PhaseOf(1), PipelinePhase::kDraining);
  cluster_.state.Gone(pipeline(1).workers.at(1), "killed", cluster_.now);
  cluster_.Pass(5300);
  EXPECT_EQ(cluster_.PhaseOf(1), PipelinePhase::kDraining);
  EXPECT_EQ(pipeline(1).workers.size(), 1u);
  Finish(1);
  cluster_.Pass(5300);
  EXPECT_EQ(Serves(2), "int8") << "and so does the one that comes after it";
  EXPECT_EQ(pipeline(2).workers.size(), 1u);
}

TEST_F(RolloutTest, TheNewSpecLeavesWhatDrainsItsWorkers) {
  Join({"a", "b", "spare"});
  Apply(SmallDeployment(2, 1, 1));
  Apply(Int8(SmallDeployment(2, 1, 1)));
  ASSERT_TRUE(pipeline(1).draining);
  // A step fails; its workers let go, one after the other.
  const std::vector<WorkerId> workers = pipeline(1).workers;
  const Epoch epoch = pipeline(1).epoch;
  cluster_.leaves = false;
  cluster_.state.EpochFailed(PipelineId(1), epoch, "a step failed", cluster_.now);
  cluster_.Obey();
  cluster_.state.Left(workers[0], epoch, cluster_.now);
  cluster_.Obey();
  EXPECT_EQ(cluster_.PhaseOf(2), PipelinePhase::kPending) << "a and the spare are enough for it, and are not its";
  cluster_.leaves = true;
  cluster_.state.Left(workers[1], epoch, cluster_.now);
  cluster_.Obey();
  EXPECT_EQ(cluster_.PhaseOf(1), PipelinePhase::kDraining);
  EXPECT_EQ(pipeline(1).workers, workers);
}

TEST_F(RolloutTest, ANewCoordinatorLetsWhatDrainedFinish) {
  Join({"a", "b"});
  Apply(SmallDeployment(2, 1, 1));
  Apply(Int8(SmallDeployment(2, 1, 1)));
  ASSERT_TRUE(pipeline(1).draining);
  FailOver(Int8(SmallDeployment(2, 1, 1)), {"a", "b"});
  cluster_.Pass(2300);
  ASSERT_EQ(cluster_.PhaseOf(1), PipelinePhase::kDraining) << "assembled, and takes nothing new";
  EXPECT_EQ(cluster_.assignments.begin()->second.kv_cache_type, "f16");
  EXPECT_EQ(NumericsOf(pipeline(1), cluster_.state.DeploymentOf(pipeline(1))), "p kv=f16 activations=8");
  Finish(1);
  ASSERT_TRUE(Has(1)) << "its streams have not come back yet";
  cluster_.Pass(5000);
  Finish(1);
  EXPECT_FALSE(Has(1));
  EXPECT_EQ(Serves(2), "int8");
}

TEST_F(RolloutTest, ANewCoordinatorGoesOnWithARollout) {
  Join({"a", "b"});
  Apply(SmallDeployment(1, 1, 2));
  Apply(Int8(SmallDeployment(1, 1, 2)));
  FailOver(Int8(SmallDeployment(1, 1, 2)), {"a", "b"});
  cluster_.Pass(2300);
  EXPECT_EQ(Serves(1), "f16");
  EXPECT_EQ(cluster_.PhaseOf(2), PipelinePhase::kDraining);
  EXPECT_EQ(Shown().state(), v1::DEPLOYMENT_STATE_ROLLING);
  cluster_.Pass(5000);
  Finish(2);
  EXPECT_EQ(Serves(3), "int8");
  cluster_.Pass(300);
  EXPECT_TRUE(pipeline(1).draining);
}

TEST_F(RolloutTest, ASpecThatWasStoredAndNoMoreIsRolledOut) {
  Join({"a", "b"});
  Apply(SmallDeployment(1, 1, 1));
  FailOver(Int8(SmallDeployment(1, 1, 1)), {"a", "b"});  // the leader died between the two
  cluster_.Pass(2300);
  EXPECT_EQ(Serves(10), "int8");
  EXPECT_TRUE(pipeline(1).draining) << "since that one is ready";
}

TEST_F(RolloutTest, WhatNobodyHasTheModelOfIsForgotten) {
  Join({"a"});
  Apply(SmallDeployment(1, 1, 1));
  std::vector<RestoredPipeline> stored = StoredPipelines();
  stored.at(0).sizes = nullptr;
  cluster_ = Cluster();
  cluster_.state.Restore(5, 9, stored);
  cluster_.saved_epoch = 5;
  Apply(SmallDeployment(1, 1, 1), "another");
  EXPECT_FALSE(Has(1));
  ASSERT_EQ(cluster_.state.restored().size(), 1u) << "its model may still be found";
  const auto forgotten = [&] {
    return std::ranges::count_if(cluster_.log, [](const Action& action) { return std::holds_alternative<ForgetPipeline>(action); });
  };
  EXPECT_EQ(forgotten(), 0);
  Join({"a"});
  EXPECT_EQ(Serves(10), "f16");
  cluster_.state.FoundFormerModel(PipelineId(1), nullptr, cluster_.now);
  cluster_.Obey();
  EXPECT_EQ(forgotten(), 1);
  EXPECT_TRUE(cluster_.state.restored().empty());
}

TEST_F(RolloutTest, AFormerModelThatIsFoundLateServesAgain) {
  Join({"a", "b"});
  Apply(SmallDeployment(2, 1, 1));
  Apply(SmallDeployment(5, 1, 1));  // it can not be placed, so that the one before serves
  ASSERT_EQ(Serves(1), "f16");
  std::vector<RestoredPipeline> stored = StoredPipelines();
  for (RestoredPipeline& pipeline : stored) pipeline.sizes = nullptr;
  const uint64_t epoch = cluster_.saved_epoch;
  cluster_ = Cluster();
  cluster_.saved_epoch = epoch;
  cluster_.state.Restore(epoch, 9, stored);
  Apply(SmallDeployment(5, 1, 1));
  Join({"a", "b"});
  ASSERT_FALSE(Has(1));
  cluster_.state.FoundFormerModel(PipelineId(1), SmallModel().sizes, cluster_.now);
  cluster_.Obey();
  cluster_.Pass(2300);
  EXPECT_EQ(Serves(1), "f16");
}

TEST_F(RolloutTest, ARouterThatIsLostHasAMomentToBringItsStreamsBack) {
  Join({"a", "b"});
  Apply(SmallDeployment(1, 1, 2));
  ASSERT_TRUE(cluster_.state.Scale("m", 1, cluster_.now).ok());
  cluster_.Obey();
  cluster_.state.StreamsMayReturn(cluster_.now);
  Finish(2);
  EXPECT_TRUE(Has(2));
  cluster_.Pass(5000);
  Finish(2);
  EXPECT_FALSE(Has(2));
}

TEST_F(RolloutTest, TheShardOfAnotherPipelineIsLeftToIt) {
  Join({"m0", "n0", "n1", "n2"});
  Apply(SmallDeployment(1, 1, 1));
  ModelFacts other = SmallModel();
  other.digest = "other";
  DeploymentSpec second = SmallDeployment(3, 1, 1);
  second.name = "n";
  cluster_.state.Apply(second, other, cluster_.now);
  cluster_.Obey();
  const std::vector<WorkerId> workers = pipeline(2).workers;
  ASSERT_EQ(workers.size(), 3u);
  const auto lose = [&](WorkerId lost) {
    cluster_.state.Gone(lost, "killed", cluster_.now);
    cluster_.Obey();
  };
  lose(workers[1]);
  lose(workers[2]);
  Join({"spare"});
  lose(pipeline(1).workers.at(0));
  ASSERT_EQ(Serves(1), "f16");
  EXPECT_EQ(cluster_.state.FindWorker(pipeline(1).workers.at(0))->info.name, "spare") << "n0 came first, and has a shard that is wanted";
}

}  // namespace
}  // namespace pagoda::coordinator
