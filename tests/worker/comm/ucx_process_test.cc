// Real processes over UCX: what they exchange, and what happens when one of them dies, stops or
// lives in another epoch.
#include <signal.h>

#include <filesystem>
#include <fstream>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/worker/comm/peer_process.h"

namespace pagoda::worker {
namespace {

using testing::HasSubstr;
using testing::StartsWith;

constexpr int kGather = static_cast<int>(Channel::kGather);
constexpr int kHidden = static_cast<int>(Channel::kHidden);

std::string Send(PeerId to, int channel, uint64_t step, size_t size, int timeout_ms = 10000) {
  return absl::StrCat("send ", to.stage, " ", to.rank, " ", channel, " ", step, " ", size, " ",
                      timeout_ms);
}
std::string Receive(PeerId from, int channel, uint64_t step, size_t size, int timeout_ms = 10000) {
  return absl::StrCat("receive ", from.stage, " ", from.rank, " ", channel, " ", step, " ", size,
                      " ", timeout_ms);
}

class UcxProcessTest : public testing::TestWithParam<std::string> {
 protected:
  // `count` ranks of stage 0.
  void Start(int count) {
    for (int rank = 0; rank < count; ++rank) {
      peers_.push_back(std::make_unique<PeerProcess>(PeerId{.stage = 0, .rank = rank}, GetParam()));
      ASSERT_FALSE(peers_.back()->address().empty());
    }
  }
  PeerProcess& peer(size_t index) { return *peers_[index]; }
  std::vector<PeerProcess*> All() {
    std::vector<PeerProcess*> all;
    for (const auto& one : peers_) all.push_back(one.get());
    return all;
  }
  void Connect(uint64_t epoch, const std::vector<PeerProcess*>& who) {
    for (PeerProcess* one : who) one->TellConnect(epoch, who);
    for (PeerProcess* one : who)
      EXPECT_THAT(one->Hear(), StartsWith("ok")) << "rank " << one->id().rank;
  }
  // One message of `size` each way.
  void PingPong(PeerProcess& a, PeerProcess& b, uint64_t step, size_t size) {
    a.Tell(Send(b.id(), kHidden, step, size));
    EXPECT_THAT(b.Ask(Receive(a.id(), kHidden, step, size)), StartsWith("ok")) << size;
    EXPECT_THAT(a.Hear(), StartsWith("ok"));
    b.Tell(Send(a.id(), kHidden, step, size));
    EXPECT_THAT(a.Ask(Receive(b.id(), kHidden, step, size)), StartsWith("ok")) << size;
    EXPECT_THAT(b.Hear(), StartsWith("ok"));
  }
  // What an idle rank uses of the CPU; -1 after a failure.
  static int64_t IdleCpuMicroseconds(PeerProcess& one, int milliseconds) {
    const std::string answer = one.Ask(absl::StrCat("idle ", milliseconds));
    int64_t used_us = -1;
    EXPECT_TRUE(absl::StartsWith(answer, "ok ") && absl::SimpleAtoi(answer.substr(3), &used_us))
        << answer;
    return used_us;
  }

  std::vector<std::unique_ptr<PeerProcess>> peers_;
};

TEST_P(UcxProcessTest, AllPairsOddSizes) {
  Start(3);
  Connect(1, All());
  uint64_t step = 1;
  for (const size_t size :
       {0, 1, 7, 63, 2304, 8191, 8192, 8193, 18432, 65535, 65536, 65537, 131073, 589824, 1048576}) {
    PingPong(peer(0), peer(1), step++, size);
    PingPong(peer(1), peer(2), step++, size);
    PingPong(peer(2), peer(0), step++, size);
  }
}

TEST_P(UcxProcessTest, ADifferentSizeIsRefused) {
  Start(2);
  Connect(1, All());
  peer(0).Ask(Send(peer(1).id(), kHidden, 4, 100000));
  EXPECT_EQ(peer(1).Ask(Receive(peer(0).id(), kHidden, 4, 1000)),
            "INVALID_ARGUMENT receive from stage 0 rank 0 hidden, step 4: 100000 bytes came where "
            "1000 were expected");
  // The link goes on.
  PingPong(peer(0), peer(1), 5, 5000);
}

// What proves that a packet is of the epoch: its token in the clear, or a seal.
class UcxSecretTest : public UcxProcessTest {
 protected:
  void TheStrangerIsNotHeard(const std::string& kind);
};

void UcxSecretTest::TheStrangerIsNotHeard(const std::string& kind) {
  Start(3);
  for (PeerProcess* one : {&peer(0), &peer(1)}) EXPECT_THAT(one->Ask(kind + " A"), StartsWith("ok"));
  Connect(1, {&peer(0), &peer(1)});
  PingPong(peer(0), peer(1), 1, 5000);
  // The third says that it is rank 1 of the same epoch, to the same address; it only lacks the secret.
  const std::string as_rank_1 = absl::StrCat("connect 1 0 1 700 0 0 ", peer(0).address(), " 0 1 ", peer(1).address());
  EXPECT_THAT(peer(2).Ask(kind + " B"), StartsWith("ok"));
  EXPECT_THAT(peer(2).Ask(as_rank_1), StartsWith("DEADLINE_EXCEEDED"));
  PingPong(peer(0), peer(1), 2, 200000);
  PingPong(peer(1), peer(0), 3, 5000);
  // Its hello of an epoch to come, before the others know of it, is not what they answer either.
  const std::string ahead = absl::StrCat("connect 2 0 1 300 0 0 ", peer(0).address());
  EXPECT_THAT(peer(2).Ask(ahead), StartsWith("DEADLINE_EXCEEDED"));
  for (PeerProcess* one : {&peer(0), &peer(1)}) EXPECT_THAT(one->Ask(kind + " C"), StartsWith("ok"));
  Connect(2, {&peer(0), &peer(1)});
  PingPong(peer(0), peer(1), 1, 5000);
  // With the secret it would have been heard: that is all it lacked.
  EXPECT_THAT(peer(2).Ask(kind + " D"), StartsWith("ok"));
  for (PeerProcess* one : {&peer(0)}) EXPECT_THAT(one->Ask(kind + " D"), StartsWith("ok"));
  Connect(3, {&peer(0), &peer(2)});
}

TEST_P(UcxSecretTest, WhoDoesNotKnowTheTokenIsNotHeard) { TheStrangerIsNotHeard("token"); }
TEST_P(UcxSecretTest, WhoDoesNotKnowTheKeyIsNotHeard) { TheStrangerIsNotHeard("key"); }

TEST_P(UcxSecretTest, SealedPacketsOfAllSizesAndEpochs) {
  Start(3);
  uint64_t step = 1;
  for (uint64_t epoch = 1; epoch <= 3; ++epoch) {
    for (PeerProcess* one : All()) EXPECT_THAT(one->Ask("key E"), StartsWith("ok"));
    Connect(epoch, All());
    for (const size_t size : {0, 1, 2304, 65535, 65536, 65537, 589824}) {
      PingPong(peer(0), peer(1), step++, size);
      PingPong(peer(2), peer(0), step++, size);
    }
  }
}

TEST_P(UcxSecretTest, ASealedAndAnOpenRankDoNotMeet) {
  Start(2);
  EXPECT_THAT(peer(0).Ask("key A"), StartsWith("ok"));
  EXPECT_THAT(peer(1).Ask("token A"), StartsWith("ok"));
  for (PeerProcess* one : All()) one->TellConnect(1, All(), 500);
  for (PeerProcess* one : All()) EXPECT_THAT(one->Hear(), StartsWith("DEADLINE_EXCEEDED"));
}

TEST_P(UcxProcessTest, AKilledPeerIsNamedAndTheRestGoesOn) {
  Start(3);
  Connect(1, All());
  PingPong(peer(0), peer(2), 1, 5000);
  PingPong(peer(1), peer(2), 1, 5000);
  peer(0).Tell(Receive(peer(2).id(), kGather, 9, 100));
  const absl::Time killed = absl::Now();
  peer(2).Signal(SIGKILL);
  const std::string answer = peer(0).Hear();
  EXPECT_THAT(answer, StartsWith("UNAVAILABLE"));
  EXPECT_THAT(answer, HasSubstr("stage 0 rank 2"));
  EXPECT_LT(absl::Now() - killed, absl::Seconds(3));
  EXPECT_THAT(peer(0).Ask(Send(peer(2).id(), kGather, 9, 100)), StartsWith("UNAVAILABLE"));
  // Links to others live, and so does the next epoch without the dead one.
  PingPong(peer(0), peer(1), 2, 5000);
  Connect(2, {&peer(0), &peer(1)});
  PingPong(peer(0), peer(1), 1, 200000);
}

TEST_P(UcxProcessTest, AKilledPeerIsNoticedInTheMiddleOfALargeSend) {
  Start(2);
  Connect(1, All());
  // More than any queue takes, and nobody receives.
  peer(1).Signal(SIGSTOP);
  peer(0).Tell(Send(peer(1).id(), kHidden, 3, 64 << 20, 30000));
  EXPECT_EQ(peer(0).Hear(absl::Milliseconds(300)), "");
  peer(1).Signal(SIGKILL);
  EXPECT_THAT(peer(0).Hear(absl::Seconds(5)), StartsWith("UNAVAILABLE"));
  EXPECT_THAT(peer(0).Ask("abort"), StartsWith("ok"));
}

TEST_P(UcxProcessTest, AStoppedPeerIsADeadlineThenTheSurvivorsGoOn) {
  Start(3);
  Connect(1, All());
  PingPong(peer(0), peer(2), 1, 5000);
  peer(2).Signal(SIGSTOP);
  EXPECT_THAT(peer(0).Ask(Receive(peer(2).id(), kGather, 17, 100, 200)),
              AllOf(StartsWith("DEADLINE_EXCEEDED"),
                    HasSubstr("receive from stage 0 rank 2 gather, step 17")));
  // A send that fills every queue on the way, dropped in its middle.
  EXPECT_THAT(
      peer(0).Ask(Send(peer(2).id(), kHidden, 18, 64 << 20, 200)),
      AllOf(StartsWith("DEADLINE_EXCEEDED"), HasSubstr("send to stage 0 rank 2 hidden, step 18")));
  const absl::Time before = absl::Now();
  EXPECT_THAT(peer(0).Ask("abort"), StartsWith("ok"));
  EXPECT_LT(absl::Now() - before, absl::Seconds(2));
  Connect(2, {&peer(0), &peer(1)});
  PingPong(peer(0), peer(1), 1, 200000);
  // It comes back with old messages, and harms nobody.
  peer(2).Signal(SIGCONT);
  EXPECT_THAT(peer(0).Ask("idle 50"), StartsWith("ok"));
  PingPong(peer(0), peer(1), 2, 200000);
  Connect(3, All());
  PingPong(peer(2), peer(1), 1, 200000);
  PingPong(peer(0), peer(2), 1, 200000);
}

// For as long as the coordinator's lease lasts, others may try to reach it; it is found again all the same.
TEST_P(UcxProcessTest, AStoppedPeerThatOthersTriedToReachComesBack) {
  Start(3);
  Connect(1, All());
  PingPong(peer(0), peer(2), 1, 200000);
  peer(2).Signal(SIGSTOP);
  for (size_t one : {0, 1}) peer(one).TellConnect(2, All(), 4000);
  for (size_t one : {0, 1}) EXPECT_THAT(peer(one).Hear(), StartsWith("DEADLINE_EXCEEDED"));
  peer(2).Signal(SIGCONT);
  for (uint64_t epoch = 3; epoch < 6 && !HasFailure(); ++epoch) {
    Connect(epoch, All());
    for (uint64_t step = 1; step < 4 && !HasFailure(); ++step) {
      PingPong(peer(0), peer(2), step, 600000);
      PingPong(peer(1), peer(2), step, 200000);
      PingPong(peer(0), peer(1), step, 200000);
    }
  }
}

// UCX then either cannot be armed (a packet waits for room in the peer's shared memory) or keeps
// its event descriptor readable (a TCP connection not answered).
TEST_P(UcxProcessTest, AStoppedPeerTakesNoCpuOfOthers) {
  Start(3);
  Connect(1, All());
  peer(2).Signal(SIGSTOP);
  EXPECT_THAT(peer(0).Ask(Send(peer(2).id(), kHidden, 3, 64 << 20, 100)),
              StartsWith("DEADLINE_EXCEEDED"));
  EXPECT_LT(IdleCpuMicroseconds(peer(0), 500), 100000) << "with a send begun";
  // Long enough for it to try a new endpoint.
  peer(1).TellConnect(2, {&peer(1), &peer(2)}, 6300);
  EXPECT_THAT(peer(1).Hear(), StartsWith("DEADLINE_EXCEEDED"));
  EXPECT_LT(IdleCpuMicroseconds(peer(1), 500), 100000) << "after trying to connect";
  // Who naps still hears the others.
  Connect(3, {&peer(0), &peer(1)});
  PingPong(peer(0), peer(1), 1, 200000);
}

TEST_P(UcxProcessTest, MessagesOfAnOldEpochAreDropped) {
  Start(2);
  Connect(1, All());
  for (uint64_t step = 1; step <= 3; ++step) {
    EXPECT_THAT(peer(0).Ask(Send(peer(1).id(), kHidden, step, 3000)), StartsWith("ok"));
  }
  Connect(2, All());
  EXPECT_THAT(peer(1).Ask(Receive(peer(0).id(), kHidden, 2, 3000, 100)),
              StartsWith("DEADLINE_EXCEEDED"));
  PingPong(peer(0), peer(1), 3, 3000);
}

TEST_P(UcxProcessTest, ManyEpochsInARow) {
  Start(3);
  for (uint64_t epoch = 1; epoch <= 25; ++epoch) {
    Connect(epoch, All());
    PingPong(peer(0), peer(1), epoch, 3000);
    PingPong(peer(1), peer(2), epoch, 100000);
    if (HasFailure()) FAIL() << "epoch " << epoch;
    // Some abort before the others know of a new epoch, and one twice.
    if (epoch % 3 == 0) {
      EXPECT_THAT(peer(epoch % 2).Ask("abort"), StartsWith("ok"));
    }
    if (epoch % 6 == 0) {
      EXPECT_THAT(peer(2).Ask("connect 1000 0 2 20 0 0 " + peer(0).address()),
                  StartsWith("DEADLINE_EXCEEDED"));
    }
  }
}

TEST_P(UcxProcessTest, ConnectNamesWhoDidNotComeAndWhoIsElsewhere) {
  Start(3);
  Connect(4, {&peer(0), &peer(2)});
  peer(0).TellConnect(7, All(), 300);
  const std::string answer = peer(0).Hear();
  EXPECT_THAT(answer, StartsWith("DEADLINE_EXCEEDED"));
  EXPECT_THAT(answer, HasSubstr("stage 0 rank 1"));
  EXPECT_THAT(answer, HasSubstr("stage 0 rank 2 (its last hello was of epoch 4"));
}

TEST_P(UcxProcessTest, ADeadAddressIsNoCrash) {
  Start(2);
  peer(1).Signal(SIGKILL);
  peer(0).TellConnect(1, All(), 500);
  EXPECT_THAT(peer(0).Hear(),
              AllOf(testing::AnyOf(StartsWith("DEADLINE_EXCEEDED"), StartsWith("UNAVAILABLE")),
                    HasSubstr("stage 0 rank 1")));
  EXPECT_THAT(peer(0).Ask("idle 20"), StartsWith("ok"));
}

TEST_P(UcxProcessTest, AnAddressOfGarbageIsNoCrash) {
  Start(1);
  for (const std::string address :
       {"00", "ffffffffffffffffffffffff", "0123456789abcdef0123456789abcdef"}) {
    EXPECT_THAT(peer(0).Ask("connect 1 0 0 200 0 1 " + address), Not(StartsWith("ok"))) << address;
  }
}

TEST_P(UcxProcessTest, AnIdleRankTakesNoCpu) {
  Start(2);
  Connect(1, All());
  PingPong(peer(0), peer(1), 1, 3000);
  peer(0).Tell("idle 1000");
  peer(1).Tell("idle 1000");
  for (PeerProcess* one : All()) {
    const std::string answer = one->Hear();
    int64_t used_us = -1;
    ASSERT_TRUE(absl::StartsWith(answer, "ok ") && absl::SimpleAtoi(answer.substr(3), &used_us))
        << answer;
    EXPECT_LT(used_us, 10000) << "of a second";
  }
}

std::string NameOf(const testing::TestParamInfo<std::string>& info) {
  return info.param == "auto" ? "auto" : info.param.substr(0, info.param.find(','));
}
INSTANTIATE_TEST_SUITE_P(, UcxProcessTest, testing::Values("posix,sysv,self", "tcp,self", "auto"), NameOf);
INSTANTIATE_TEST_SUITE_P(, UcxSecretTest, testing::Values("posix,sysv,self", "tcp,self"), NameOf);

}  // namespace
}  // namespace pagoda::worker
