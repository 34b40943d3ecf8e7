// Death, wedge, slowness and partition are told apart, each with stage, rank, operation and step.
#include "coordinator/diagnosis.h"

#include <gtest/gtest.h>

#include "absl/strings/match.h"

namespace pagoda::coordinator {
namespace {

std::vector<RankView> TwoStages() {
  RankView first{.stage = 0, .rank = 0, .worker = "w0", .silent_ms = 100, .step = 12, .last_step = 11, .operation = "run the layers",
                 .waiting_for = "", .waiting_ms = 0};
  RankView second{.stage = 1, .rank = 0, .worker = "w1", .silent_ms = 200, .step = 12, .last_step = 11,
                  .operation = "receive hidden states from stage 0 rank 0",
                  .waiting_for = "receive hidden states from stage 0 rank 0, step 12", .waiting_ms = 1300};
  return {first, second};
}

void ExpectAll(const std::string& text, std::initializer_list<const char*> parts) {
  for (const char* part : parts) EXPECT_TRUE(absl::StrContains(text, part)) << part << " is not in: " << text;
}

TEST(Diagnosis, AStoppedProcessIsWedged) {
  std::vector<RankView> ranks = TwoStages();
  ranks[0].silent_ms = 1500;
  const Diagnosis found = DiagnoseSilence(ranks, 0, ProbeResult::kAnswered);
  EXPECT_EQ(found.kind, FaultKind::kWedge);
  ExpectAll(found.text, {"stage 0 rank 0 (w0)", "wedged", "1500 ms", "'run the layers', step 12", "stage 1 rank 0 (w1) waits 1300 ms"});
}

TEST(Diagnosis, ARefusedConnectIsDeathAndNoAnswerAPartition) {
  EXPECT_EQ(DiagnoseSilence(TwoStages(), 1, ProbeResult::kRefused).kind, FaultKind::kDeath);
  EXPECT_EQ(DiagnoseSilence(TwoStages(), 1, ProbeResult::kUnreachable).kind, FaultKind::kPartition);
}

TEST(Diagnosis, WhoComputesWhileOthersWaitIsSlow) {
  const Diagnosis found = DiagnoseStall(TwoStages(), 12);
  EXPECT_EQ(found.kind, FaultKind::kSlowness);
  EXPECT_EQ(found.culprit, 0);
  ExpectAll(found.text, {"stage 0 rank 0 (w0)", "'run the layers', step 12", "(w1) waits"});
}

TEST(Diagnosis, WhoWaitsForAFinishedPeerIsCutOffFromIt) {
  std::vector<RankView> ranks = TwoStages();
  ranks[0].last_step = 12;
  ranks[0].step = 13;
  ranks[0].operation = "receive sampled tokens of step 12";
  ranks[0].waiting_for = "receive sampled tokens of step 12";
  const Diagnosis found = DiagnoseStall(ranks, 12);
  EXPECT_EQ(found.kind, FaultKind::kPartition);
  EXPECT_EQ(found.culprit, 1);
  ExpectAll(found.text, {"stage 0 rank 0 (w0)", "finished step 12", "stage 1 rank 0 (w1)", "1300 ms"});
}

}  // namespace
}  // namespace pagoda::coordinator
