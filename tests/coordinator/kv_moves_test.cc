// Which pipeline takes the KV of one that is left, and the book of moves under way.
#include "coordinator/kv_moves.h"

#include <gtest/gtest.h>

#include "tests/coordinator/cluster_facts.h"

namespace pagoda::coordinator {
namespace {

constexpr int64_t kMs = 1'000'000;

// Workers that obey; each pipeline of one stage and one rank.
struct Cluster {
  ClusterState state{ClusterLimits{.own_blob_addresses = {}}};
  int64_t now = 1000 * kMs;
  std::string digest = "shard";  // what the next worker says that it has loaded
  std::vector<WorkerId> workers;

  void Join(uint32_t kv_moves = 1) {
    WorkerInfo info;
    info.name = absl::StrCat("w", workers.size());
    info.memory_bytes = int64_t{1} << 32;
    info.numerics_profile = "p";
    info.blob_address = "127.0.0.1:1";
    info.kv_moves = kv_moves;
    workers.push_back(state.Join(info, now));
    Obey();
  }
  void Obey() {
    for (std::vector<Action> actions = state.TakeActions(); !actions.empty(); actions = state.TakeActions()) {
      for (const Action& action : actions) {
        if (const auto* assign = std::get_if<SendAssignment>(&action)) {
          LoadDetails details{.kv_bytes = 1000 * int64_t{assign->assignment.blocks}, .shard_digest = digest, .held = nullptr};
          state.Loaded(assign->worker, assign->assignment.epoch, LoadPhase::kLoaded, details, now);
        } else if (const auto* link = std::get_if<SendLinkUp>(&action)) {
          state.Loaded(link->worker, link->epoch, LoadPhase::kLinked, {}, now);
        } else if (const auto* release = std::get_if<SendRelease>(&action)) {
          state.Left(release->worker, release->epoch, now);
        }
      }
    }
  }
  void Deploy(int replicas, const std::string& kv_type = "f16") {
    DeploymentSpec spec = testing::SmallDeployment(1, 1, replicas);
    spec.kv_cache_type = kv_type;
    state.Apply(spec, testing::SmallModel(), now);
    Obey();
  }
  std::optional<PipelineId> PeerOf(uint64_t pipeline, const std::set<PipelineId>& leaving = {},
                                   const std::map<PipelineId, int>& running = {}) {
    return ChooseKvPeer(state, PipelineId(pipeline), leaving, running);
  }
};

TEST(ChooseKvPeer, AReadyPipelineOfTheSameShardsThatRunsLeast) {
  Cluster cluster;
  for (int i = 0; i < 3; ++i) cluster.Join();
  cluster.Deploy(3);
  EXPECT_EQ(cluster.PeerOf(1), PipelineId(2));
  EXPECT_EQ(cluster.PeerOf(1, {}, {{PipelineId(2), 5}, {PipelineId(3), 4}}), PipelineId(3));
  EXPECT_EQ(cluster.PeerOf(1, {PipelineId(2)}), PipelineId(3)) << "2 is left itself";
  EXPECT_EQ(cluster.PeerOf(1, {PipelineId(2), PipelineId(3)}), std::nullopt);
  EXPECT_EQ(cluster.PeerOf(9), std::nullopt);
  EXPECT_EQ(KvBlockBytesOf(cluster.state, cluster.state.pipelines().at(PipelineId(1))), 1000);
}

TEST(ChooseKvPeer, NotOneOfOtherShards) {
  Cluster cluster;
  cluster.Join();
  cluster.Deploy(2);
  cluster.digest = "another shard";
  cluster.Join();
  EXPECT_EQ(cluster.state.pipelines().at(PipelineId(2)).phase, PipelinePhase::kReady);
  EXPECT_EQ(cluster.PeerOf(1), std::nullopt);
}

TEST(ChooseKvPeer, NotOneThatHasNoWorkers) {
  Cluster cluster;
  cluster.Join();
  cluster.Deploy(2);
  EXPECT_EQ(cluster.PeerOf(1), std::nullopt);
}

TEST(ChooseKvPeer, NotWorkersOfAnOlderVersionOnEitherSide) {
  Cluster cluster;
  cluster.Join();
  cluster.Join(0);
  cluster.Deploy(2);
  EXPECT_EQ(cluster.PeerOf(1), std::nullopt);
  EXPECT_EQ(cluster.PeerOf(2), std::nullopt);
}

TEST(ChooseKvPeer, NotOneThatStoresKvInAnotherWay) {
  Cluster cluster;
  cluster.Join();
  cluster.Join();
  cluster.Deploy(1);
  cluster.Deploy(1, "bf16");  // the first drains, a second comes
  ASSERT_TRUE(cluster.state.pipelines().at(PipelineId(1)).draining);
  ASSERT_EQ(cluster.state.pipelines().at(PipelineId(2)).phase, PipelinePhase::kReady);
  EXPECT_EQ(cluster.PeerOf(1), std::nullopt);
}

TEST(ChooseKvPeer, OneThatDrainsGivesAndDoesNotTake) {
  Cluster cluster;
  cluster.Join();
  cluster.Join();
  cluster.Deploy(2);
  ASSERT_TRUE(cluster.state.Scale("m", 1, cluster.now).ok());
  cluster.Obey();
  EXPECT_EQ(cluster.PeerOf(2), PipelineId(1));
  EXPECT_EQ(cluster.PeerOf(1), std::nullopt);
}

TEST(KvMoves, TheLastRankThatFilledEndsAMove) {
  KvMoves moves;
  KvMove& move = moves.Begin(PipelineId(1), Epoch(5), PipelineId(2), Epoch(6), 0);
  move.awaited = {WorkerId(1), WorkerId(2)};
  EXPECT_FALSE(KvMoves::Filled(move, WorkerId(3), 9, 9)) << "it was not asked";
  EXPECT_FALSE(KvMoves::Filled(move, WorkerId(1), 100, 30));
  EXPECT_FALSE(KvMoves::Filled(move, WorkerId(1), 100, 30)) << "twice";
  EXPECT_TRUE(KvMoves::Filled(move, WorkerId(2), 50, 20));
  EXPECT_EQ(move.bytes, 150);
  EXPECT_EQ(move.slowest_us, 30);
  EXPECT_EQ(move.slowest_bytes, 100);
}

TEST(KvMoves, AreFoundByEitherEndOfTheirEpochs) {
  KvMoves moves;
  const uint64_t first = moves.Begin(PipelineId(1), Epoch(5), PipelineId(2), Epoch(6), 0).id;
  const uint64_t second = moves.Begin(PipelineId(3), Epoch(7), PipelineId(2), Epoch(6), kKvMoveNs).id;
  EXPECT_NE(first, second);
  EXPECT_EQ(moves.Touching(PipelineId(2), Epoch(6)), (std::vector<uint64_t>{first, second}));
  EXPECT_EQ(moves.Touching(PipelineId(1), Epoch(5)), std::vector<uint64_t>{first});
  EXPECT_TRUE(moves.Touching(PipelineId(1), Epoch(4)).empty());
  EXPECT_EQ(moves.leaving(), (std::set<PipelineId>{PipelineId(1), PipelineId(3)}));
  EXPECT_EQ(moves.Late(kKvMoveNs), std::vector<uint64_t>{first});
  moves.Erase(first);
  EXPECT_EQ(moves.Find(first), nullptr);
  EXPECT_EQ(moves.From(PipelineId(1)), nullptr);
  EXPECT_NE(moves.From(PipelineId(3)), nullptr);
}

TEST(KvMoveRate, FollowsWhatIsMeasuredAndNotTrifles) {
  KvMoveRate rate;
  const double assumed = rate.BlockNs(1 << 20);
  rate.Observe(1000, 1'000'000);
  EXPECT_EQ(rate.BlockNs(1 << 20), assumed);
  for (int i = 0; i < 20; ++i) rate.Observe(1 << 24, 1'000'000);
  EXPECT_NEAR(rate.BlockNs(1 << 24), 1e9, 1e7);
}

}  // namespace
}  // namespace pagoda::coordinator
