// The end of a certificate as a metric and a warning.
#include "security/certificate_age.h"

#include <gtest/gtest.h>

#include <ctime>
#include <filesystem>

#include "common/log.h"
#include "common/metrics.h"
#include "security/certificate_files.h"

namespace pagoda::security {
namespace {

TEST(CertificateAgeTest, TellsTheEndAndWarnsOnceADayInTheLastTwoWeeks) {
  const auto authority = MakeAuthority("test", 365);
  ASSERT_TRUE(authority.ok());
  const std::string path = (std::filesystem::temp_directory_path() / "pagoda_certificate_age.crt").string();
  const auto write = [&](int days) {
    const auto issued = IssueCertificate(*authority, {.common_name = "x", .hosts = {}, .uri = "", .days = days});
    ASSERT_TRUE(issued.ok()) << issued.status();
    ASSERT_TRUE(WriteTextFile(path, issued->certificate, false).ok());
  };
  constexpr int64_t kDay = 86'400;
  write(60);
  InitLog("test", LogLevel::kInfo, true);
  prometheus::Registry registry;
  CertificateAge age(registry, {{"cluster", path}, {"clients", ""}});
  const int64_t now = std::time(nullptr);
  const auto logged = [&](int64_t at) {
    testing::internal::CaptureStderr();
    age.Refresh(at);
    return testing::internal::GetCapturedStderr().find("certificate_ends_soon") != std::string::npos;
  };
  EXPECT_FALSE(logged(now + 45 * kDay)) << "more than two weeks are left";
  EXPECT_TRUE(logged(now + 50 * kDay));
  EXPECT_FALSE(logged(now + 50 * kDay + 3600)) << "said already";
  EXPECT_TRUE(logged(now + 51 * kDay));
  const auto life = ValidityOfCertificate(path);
  ASSERT_TRUE(life.ok());
  EXPECT_NEAR(static_cast<double>(life->end_unix_s - now), 60.0 * kDay, kDay);
  EXPECT_LE(life->begin_unix_s, now);
  const auto value = [&](const std::string& use, const std::string& which = "expiry") {
    const std::string text = ExposeMetrics(registry), name = "pagoda_certificate_" + which + "_timestamp_seconds{use=\"" + use + "\"} ";
    const size_t at = text.find(name);
    return at == std::string::npos ? -1.0 : std::stod(text.substr(at + name.size()));
  };
  EXPECT_NEAR(value("cluster"), static_cast<double>(life->end_unix_s), 2000) << "as far as six digits tell";
  EXPECT_NEAR(value("cluster", "not_before"), static_cast<double>(life->begin_unix_s), 2000);
  EXPECT_EQ(value("clients"), 0);
  write(200);
  EXPECT_FALSE(logged(now + 53 * kDay)) << "renewed";
  EXPECT_GT(value("cluster"), static_cast<double>(now + 100 * kDay));
  write(4);
  EXPECT_FALSE(logged(now + 2 * kDay)) << "a short life: its last quarter counts";
  EXPECT_TRUE(logged(now + 84 * 3600 + 55 * kDay)) << "over by now";
}

}  // namespace
}  // namespace pagoda::security
