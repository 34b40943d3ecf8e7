#include "router/tenant_metrics.h"

#include <prometheus/counter.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>

#include "common/metrics.h"

namespace pagoda::router {

TenantMetrics::TenantMetrics(prometheus::Registry& registry)
    : requests_(prometheus::BuildCounter()
                    .Name("pagoda_router_tenant_requests_total")
                    .Help("Requests of a tenant that ended: ok, refused (429, 503), client_error (other 4xx), server_error (other 5xx).")
                    .Register(registry)),
      refusals_(prometheus::BuildCounter()
                    .Name("pagoda_router_tenant_quota_refusals_total")
                    .Help("Requests refused because a key of the tenant had used its quota of requests or tokens.")
                    .Register(registry)),
      prompt_(prometheus::BuildCounter()
                  .Name("pagoda_router_tenant_prompt_tokens_total")
                  .Help("Prompt tokens of a tenant accepted.")
                  .Register(registry)),
      output_(prometheus::BuildCounter()
                  .Name("pagoda_router_tenant_output_tokens_total")
                  .Help("Tokens received from pipelines for a tenant.")
                  .Register(registry)),
      first_token_(prometheus::BuildHistogram()
                       .Name("pagoda_router_tenant_time_to_first_token_seconds")
                       .Help("From the receipt of a tenant's request to its first token.")
                       .Register(registry)),
      inter_token_(prometheus::BuildHistogram()
                       .Name("pagoda_router_tenant_inter_token_latency_seconds")
                       .Help("Between news of one request of a tenant, divided by their tokens.")
                       .Register(registry)) {}

void TenantMetrics::AddTenants(const std::vector<std::string>& tenants) {
  MutexLock lock(&mutex_);
  for (const std::string& tenant : tenants) {
    if (tenant.empty() || series_.contains(tenant)) continue;
    if (full_ || series_.size() >= kMaxTenantLabels) {
      if (!full_) Add(std::string(kOther));
      full_ = true;
      continue;
    }
    Add(tenant);
  }
}

void TenantMetrics::Add(const std::string& label) {
  const auto count = [&label](auto& family, const char* name, const char* value) {
    return &family.Add({{"tenant", label}, {name, value}});
  };
  series_[label] = {.ok = count(requests_, "outcome", "ok"),
                    .refused = count(requests_, "outcome", "refused"),
                    .client_error = count(requests_, "outcome", "client_error"),
                    .server_error = count(requests_, "outcome", "server_error"),
                    .request_quota = count(refusals_, "quota", "requests"),
                    .token_quota = count(refusals_, "quota", "tokens"),
                    .prompt_tokens = &prompt_.Add({{"tenant", label}}),
                    .output_tokens = &output_.Add({{"tenant", label}}),
                    .first_token = &first_token_.Add({{"tenant", label}}, kTimeToFirstTokenBuckets),
                    .inter_token = &inter_token_.Add({{"tenant", label}}, kInterTokenBuckets)};
}

const TenantMetrics::Series* TenantMetrics::Find(std::string_view tenant) const {
  if (tenant.empty()) return nullptr;
  MutexLock lock(&mutex_);
  auto found = series_.find(tenant);
  if (found == series_.end()) found = series_.find(kOther);
  return found == series_.end() ? nullptr : &found->second;
}

void TenantMetrics::RequestEnded(std::string_view tenant, int code) {
  const Series* series = Find(tenant);
  if (series == nullptr) return;
  prometheus::Counter* outcome = code < 400                  ? series->ok
                                 : code == 429 || code == 503 ? series->refused
                                 : code < 500                 ? series->client_error
                                                              : series->server_error;
  outcome->Increment();
}

void TenantMetrics::QuotaRefused(std::string_view tenant, Quota quota) {
  if (const Series* series = Find(tenant)) (quota == Quota::kRequests ? series->request_quota : series->token_quota)->Increment();
}
void TenantMetrics::PromptTokens(std::string_view tenant, int64_t tokens) {
  if (const Series* series = Find(tenant)) series->prompt_tokens->Increment(static_cast<double>(tokens));
}
void TenantMetrics::OutputTokens(std::string_view tenant, int64_t tokens) {
  if (const Series* series = Find(tenant)) series->output_tokens->Increment(static_cast<double>(tokens));
}
void TenantMetrics::FirstToken(std::string_view tenant, double seconds) {
  if (const Series* series = Find(tenant)) series->first_token->Observe(seconds);
}
void TenantMetrics::InterToken(std::string_view tenant, double seconds) {
  if (const Series* series = Find(tenant)) series->inter_token->Observe(seconds);
}

}  // namespace pagoda::router
