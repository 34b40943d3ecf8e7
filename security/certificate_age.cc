#include "security/certificate_age.h"

#include "common/log.h"
#include "security/certificate_files.h"

namespace pagoda::security {
namespace {

constexpr int64_t kDay = 86'400;
constexpr int64_t kSoon = 14 * kDay;

}  // namespace

CertificateAge::CertificateAge(prometheus::Registry& registry, const std::vector<File>& files) {
  auto& family = prometheus::BuildGauge()
                     .Name("pagoda_certificate_expiry_timestamp_seconds")
                     .Help("Unix time at which this process's certificate ends; 0: it has none for that use.")
                     .Register(registry);
  for (const File& file : files) watched_.push_back({file, &family.Add({{"use", file.use}}), 0});
}

void CertificateAge::Refresh(int64_t now_unix_s) {
  MutexLock lock(&mutex_);
  for (Watched& watched : watched_) {
    if (watched.file.path.empty()) continue;
    const absl::StatusOr<int64_t> end = EndOfCertificate(watched.file.path);
    if (end.ok()) watched.end->Set(static_cast<double>(*end));
    const bool soon = end.ok() && *end - now_unix_s < kSoon;
    if (!soon || now_unix_s - watched.warned_unix_s < kDay) continue;
    watched.warned_unix_s = now_unix_s;
    LogWarning("certificate_ends_soon", {{"file", watched.file.path}, {"days_left", (*end - now_unix_s) / kDay}});
  }
}

}  // namespace pagoda::security
