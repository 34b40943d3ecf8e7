#include "security/certificate_age.h"

#include <algorithm>

#include "common/log.h"
#include "security/certificate_files.h"

namespace pagoda::security {
namespace {

constexpr int64_t kDay = 86'400;
constexpr int64_t kSoon = 14 * kDay;

}  // namespace

CertificateAge::CertificateAge(prometheus::Registry& registry, const std::vector<File>& files) {
  auto& begins = prometheus::BuildGauge()
                     .Name("pagoda_certificate_not_before_timestamp_seconds")
                     .Help("Unix time from which this process's certificate is good; 0: it has none for that use.")
                     .Register(registry);
  auto& ends = prometheus::BuildGauge()
                     .Name("pagoda_certificate_expiry_timestamp_seconds")
                     .Help("Unix time at which this process's certificate ends; 0: it has none for that use.")
                     .Register(registry);
  for (const File& file : files) {
    const prometheus::Labels labels = {{"use", file.use}};
    watched_.push_back({.file = file, .begin = &begins.Add(labels), .end = &ends.Add(labels)});
  }
}

void CertificateAge::Refresh(int64_t now_unix_s) {
  MutexLock lock(&mutex_);
  for (Watched& watched : watched_) {
    if (watched.file.path.empty()) continue;
    const absl::StatusOr<Validity> life = ValidityOfCertificate(watched.file.path);
    if (!life.ok()) continue;
    watched.begin->Set(static_cast<double>(life->begin_unix_s));
    watched.end->Set(static_cast<double>(life->end_unix_s));
    const int64_t left = life->end_unix_s - now_unix_s;
    const bool soon = left < std::min(kSoon, (life->end_unix_s - life->begin_unix_s) / 4);
    if (!soon || now_unix_s - watched.warned_unix_s < kDay) continue;
    watched.warned_unix_s = now_unix_s;
    LogWarning("certificate_ends_soon", {{"file", watched.file.path}, {"days_left", left / kDay}});
  }
}

}  // namespace pagoda::security
