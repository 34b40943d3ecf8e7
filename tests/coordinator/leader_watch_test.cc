// Which leaders a standby takes for dead.
#include "coordinator/leader_watch.h"

#include <gtest/gtest.h>

namespace pagoda::coordinator {
namespace {

constexpr ProbeResult kAnswered = ProbeResult::kAnswered;
constexpr ProbeResult kRefused = ProbeResult::kRefused;
constexpr ProbeResult kUnreachable = ProbeResult::kUnreachable;

TEST(LeaderWatch, APortThatAnsweredAndRefusesTwiceIsADeadProcess) {
  LeaderWatch watch;
  EXPECT_FALSE(watch.Found("a:1", kAnswered));
  EXPECT_FALSE(watch.Found("a:1", kRefused));
  EXPECT_TRUE(watch.Found("a:1", kRefused));
  EXPECT_FALSE(watch.Found("a:1", kRefused)) << "it is said once";
}

TEST(LeaderWatch, OneRefusalOrOneThatNeverAnsweredSaysNothing) {
  LeaderWatch watch;
  for (int i = 0; i < 5; ++i) EXPECT_FALSE(watch.Found("a:1", kRefused)) << "an address that never worked from here";
  EXPECT_FALSE(watch.Found("a:1", kAnswered));
  EXPECT_FALSE(watch.Found("a:1", kRefused));
  EXPECT_FALSE(watch.Found("a:1", kAnswered));
  EXPECT_FALSE(watch.Found("a:1", kRefused));
}

TEST(LeaderWatch, SilenceIsLeftToTheLease) {
  LeaderWatch watch;
  EXPECT_FALSE(watch.Found("a:1", kAnswered));
  for (int i = 0; i < 5; ++i) EXPECT_FALSE(watch.Found("a:1", kUnreachable));
  EXPECT_FALSE(watch.Found("a:1", kRefused)) << "a host that comes back is looked at anew";
  EXPECT_TRUE(watch.Found("a:1", kRefused));
}

TEST(LeaderWatch, AnotherLeaderIsAnotherStory) {
  LeaderWatch watch;
  EXPECT_FALSE(watch.Found("a:1", kAnswered));
  EXPECT_FALSE(watch.Found("a:1", kRefused));
  EXPECT_FALSE(watch.Found("b:1", kRefused));
  EXPECT_FALSE(watch.Found("b:1", kRefused));
  EXPECT_FALSE(watch.Found("a:1", kRefused)) << "what was known of it is forgotten";
}

}  // namespace
}  // namespace pagoda::coordinator
