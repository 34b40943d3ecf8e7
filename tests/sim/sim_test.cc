// The real cores of router, coordinator and workers as one cluster under virtual time, with faults by seed (RandomScenario) and by
// script (scenarios/). PAGODA_SIM_SEEDS in the build chooses how many; `sim_test --gtest_filter=*Seeds FIRST COUNT` runs others.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "common/log.h"
#include "tests/sim/scenario.h"

namespace pagoda::sim {
namespace {

uint64_t first_seed = 1;
uint64_t seed_count = 500;

std::string ReadFile(const std::filesystem::path& path) {
  std::ifstream file(path);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

TEST(Simulation, Scenarios) {
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator("tests/sim/scenarios")) files.push_back(entry.path());
  std::ranges::sort(files);
  ASSERT_FALSE(files.empty());
  for (const auto& file : files) {
    const auto result = RunScenario(ReadFile(file));
    ASSERT_TRUE(result.ok()) << file << ": " << result.status();
    EXPECT_EQ(result->violation, "") << file << "\n" << result->story << "\n" << result->summary;
    std::cout << file.stem().string() << ": " << result->summary << "\n";
  }
}

TEST(Simulation, Seeds) {
  int failed = 0;
  int64_t applied = 0, changed = 0, told = 0;
  for (uint64_t seed = first_seed; seed < first_seed + seed_count && failed < 3; ++seed) {
    const std::string scenario = RandomScenario(seed);
    const auto result = RunScenario(scenario);
    ASSERT_TRUE(result.ok()) << "seed " << seed << ": " << result.status();
    applied += result->counts.at("applied");
    changed += result->counts.at("numerics_changed");
    told += result->counts.at("model_changed");
    if (result->violation.empty()) continue;
    ++failed;
    ADD_FAILURE() << "seed " << seed << ": " << result->violation << "\nThe scenario:\n" << scenario << "The end of it:\n"
                  << result->story;
  }
  std::cout << applied << " specs applied; " << changed << " streams had to take another one's tokens, " << told << " were told that theirs is gone\n";
  EXPECT_LE(changed + told, applied / 20 + 3) << "streams keep to the spec that they began with, but for what is beyond the redundancy";
}

// The same seed is the same run, or a failing one could not be looked at.
TEST(Simulation, ASeedReplays) {
  for (const uint64_t seed : {3, 11, 42}) {
    const auto first = RunScenario(RandomScenario(seed));
    const auto second = RunScenario(RandomScenario(seed));
    ASSERT_TRUE(first.ok() && second.ok());
    EXPECT_EQ(first->story, second->story);
    EXPECT_EQ(first->summary, second->summary);
  }
}

// A check that cannot fail is none: each kind of bug, put in on purpose, is found and named.
TEST(Simulation, WhatIsSpoiledIsFound) {
  const std::string cluster = "cluster seed=9 stages=2 coordinators=2 requests=20 arrivals=4000 max_sequences=6 blocks=40\n";
  const std::pair<const char*, const char*> bugs[] = {
      {"at 2000 spoil kv for 0", " was due"},
      {"at 2000 spoil token for 0", " was due"},
      {"at 2000 spoil swallowed for 0", " where "},
      {"at 2000 spoil unanswered for 0", " has no answer "},
      {"at 1 spoil epoch for 0\nat 3000 kill coordinator-0 for 30000\nat 3000 kill coordinator-1 for 1000", " is given out by "},
      {"at 2000 spoil leak for 0", " blocks leaked in pipeline "},
  };
  for (const auto& [bug, named] : bugs) {
    const auto result = RunScenario(absl::StrCat(cluster, bug, "\n"));
    ASSERT_TRUE(result.ok()) << bug << ": " << result.status();
    EXPECT_NE(result->violation, "") << bug;
    EXPECT_NE(result->violation.find(named), std::string::npos) << bug << ": " << result->violation;
  }
  // Outputs have positions: what is lost of them between coordinator and router is asked for again.
  for (const char* harmless : {"", "at 2000 spoil short for 0\n", "at 2000 spoil lost for 0\n"}) {
    const auto result = RunScenario(cluster + harmless);
    ASSERT_TRUE(result.ok());
    EXPECT_EQ(result->violation, "") << harmless;
  }
}

TEST(Simulation, TextThatIsNoScenarioIsRefused) {
  EXPECT_FALSE(RunScenario("at 5 melt worker-0 for 3").ok());
  EXPECT_FALSE(RunScenario("cluster stages=many").ok());
  EXPECT_FALSE(RunScenario("at 5 kill nobody for 3").ok());
  EXPECT_FALSE(RunScenario("expect miracles >= 1").ok());
}

}  // namespace
}  // namespace pagoda::sim

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  if (argc >= 2) pagoda::sim::first_seed = std::strtoull(argv[1], nullptr, 10);
  if (argc >= 3) pagoda::sim::seed_count = std::strtoull(argv[2], nullptr, 10);
  pagoda::InitLog("sim", pagoda::LogLevel::kError, true);
  return RUN_ALL_TESTS();
}
