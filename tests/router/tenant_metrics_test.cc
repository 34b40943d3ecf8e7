#include "router/tenant_metrics.h"

#include <gtest/gtest.h>
#include <prometheus/registry.h>

#include "absl/strings/str_cat.h"
#include "common/metrics.h"

namespace pagoda::router {
namespace {

bool Shows(const prometheus::Registry& registry, const std::string& line) {
  return ExposeMetrics(registry).find(line + "\n") != std::string::npos;
}

TEST(TenantMetricsTest, SeriesBeginWithZeroAndCount) {
  prometheus::Registry registry;
  TenantMetrics metrics(registry);
  EXPECT_EQ(ExposeMetrics(registry).find("tenant=\""), std::string::npos) << "no key file, no tenants";
  metrics.AddTenants({"acme", "acme", "wile"});
  EXPECT_TRUE(Shows(registry, R"(pagoda_router_tenant_quota_refusals_total{quota="tokens",tenant="wile"} 0)"));
  metrics.QuotaRefused("acme", TenantMetrics::Quota::kRequests);
  metrics.RequestEnded("acme", 429);
  metrics.RequestEnded("acme", 503);
  metrics.RequestEnded("acme", 200);
  metrics.RequestEnded("acme", 499);
  metrics.RequestEnded("acme", 504);
  metrics.OutputTokens("acme", 7);
  metrics.FirstToken("acme", 0.25);
  metrics.AddTenants({"wile"});  // read again, without acme
  EXPECT_TRUE(Shows(registry, R"(pagoda_router_tenant_quota_refusals_total{quota="requests",tenant="acme"} 1)"));
  EXPECT_TRUE(Shows(registry, R"(pagoda_router_tenant_requests_total{outcome="refused",tenant="acme"} 2)"));
  EXPECT_TRUE(Shows(registry, R"(pagoda_router_tenant_requests_total{outcome="ok",tenant="acme"} 1)"));
  EXPECT_TRUE(Shows(registry, R"(pagoda_router_tenant_requests_total{outcome="client_error",tenant="acme"} 1)"));
  EXPECT_TRUE(Shows(registry, R"(pagoda_router_tenant_requests_total{outcome="server_error",tenant="acme"} 1)"));
  EXPECT_TRUE(Shows(registry, R"(pagoda_router_tenant_output_tokens_total{tenant="acme"} 7)"));
  EXPECT_TRUE(Shows(registry, R"(pagoda_router_tenant_time_to_first_token_seconds_count{tenant="acme"} 1)"));
  EXPECT_TRUE(Shows(registry, R"(pagoda_router_tenant_output_tokens_total{tenant="wile"} 0)"));
}

TEST(TenantMetricsTest, LabelsAreBounded) {
  prometheus::Registry registry;
  TenantMetrics metrics(registry);
  metrics.OutputTokens("nobody", 1);  // not of the key file
  EXPECT_EQ(ExposeMetrics(registry).find("nobody"), std::string::npos);
  std::vector<std::string> tenants;
  for (size_t i = 0; i < 3 * TenantMetrics::kMaxTenantLabels; ++i) tenants.push_back(absl::StrCat("tenant-", i));
  metrics.AddTenants(tenants);
  metrics.AddTenants({"one-more"});
  for (const std::string& tenant : tenants) metrics.OutputTokens(tenant, 1);
  EXPECT_TRUE(Shows(registry, absl::StrCat("pagoda_router_tenant_output_tokens_total{tenant=\"_other\"} ", 2 * TenantMetrics::kMaxTenantLabels)));
  EXPECT_TRUE(Shows(registry, "pagoda_router_tenant_output_tokens_total{tenant=\"tenant-63\"} 1"));
  const std::string text = ExposeMetrics(registry);
  size_t series = 0;
  for (size_t at = 0; (at = text.find("\npagoda_router_tenant_output_tokens_total{", at)) != std::string::npos; ++at) ++series;
  EXPECT_EQ(series, TenantMetrics::kMaxTenantLabels + 1);
}

}  // namespace
}  // namespace pagoda::router
