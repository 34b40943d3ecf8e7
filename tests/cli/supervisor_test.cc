#include "cli/supervisor.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <set>

#include "common/clock.h"

namespace pagoda::cli {
namespace {

class SupervisorTest : public ::testing::Test {
 protected:
  SupervisorTest() : folder_(testing::TempDir() + "supervisor_test_" + std::to_string(getpid())) {
    std::filesystem::create_directories(folder_);
    auto created = Supervisor::Create(folder_ + "/run");
    EXPECT_TRUE(created.ok()) << created.status();
    supervisor_ = std::move(created).value();
  }
  ~SupervisorTest() override {
    supervisor_.reset();
    std::filesystem::remove_all(folder_);
  }

  // $READY in the script is the ready file.
  absl::Status Start(const std::string& name, std::string script) {
    ChildSpec spec{.name = name,
                   .command = {.arguments = {}, .log_path = folder_ + "/" + name + ".log"},
                   .ready_file = folder_ + "/run/" + name};
    for (size_t at; (at = script.find("$READY")) != std::string::npos;) script.replace(at, 6, spec.ready_file);
    spec.command.arguments = {"/bin/sh", "-c", script};
    return supervisor_->Start(spec);
  }
  bool Ready(const std::string& name) { return supervisor_->ReadyText(name).has_value(); }

  const std::string folder_;
  std::unique_ptr<Supervisor> supervisor_;
};

TEST_F(SupervisorTest, WaitsForTheReadyFileAndStops) {
  ASSERT_TRUE(Start("a", "echo here > $READY; exec sleep 60").ok());
  ASSERT_TRUE(supervisor_->WaitUntil([&] { return Ready("a"); }).ok());
  EXPECT_EQ(*supervisor_->ReadyText("a"), "here\n");
  EXPECT_TRUE(supervisor_->Stop({"a"}, 10'000));
}

TEST_F(SupervisorTest, AReadyFileWithoutItsLastNewlineIsNotReady) {
  ASSERT_TRUE(Start("a", "printf part > $READY; echo > " + folder_ + "/run/other; exec sleep 60").ok());
  ASSERT_TRUE(supervisor_->WaitUntil([&] { return std::filesystem::exists(folder_ + "/run/other"); }).ok());
  EXPECT_FALSE(Ready("a"));
}

TEST_F(SupervisorTest, AChildThatDiesWhileStartingIsReportedWithItsLog) {
  ASSERT_TRUE(Start("a", "echo the reason; exit 3").ok());
  const absl::Status status = supervisor_->WaitUntil([] { return false; });
  EXPECT_TRUE(absl::IsUnavailable(status));
  const std::string message(status.message());
  EXPECT_NE(message.find("a exited with status 3"), std::string::npos) << message;
  EXPECT_NE(message.find("the reason"), std::string::npos) << message;
}

TEST_F(SupervisorTest, ABinaryThatIsNotThereIsAnError) {
  ChildSpec spec{.name = "a", .command = {.arguments = {"/nonexistent/binary"}, .log_path = folder_ + "/a.log"}, .ready_file = folder_ + "/run/a"};
  const absl::Status status = supervisor_->Start(spec);
  EXPECT_NE(status.message().find("/nonexistent/binary: No such file"), absl::string_view::npos) << status;
}

TEST_F(SupervisorTest, WhatDiesIsStartedAgainUntilASignalComes) {
  // The first two lives end by themselves, the third asks the test to stop.
  const std::string script = "echo x >> " + folder_ + "/lives; test $(wc -l < " + folder_ +
                             "/lives) -ge 3 && kill -TERM " + std::to_string(getpid()) + " && exec sleep 60; exit 1";
  ASSERT_TRUE(Start("a", script).ok());
  std::vector<std::string> said;
  supervisor_->SuperviseUntilStopped([&](const std::string& line) { said.push_back(line); });
  EXPECT_EQ(supervisor_->signals(), 1);
  EXPECT_EQ(said.size(), 2u);
  EXPECT_NE(said[0].find("restarting a in 500 ms"), std::string::npos) << said[0];
  EXPECT_NE(said[1].find("restarting a in 1000 ms"), std::string::npos) << said[1];
  EXPECT_TRUE(supervisor_->Stop({"a"}, 10'000));
}

// The first life is ready and then hangs, the second one asks the test to stop.
TEST_F(SupervisorTest, WhatGivesNoSignOfLifeIsKilledAndStartedAgain) {
  const std::string script = "echo x >> " + folder_ + "/lives; if test $(wc -l < " + folder_ +
                             "/lives) -ge 2; then kill -TERM " + std::to_string(getpid()) +
                             "; fi; echo > $READY; exec sleep 60";
  ASSERT_TRUE(Start("a", script).ok());
  std::vector<std::string> said;
  supervisor_->SuperviseUntilStopped([&](const std::string& line) { said.push_back(line); }, 400);
  ASSERT_GE(said.size(), 2u);
  EXPECT_THAT(said[0], testing::MatchesRegex("a gave no sign of life for 0 s: killing it"));
  EXPECT_THAT(said[1], testing::HasSubstr("a was killed by signal 9"));
  EXPECT_THAT(said[1], testing::HasSubstr("restarting a in 500 ms"));
  EXPECT_TRUE(supervisor_->Stop({"a"}, 10'000));
}

// One that touches its ready file lives on, and so does one that is not ready yet.
TEST_F(SupervisorTest, SignsOfLifeAndLongStartsAreRespected) {
  ASSERT_TRUE(Start("a", "echo > $READY; for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do sleep 0.1; touch $READY; done; "
                         "kill -TERM " + std::to_string(getpid()) + "; exec sleep 60").ok());
  ASSERT_TRUE(Start("b", "exec sleep 60").ok());
  std::vector<std::string> said;
  supervisor_->SuperviseUntilStopped([&](const std::string& line) { said.push_back(line); }, 1000);
  EXPECT_THAT(said, testing::IsEmpty());
  EXPECT_TRUE(supervisor_->Stop({"a", "b"}, 10'000));
}

TEST_F(SupervisorTest, WhatDoesNotStopIsKilled) {
  ASSERT_TRUE(Start("a", "trap '' TERM; echo > $READY; while :; do sleep 0.05; done").ok());
  ASSERT_TRUE(supervisor_->WaitUntil([&] { return Ready("a"); }).ok());
  EXPECT_FALSE(supervisor_->Stop({"a"}, 100));
}

TEST_F(SupervisorTest, WaitingTakesNoCpu) {
  ASSERT_TRUE(Start("a", "sleep 0.3; echo > $READY; exec sleep 60").ok());
  const clock_t before = clock();
  ASSERT_TRUE(supervisor_->WaitUntil([&] { return Ready("a"); }).ok());
  EXPECT_LT(static_cast<double>(clock() - before) / CLOCKS_PER_SEC, 0.05);
}

TEST(TailOfFileTest, LastLinesOnly) {
  const std::string path = testing::TempDir() + "tail_test_" + std::to_string(getpid());
  std::ofstream(path) << "one\ntwo\nthree\n";
  EXPECT_EQ(TailOfFile(path, 2), "two\nthree\n");
  EXPECT_EQ(TailOfFile(path, 10), "one\ntwo\nthree\n");
  std::ofstream(path) << std::string(100'000, 'x') << "\nlast\n";
  EXPECT_EQ(TailOfFile(path, 1), "last\n");
  EXPECT_LE(TailOfFile(path, 5).size(), 16u << 10);
  EXPECT_EQ(TailOfFile("/nonexistent", 5), "");
  std::filesystem::remove(path);
}

}  // namespace
}  // namespace pagoda::cli
