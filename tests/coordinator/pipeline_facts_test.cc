// What routers are told of a pipeline whose coordinator leaves or whose epoch is over.
#include "coordinator/pipeline_facts.h"

#include <gtest/gtest.h>

#include "tests/coordinator/cluster_facts.h"

namespace pagoda::coordinator {
namespace {

struct Facts {
  Facts() {
    pipeline.phase = PipelinePhase::kReady;
    pipeline.epoch = Epoch(5);
    deployment.model = testing::SmallModel();
  }
  PipelineRecord pipeline;
  DeploymentRecord deployment;
};

TEST(PipelineFacts, AReadyPipelineTakesWork) {
  const Facts facts;
  const PipelineSnapshot snapshot = SnapshotOf(facts.pipeline, facts.deployment, {.stats = {.waiting = 7}});
  EXPECT_TRUE(snapshot.ready);
  EXPECT_FALSE(snapshot.epoch_closed);
  EXPECT_EQ(snapshot.epoch, Epoch(5));
  EXPECT_EQ(snapshot.waiting, 7);
}

TEST(PipelineFacts, ACoordinatorThatLeavesTakesNoMoreAndItsStreamsMayGo) {
  const Facts facts;
  const PipelineSnapshot snapshot = SnapshotOf(facts.pipeline, facts.deployment, {.stats = {}, .leaving = true});
  EXPECT_FALSE(snapshot.ready);
  EXPECT_TRUE(snapshot.epoch_closed);
}

TEST(PipelineFacts, StreamsMayLeaveAPipelineWithoutAnEpoch) {
  Facts facts;
  facts.pipeline.phase = PipelinePhase::kPending;
  const PipelineSnapshot snapshot = SnapshotOf(facts.pipeline, facts.deployment, {.stats = {}});
  EXPECT_FALSE(snapshot.ready);
  EXPECT_TRUE(snapshot.epoch_closed);
}

}  // namespace
}  // namespace pagoda::coordinator
