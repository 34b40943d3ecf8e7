// Two hosts made of network, IPC and mount namespaces with a veth pair between them. Needs root.
#include <signal.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/worker/comm/peer_process.h"

namespace pagoda::worker {
namespace {

using testing::StartsWith;

// Removed at the end, whatever happens.
class Hosts {
 public:
  Hosts() : prefix_(absl::StrCat("pgd", getpid() % 10000)) {
    made_ = Run(absl::StrCat("ip netns add ", Name(0), " && ip netns add ", Name(1),
                             " && ip link add ", Link(0), " type veth peer name ", Link(1)));
    for (int host = 0; host < 2 && made_; ++host) {
      const std::string in = absl::StrCat("ip -n ", Name(host), " ");
      made_ = Run(absl::StrCat("ip link set ", Link(host), " netns ", Name(host), " && ", in,
                               "link set lo up && ", in, "addr add 10.213.77.", host + 1,
                               "/24 dev ", Link(host), " && ", in, "link set ", Link(host), " up"));
    }
  }
  ~Hosts() {
    for (int host = 0; host < 2; ++host) Run(absl::StrCat("ip netns del ", Name(host)));
    Run(absl::StrCat("ip link del ", Link(0)));
  }
  bool made() const { return made_; }
  std::string Link(int host) const { return absl::StrCat(prefix_, "v", host); }
  // UCX takes shared memory between network namespaces unless the others differ too.
  std::vector<std::string> Wrapper(int host) const {
    return {"ip",      "netns",
            "exec",    Name(host),
            "unshare", "--ipc",
            "--mount", "sh",
            "-c",      "mount -t tmpfs tmpfs /dev/shm && exec \"$0\" \"$@\""};
  }
  int64_t ReceivedBytes(int host) const {
    const std::string file = absl::StrCat("/tmp/", prefix_, "rx");
    Run(absl::StrCat("ip netns exec ", Name(host), " cat /sys/class/net/", Link(host),
                     "/statistics/rx_bytes > ", file));
    std::ifstream in(file);
    int64_t bytes = -1;
    in >> bytes;
    unlink(file.c_str());
    return bytes;
  }

 private:
  std::string Name(int host) const { return absl::StrCat(prefix_, "h", host); }
  static bool Run(const std::string& command) {
    return std::system(absl::StrCat("(", command, ") 2>/dev/null").c_str()) == 0;
  }

  const std::string prefix_;
  bool made_ = false;
};

class UcxNamespaceTest : public testing::TestWithParam<std::string> {};

TEST_P(UcxNamespaceTest, BytesGoOverTheWire) {
  if (geteuid() != 0) GTEST_SKIP() << "needs root for network namespaces";
  const Hosts hosts;
  if (!hosts.made()) GTEST_SKIP() << "this machine makes no network namespaces with veth";
  PeerProcess a({.stage = 0, .rank = 0}, GetParam(), hosts.Wrapper(0));
  PeerProcess b({.stage = 1, .rank = 0}, GetParam(), hosts.Wrapper(1));
  ASSERT_FALSE(a.address().empty());
  ASSERT_FALSE(b.address().empty());
  a.TellConnect(1, {&a, &b});
  b.TellConnect(1, {&a, &b});
  ASSERT_THAT(a.Hear(), StartsWith("ok"));
  ASSERT_THAT(b.Hear(), StartsWith("ok"));
  const int64_t before[] = {hosts.ReceivedBytes(0), hosts.ReceivedBytes(1)};
  ASSERT_GE(before[0], 0);
  constexpr int64_t kBytes = 1 << 20;
  a.Tell(absl::StrCat("send 1 0 1 1 ", kBytes, " 10000"));
  EXPECT_THAT(b.Ask(absl::StrCat("receive 0 0 1 1 ", kBytes, " 10000")), StartsWith("ok"));
  EXPECT_THAT(a.Hear(), StartsWith("ok"));
  b.Tell(absl::StrCat("send 0 0 2 1 ", kBytes, " 10000"));
  EXPECT_THAT(a.Ask(absl::StrCat("receive 1 0 2 1 ", kBytes, " 10000")), StartsWith("ok"));
  EXPECT_THAT(b.Hear(), StartsWith("ok"));
  EXPECT_GE(hosts.ReceivedBytes(0) - before[0], kBytes);
  EXPECT_GE(hosts.ReceivedBytes(1) - before[1], kBytes);
  // A peer on another host that dies is noticed.
  a.Tell("receive 1 0 3 7 100 10000");
  b.Signal(SIGKILL);
  EXPECT_THAT(a.Hear(), StartsWith("UNAVAILABLE"));
}

INSTANTIATE_TEST_SUITE_P(, UcxNamespaceTest, testing::Values("tcp,self", "auto"),
                         [](const auto& info) { return info.param == "auto" ? "auto" : "tcp"; });

}  // namespace
}  // namespace pagoda::worker
