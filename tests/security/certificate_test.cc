#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>

#include "security/certificate_files.h"
#include "security/cluster_tls.h"

namespace pagoda::security {
namespace {

class CertificateTest : public ::testing::Test {
 protected:
  CertificateTest() : folder_(testing::TempDir() + "certificate_test_" + std::to_string(getpid())) {
    std::filesystem::create_directories(folder_);
    authority_ = *MakeAuthority("test", 10);
  }
  ~CertificateTest() override { std::filesystem::remove_all(folder_); }

  void Write(const Issued& issued, const Issued& authority) {
    ASSERT_TRUE(WriteTextFile(folder_ + "/tls.crt", issued.certificate, false).ok());
    ASSERT_TRUE(WriteTextFile(folder_ + "/tls.key", issued.key, true).ok());
    ASSERT_TRUE(WriteTextFile(folder_ + "/ca.crt", authority.certificate, false).ok());
  }
  absl::StatusOr<Issued> Issue(const std::string& uri, int days = 1) {
    CertificateRequest request;
    request.common_name = "x";
    request.uri = uri;
    request.days = days;
    return IssueCertificate(authority_, request);
  }
  std::string Complaint(Role role) { return std::string(CheckClusterFolder(folder_, role).message()); }

  const std::string folder_;
  Issued authority_;
};

TEST_F(CertificateTest, AFolderOfTheRightRoleIsGood) {
  Write(*Issue(UriOf(Role::kWorker)), authority_);
  EXPECT_TRUE(CheckClusterFolder(folder_, Role::kWorker).ok()) << CheckClusterFolder(folder_, Role::kWorker);
  EXPECT_TRUE(CheckServerFiles(folder_ + "/tls.crt", folder_ + "/tls.key").ok());
  struct stat key = {};
  ASSERT_EQ(stat((folder_ + "/tls.key").c_str(), &key), 0);
  EXPECT_EQ(key.st_mode & 0777, 0600u) << "keys are for their owner";
}

TEST_F(CertificateTest, AnythingElseIsRefusedByName) {
  EXPECT_NE(Complaint(Role::kWorker).find("tls.crt"), std::string::npos);
  Write(*Issue(UriOf(Role::kWorker)), authority_);
  EXPECT_NE(Complaint(Role::kRouter).find("is of spiffe://pagoda/worker"), std::string::npos) << Complaint(Role::kRouter);
  Write(*Issue(""), authority_);
  EXPECT_NE(Complaint(Role::kRouter).find("names 0 URIs"), std::string::npos);
  Write(*Issue(UriOf(Role::kWorker)), *MakeAuthority("another", 10));
  EXPECT_NE(Complaint(Role::kWorker).find("is not of the authority"), std::string::npos) << Complaint(Role::kWorker);
  Write({Issue(UriOf(Role::kWorker))->certificate, Issue(UriOf(Role::kWorker))->key}, authority_);
  EXPECT_NE(Complaint(Role::kWorker).find("is not the key of"), std::string::npos) << Complaint(Role::kWorker);
  Write(*Issue(UriOf(Role::kWorker), -1), authority_);
  EXPECT_NE(Complaint(Role::kWorker).find("ended on"), std::string::npos) << Complaint(Role::kWorker);
  ASSERT_TRUE(WriteTextFile(folder_ + "/tls.crt", "nothing", false).ok());
  EXPECT_NE(Complaint(Role::kWorker).find("no PEM certificate"), std::string::npos);
}

TEST_F(CertificateTest, AHostCannotSmuggleARoleIn) {
  for (const char* host : {"a,URI:spiffe://pagoda/admin", "a\nURI:x", "", "a b", "@section"}) {
    CertificateRequest request;
    request.common_name = "x";
    request.hosts = {host};
    EXPECT_FALSE(IssueCertificate(authority_, request).ok()) << host;
  }
}

TEST(MayCallTest, TheLongestRuleCountsAndTheRestIsRefused) {
  const std::vector<MethodRule> rules = {{"/a.B/", {Role::kAdmin}}, {"/a.B/Read", {Role::kAdmin, Role::kRouter}}};
  const auto may = [&](Role role, const char* method) { return MayCall(rules, {UriOf(role)}, method); };
  EXPECT_TRUE(may(Role::kAdmin, "/a.B/Write"));
  EXPECT_FALSE(may(Role::kRouter, "/a.B/Write"));
  EXPECT_TRUE(may(Role::kRouter, "/a.B/Read"));
  EXPECT_FALSE(may(Role::kWorker, "/a.B/Read"));
  EXPECT_FALSE(may(Role::kAdmin, "/a.C/Read"));
  EXPECT_FALSE(MayCall(rules, {}, "/a.B/Read"));
  EXPECT_FALSE(MayCall(rules, {"spiffe://pagoda/admin", "spiffe://pagoda/admin"}, "/a.B/Read")) << "one URI, no choice";
  EXPECT_FALSE(MayCall(rules, {"spiffe://pagoda/adminx"}, "/a.B/Read"));
  EXPECT_FALSE(MayCall(rules, {"spiffe://other/admin"}, "/a.B/Read"));
}

}  // namespace
}  // namespace pagoda::security
