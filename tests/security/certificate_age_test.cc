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
  write(5);
  InitLog("test", LogLevel::kInfo, true);
  prometheus::Registry registry;
  CertificateAge age(registry, {{"cluster", path}, {"clients", ""}});
  const int64_t now = std::time(nullptr);
  const auto logged = [&](int64_t at) {
    testing::internal::CaptureStderr();
    age.Refresh(at);
    return testing::internal::GetCapturedStderr().find("certificate_ends_soon") != std::string::npos;
  };
  EXPECT_TRUE(logged(now));
  EXPECT_FALSE(logged(now + 3600)) << "said already";
  EXPECT_TRUE(logged(now + 86'400));
  const auto end = EndOfCertificate(path);
  ASSERT_TRUE(end.ok());
  EXPECT_NEAR(static_cast<double>(*end - now), 5 * 86'400.0, 86'400.0);
  const auto value = [&](const std::string& use) {
    const std::string text = ExposeMetrics(registry), name = "pagoda_certificate_expiry_timestamp_seconds{use=\"" + use + "\"} ";
    const size_t at = text.find(name);
    return at == std::string::npos ? -1.0 : std::stod(text.substr(at + name.size()));
  };
  EXPECT_NEAR(value("cluster"), static_cast<double>(*end), 2000) << "as far as six digits tell";
  EXPECT_EQ(value("clients"), 0);
  write(200);
  EXPECT_FALSE(logged(now + 3 * 86'400)) << "renewed";
  EXPECT_GT(value("cluster"), static_cast<double>(now + 100 * 86'400));
}

}  // namespace
}  // namespace pagoda::security
