// A worker that was told to stop is kept until the KV of what runs there is elsewhere, and no longer.
#include "tests/coordinator/server_rig.h"

namespace pagoda::coordinator {
namespace {

using pagoda::testing::FakeWorker;
using pagoda::testing::FakeWorkerOptions;
using pagoda::testing::kTinyVocabulary;
using testing::AttachClient;
using testing::Prompt;
using testing::ServerTest;

// Two pipelines; the worker of one says that it leaves under a stream. Returns how long it was kept.
class LeavingTest : public ServerTest {
 protected:
  absl::Duration Leave(const std::string& kv_error) {
    const auto worker = [&](const std::string& name) {
      return std::make_unique<FakeWorker>(FakeWorkerOptions{.coordinator = server_->address(),
                                                            .name = name,
                                                            .vocabulary = kTinyVocabulary,
                                                            .step_delay_ms = 10,
                                                            .moves_kv = true,
                                                            .kv_error = kv_error});
    };
    first_ = worker("w1");
    EXPECT_TRUE(Apply(1, 1, 2).ok());
    for (int i = 0; i < 200 && !first_->linked(); ++i) absl::SleepFor(absl::Milliseconds(20));
    second_ = worker("w2");
    client_ = std::make_unique<AttachClient>(server_->address());
    EXPECT_NE(client_->WaitForPipeline(), 0u);
    for (int i = 0; i < 200 && !second_->linked(); ++i) absl::SleepFor(absl::Milliseconds(20));
    for (int i = 0; i < 200 && (client_->snapshot().pipelines_size() < 2 || !client_->snapshot().pipelines(1).ready()); ++i) {
      absl::SleepFor(absl::Milliseconds(20));
    }
    from_ = client_->snapshot().pipelines(0).pipeline();
    client_->Send(AttachClient::MakeSubmit(1, from_, Prompt(100, 1), 1000, 1));
    EXPECT_TRUE(client_->WaitFor([&] { return client_->streams_locked()[{1, 0}].tokens.size() > 3; }));
    const absl::Time before = absl::Now();
    first_->Leave();
    absl::SleepFor(absl::Milliseconds(20));
    while_leaving_();
    while (!first_->let_go() && absl::Now() - before < absl::Seconds(10)) absl::SleepFor(absl::Milliseconds(10));
    return absl::Now() - before;
  }
  bool Counted(const std::string& result) {
    return ExposeMetrics(*registry_).find(absl::StrCat("pagoda_kv_moves_total{model_name=\"tiny\",pipeline=\"", from_, "\",result=\"",
                                                       result, "\"} 1")) != std::string::npos;
  }

  std::unique_ptr<FakeWorker> first_, second_;
  std::unique_ptr<AttachClient> client_;
  uint64_t from_ = 0;
  std::function<void()> while_leaving_ = [] {};
};

TEST_F(LeavingTest, AWorkerIsKeptNoLongerThanTheBoundWhenNobodyFillsAndTheStreamRunsOnMeanwhile) {
  while_leaving_ = [&] {
    size_t tokens = 0;
    EXPECT_TRUE(client_->WaitFor([&] {
      tokens = client_->streams_locked()[{1, 0}].tokens.size();
      return true;
    }));
    EXPECT_TRUE(client_->WaitFor([&] { return client_->streams_locked()[{1, 0}].tokens.size() > tokens + 20; }));
    const auto snapshot = client_->snapshot();
    EXPECT_FALSE(snapshot.pipelines(0).ready()) << "it takes no new work";
    EXPECT_FALSE(snapshot.pipelines(0).epoch_closed());
    EXPECT_EQ(second_->fills(), 1);
  };
  const absl::Duration kept = Leave("");
  EXPECT_GT(kept, absl::Milliseconds(2500));
  EXPECT_LT(kept, absl::Milliseconds(6000));
  EXPECT_TRUE(Counted("late"));
  EXPECT_EQ(second_->ended_fills(), 1) << "before its blocks are given out again";
  EXPECT_TRUE(client_->WaitFor([&] { return true; }));
  for (int i = 0; i < 100 && !client_->snapshot().pipelines(0).epoch_closed(); ++i) absl::SleepFor(absl::Milliseconds(20));
  EXPECT_TRUE(client_->snapshot().pipelines(0).epoch_closed());
  EXPECT_EQ(client_->snapshot().pipelines(0).kv_moved_to(), 0u);
}

TEST_F(LeavingTest, ARankThatCannotFillEndsTheMoveAtOnce) {
  const absl::Duration kept = Leave("no");
  EXPECT_LT(kept, absl::Milliseconds(2500));
  EXPECT_TRUE(Counted("failed"));
  EXPECT_EQ(second_->errors(), "");
  for (int i = 0; i < 100 && Cluster().pipelines(1).blocks_used() > 0; ++i) absl::SleepFor(absl::Milliseconds(20));
  EXPECT_EQ(Cluster().pipelines(1).blocks_used(), 0);
}

TEST_F(LeavingTest, APeerThatIsLostEndsTheMoveAtOnce) {
  while_leaving_ = [&] {
    for (int i = 0; i < 200 && second_->fills() == 0; ++i) absl::SleepFor(absl::Milliseconds(5));
    second_->Kill();
  };
  EXPECT_LT(Leave(""), absl::Milliseconds(2500));
  EXPECT_TRUE(Counted("failed"));
}

}  // namespace
}  // namespace pagoda::coordinator
