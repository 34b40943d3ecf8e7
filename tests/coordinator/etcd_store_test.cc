// The store on a real etcd: what it keeps, who may write, and what the loss of etcd does.
#include "coordinator/store/etcd_store.h"

#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include "absl/time/clock.h"
#include "etcd/etcd.pb.h"
#include "tests/coordinator/etcd_process.h"

namespace pagoda::coordinator {
namespace {

using testing::EtcdProcess;

Candidate Me(const std::string& name = "me") { return {.name = name, .address = "address of " + name}; }

class EtcdStoreTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!EtcdProcess::Installed()) GTEST_SKIP() << "no etcd on the PATH: apt-get install etcd-server";
  }
  std::unique_ptr<Store> Open(const std::vector<std::string>& endpoints) {
    EtcdOptions options;
    options.endpoints = endpoints;
    options.call_timeout = absl::Milliseconds(1500);
    return *OpenEtcdStore(options);
  }
  // Until etcd answers and the leadership is had.
  static void Lead(Store& store, const std::string& name = "me") {
    const absl::Time until = absl::Now() + absl::Seconds(20);
    while (true) {
      const absl::StatusOr<Leader> leader = store.Campaign(Me(name));
      if (leader.ok() && leader->self) return;
      ASSERT_LT(absl::Now(), until) << leader.status();
      absl::SleepFor(absl::Milliseconds(20));
    }
  }
};

TEST(EtcdAddress, IsReadOrRefused) {
  const auto options = ParseEtcdAddress("etcds://a:1,b:2/some/where");
  ASSERT_TRUE(options.ok()) << options.status();
  EXPECT_EQ(options->endpoints, (std::vector<std::string>{"a:1", "b:2"}));
  EXPECT_EQ(options->prefix, "/some/where/");
  EXPECT_TRUE(options->tls);
  EXPECT_EQ(ParseEtcdAddress("etcd://a:1")->prefix, "/pagoda/");
  EXPECT_FALSE(ParseEtcdAddress("etcd://").ok());
  EXPECT_FALSE(ParseEtcdAddress("etcd://a").ok());
  EXPECT_FALSE(IsEtcdAddress("/a/file"));
}

TEST_F(EtcdStoreTest, KeepsWhatWasWrittenAndFencesWhoDoesNotLead) {
  EtcdProcess etcd;
  auto one = Open({etcd.endpoint()});
  auto other = Open({etcd.endpoint()});
  Lead(*one, "one");
  const absl::StatusOr<Leader> seen = other->Campaign(Me("other"));
  ASSERT_TRUE(seen.ok()) << seen.status();
  EXPECT_FALSE(seen->self);
  EXPECT_EQ(seen->who.address, "address of one");

  DeploymentSpec spec;
  spec.name = "a/b c";
  spec.model = "/m";
  spec.replicas = 3;
  RestoredPipeline pipeline{PipelineId(12), "a/b c", {}, {"digest"}};
  pipeline.placement.ranks = {{0, 0, 1, 100, 2, 300, 40, 440}};
  pipeline.placement.stages = {{0, 5, 1, 1}};
  ASSERT_TRUE(one->PutDeployment(spec).ok());
  ASSERT_TRUE(one->PutPipeline(pipeline).ok());
  ASSERT_TRUE(one->PutPipeline({PipelineId(13), "gone", {}, {}}).ok());
  ASSERT_TRUE(one->DeletePipeline(PipelineId(13)).ok());
  ASSERT_TRUE(one->AdvanceEpoch(Epoch(9)).ok());
  ASSERT_TRUE(one->AdvanceEpoch(Epoch(10)).ok());
  EXPECT_EQ(one->AdvanceEpoch(Epoch(10)).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(one->AdvanceEpoch(Epoch(9)).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(other->AdvanceEpoch(Epoch(11)).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(other->PutDeployment(spec).code(), absl::StatusCode::kFailedPrecondition);
  const auto state = other->Load();
  ASSERT_TRUE(state.ok()) << state.status();
  EXPECT_EQ(state->deployments, std::vector<DeploymentSpec>{spec});
  ASSERT_EQ(state->pipelines.size(), 1u);
  EXPECT_EQ(state->pipelines[0].id, PipelineId(12));
  EXPECT_EQ(state->pipelines[0].placement.ranks.at(0).memory_bytes, 440);
  EXPECT_EQ(state->last_epoch, 10u);
  EXPECT_EQ(state->last_pipeline, 13u);

  // A standby is woken by the watch, not by its clock.
  ASSERT_TRUE(one->Resign().ok());
  EXPECT_TRUE(other->Campaign(Me("other"))->self);
  EXPECT_EQ(one->AdvanceEpoch(Epoch(12)).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(other->AdvanceEpoch(Epoch(12)).ok());
}

TEST_F(EtcdStoreTest, WhoDoesNotRenewIsReplacedWithinThreeSecondsAndStartsNoEpoch) {
  EtcdProcess etcd;
  auto stopped = Open({etcd.endpoint()});
  auto standby = Open({etcd.endpoint()});
  Lead(*stopped, "stopped");
  ASSERT_TRUE(stopped->AdvanceEpoch(Epoch(1)).ok());
  ASSERT_TRUE(stopped->Renew().ok());
  const absl::Time last_word = absl::Now();
  while (!standby->Campaign(Me("standby"))->self) {
    ASSERT_LT(absl::Now() - last_word, absl::Seconds(10));
    standby->WaitForChange(absl::Seconds(5));
  }
  std::printf("taken over %.2f s after the leader's last word\n", absl::ToDoubleSeconds(absl::Now() - last_word));
  EXPECT_LT(absl::Now() - last_word, absl::Seconds(3.5));
  EXPECT_EQ(stopped->AdvanceEpoch(Epoch(2)).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(stopped->Renew().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(standby->AdvanceEpoch(Epoch(2)).ok());
}

TEST_F(EtcdStoreTest, WhoIsKnownToBeGoneIsReplacedAtOnceAndStartsNoEpochIfItWasNot) {
  EtcdProcess etcd;
  auto gone = Open({etcd.endpoint()});
  auto standby = Open({etcd.endpoint()});
  Lead(*gone, "gone");
  ASSERT_TRUE(gone->AdvanceEpoch(Epoch(1)).ok());
  ASSERT_FALSE(standby->Campaign(Me("standby"))->self);
  ASSERT_TRUE(standby->Depose("some other address").ok());
  EXPECT_TRUE(gone->Renew().ok()) << "only whoever was seen at that address";
  ASSERT_TRUE(gone->Depose("address of gone").ok());
  EXPECT_TRUE(gone->AdvanceEpoch(Epoch(2)).ok()) << "nobody deposes itself";

  const absl::Time deposed = absl::Now();
  ASSERT_TRUE(standby->Depose("address of gone").ok());
  ASSERT_TRUE(standby->Campaign(Me("standby"))->self);
  EXPECT_LT(absl::Now() - deposed, absl::Seconds(1)) << "the lease need not run out";
  EXPECT_EQ(gone->AdvanceEpoch(Epoch(3)).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(gone->Renew().code(), absl::StatusCode::kFailedPrecondition) << "it lived, and learns that it does not lead any more";
  ASSERT_TRUE(standby->Depose("address of gone").ok()) << "twice is once";
  EXPECT_TRUE(standby->AdvanceEpoch(Epoch(3)).ok());
}

TEST_F(EtcdStoreTest, ALossOfEtcdCostsNoLeadership) {
  EtcdProcess etcd;
  auto store = Open({etcd.endpoint()});
  Lead(*store);
  ASSERT_TRUE(store->AdvanceEpoch(Epoch(1)).ok());
  etcd.Kill();
  EXPECT_EQ(store->Renew().code(), absl::StatusCode::kUnavailable) << "unknown is not lost";
  EXPECT_EQ(store->AdvanceEpoch(Epoch(2)).code(), absl::StatusCode::kUnavailable) << "and not had either: no epoch";
  etcd.Start();
  const absl::Time until = absl::Now() + absl::Seconds(20);
  absl::Status renewed = store->Renew();
  while (absl::IsUnavailable(renewed) && absl::Now() < until) {
    absl::SleepFor(absl::Milliseconds(50));
    renewed = store->Renew();
  }
  EXPECT_TRUE(renewed.ok()) << renewed;
  EXPECT_TRUE(store->AdvanceEpoch(Epoch(3)).ok());
  EXPECT_EQ(store->Load()->last_epoch, 3u);
}

TEST_F(EtcdStoreTest, ALeaseThatRanOutUnnoticedIsTakenAgainWhenNobodyElseLed) {
  EtcdProcess etcd;
  auto store = Open({etcd.endpoint()});
  auto watcher = Open({etcd.endpoint()});
  Lead(*store);
  ASSERT_TRUE(store->AdvanceEpoch(Epoch(1)).ok());
  EtcdOptions options;
  options.endpoints = {etcd.endpoint()};
  const std::unique_ptr<EtcdClient> client = *EtcdClient::Make(options);
  etcdserverpb::RangeRequest leader;
  leader.set_key("/pagoda/leader");
  const absl::Time until = absl::Now() + absl::Seconds(20);
  while (client->Range(leader)->kvs_size() > 0) {
    ASSERT_LT(absl::Now(), until);
    absl::SleepFor(absl::Milliseconds(50));
  }
  EXPECT_EQ(store->AdvanceEpoch(Epoch(2)).code(), absl::StatusCode::kFailedPrecondition) << "without the lease no epoch";
  EXPECT_TRUE(store->Renew().ok()) << "nobody led meanwhile";
  EXPECT_TRUE(store->AdvanceEpoch(Epoch(3)).ok());
  EXPECT_FALSE(watcher->Campaign(Me("other"))->self);
}

TEST_F(EtcdStoreTest, ADeadEndpointIsPassedOver) {
  EtcdProcess etcd;
  auto store = Open({absl::StrCat("127.0.0.1:", testing::FreePort()), etcd.endpoint()});
  Lead(*store);
  EXPECT_TRUE(store->AdvanceEpoch(Epoch(1)).ok());
  EXPECT_TRUE(store->Renew().ok());
}

// Listens, and says nothing.
class SilentEndpoint {
 public:
  SilentEndpoint() {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(port_));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(bind(fd_, reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
    EXPECT_EQ(listen(fd_, 16), 0);
  }
  ~SilentEndpoint() { close(fd_); }
  std::string endpoint() const { return absl::StrCat("127.0.0.1:", port_); }

 private:
  const int port_ = testing::FreePort();
  const int fd_ = socket(AF_INET, SOCK_STREAM, 0);
};

TEST_F(EtcdStoreTest, ASilentEndpointCostsNoLease) {
  EtcdProcess etcd;
  const SilentEndpoint silent;
  auto store = Open({silent.endpoint(), etcd.endpoint(), silent.endpoint()});
  Lead(*store);
  for (uint64_t epoch = 1; epoch <= 3; ++epoch) {
    const absl::Time begin = absl::Now();
    EXPECT_TRUE(store->Renew().ok());
    EXPECT_TRUE(store->AdvanceEpoch(Epoch(epoch)).ok());
    EXPECT_LT(absl::Now() - begin, absl::Seconds(1)) << "half of the lease";
  }
  EXPECT_TRUE(store->Load().ok());
}

TEST_F(EtcdStoreTest, SpeaksTlsWithClientCertificates) {
  EtcdProcess etcd(/*tls=*/true);
  EtcdOptions options = *ParseEtcdAddress("etcds://" + etcd.endpoint());
  options.ca_file = etcd.File("ca.crt");
  options.certificate_file = etcd.File("client.crt");
  options.key_file = etcd.File("client.key");
  auto store = *OpenEtcdStore(options);
  Lead(*store);
  EXPECT_TRUE(store->AdvanceEpoch(Epoch(1)).ok());
  options.certificate_file.clear();
  options.key_file.clear();
  options.call_timeout = absl::Milliseconds(500);
  EXPECT_FALSE((*OpenEtcdStore(options))->Campaign(Me()).ok()) << "without a certificate etcd does not let it in";
  options.ca_file = "/no/such/file";
  EXPECT_FALSE(OpenEtcdStore(options).ok());
}

}  // namespace
}  // namespace pagoda::coordinator
