// What a router did for each tenant of its key file. Labels are bounded: names come from the key file alone, never from a request,
// and tenants beyond kMaxTenantLabels are shown together as "_other". A tenant whose keys are taken away keeps its series until the
// process ends, since a counter that goes back looks like a restart. Without a key file there are no tenants and no series.
// Owner: Metrics. Thread rule: any thread.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "common/mutex.h"

namespace prometheus {
class Counter;
class Histogram;
class Registry;
template <typename T>
class Family;
}  // namespace prometheus

namespace pagoda::router {

class TenantMetrics {
 public:
  // Each has about 60 series.
  static constexpr size_t kMaxTenantLabels = 64;
  static constexpr std::string_view kOther = "_other";

  explicit TenantMetrics(prometheus::Registry& registry);

  // Their series begin with zero; those that are there already go on.
  void AddTenants(const std::vector<std::string>& tenants);

  void RequestEnded(std::string_view tenant, int code);
  enum class Quota { kRequests, kTokens };
  void QuotaRefused(std::string_view tenant, Quota quota);
  void PromptTokens(std::string_view tenant, int64_t tokens);
  void OutputTokens(std::string_view tenant, int64_t tokens);
  void FirstToken(std::string_view tenant, double seconds);
  void InterToken(std::string_view tenant, double seconds);

 private:
  struct Series {
    prometheus::Counter *ok, *refused, *client_error, *server_error;
    prometheus::Counter *request_quota, *token_quota, *prompt_tokens, *output_tokens;
    prometheus::Histogram *first_token, *inter_token;
  };
  void Add(const std::string& label) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Null: a tenant that no key file has named, as without one.
  const Series* Find(std::string_view tenant) const;

  prometheus::Family<prometheus::Counter>& requests_;
  prometheus::Family<prometheus::Counter>& refusals_;
  prometheus::Family<prometheus::Counter>& prompt_;
  prometheus::Family<prometheus::Counter>& output_;
  prometheus::Family<prometheus::Histogram>& first_token_;
  prometheus::Family<prometheus::Histogram>& inter_token_;
  mutable Mutex mutex_;
  std::map<std::string, Series, std::less<>> series_ ABSL_GUARDED_BY(mutex_);  // entries stay where they are
  bool full_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace pagoda::router
