#include "router/access/gate.h"

#include <algorithm>

#include "router/request_status.h"

namespace pagoda::router {
namespace {

absl::Status OverQuota(const security::ApiKey& key, absl::string_view what, int64_t limit, int64_t retry_ms) {
  return WithRetryAfter(
      WithCode(absl::ResourceExhaustedError(absl::StrCat("key ", key.id, " has used its quota of ", limit, " ", what,
                                                         " per minute; come back in ", retry_ms, " ms")),
               "rate_limit_exceeded"),
      retry_ms);
}

Gate::Left LeftOf(const Bucket& bucket, MonotonicNs now) {
  if (bucket.unlimited()) return {};
  return {.limit = bucket.limit(), .remaining = bucket.Remaining(now), .reset_ms = bucket.MsUntilFull(now)};
}

}  // namespace

absl::Status CheckPriority(const Caller& caller, int priority) {
  if (priority >= 0 || caller.key == nullptr || caller.key->Has(security::Scope::kAdmin)) return absl::OkStatus();
  const absl::Status denied = absl::PermissionDeniedError(
      "priority: below 0 a request goes before those of all tenants, which needs a key of scope admin besides");
  return WithCode(WithParam(denied, "priority"), "insufficient_scope");
}

absl::StatusOr<std::unique_ptr<Gate>> Gate::Open(const std::string& key_file) {
  std::unique_ptr<Gate> gate(new Gate(key_file));
  PAGODA_RETURN_IF_ERROR(gate->Reload());
  return gate;
}

absl::Status Gate::Reload() {
  PAGODA_RETURN_IF_ERROR(keys_.Reload());
  TakeUpQuotas();
  return absl::OkStatus();
}

bool Gate::ReloadIfChanged() {
  if (!keys_.ReloadIfChanged()) return false;
  TakeUpQuotas();
  return true;
}

std::vector<std::string> Gate::Tenants() const {
  std::vector<std::string> tenants;
  if (const auto ring = keys_.ring()) {
    for (const auto& key : ring->keys()) {
      if (key->Has(security::Scope::kInference)) tenants.push_back(key->tenant);
    }
  }
  return tenants;
}

void Gate::TakeUpQuotas() {
  const auto ring = keys_.ring();
  if (ring == nullptr) return;
  const MonotonicNs now = NowNs();
  MutexLock lock(&mutex_);
  for (const auto& key : ring->keys()) {
    const auto quota = quotas_.find(key->id);
    if (quota == quotas_.end()) continue;
    quota->second.requests.SetRate(key->requests_per_minute, now);
    quota->second.tokens.SetRate(key->tokens_per_minute, now);
  }
}

absl::StatusOr<Caller> Gate::Admit(std::string_view authorization, security::Scope scope) const {
  auto key = keys_.Admit(authorization, scope);
  if (key.ok()) return Caller{.key = *std::move(key)};
  return WithCode(key.status(), absl::IsPermissionDenied(key.status()) ? "insufficient_scope"
                                : authorization.empty()                ? "missing_api_key"
                                                                       : "invalid_api_key");
}

Quota& Gate::QuotaOf(const security::ApiKey& key, MonotonicNs now) {
  return quotas_.try_emplace(key.id, key.requests_per_minute, key.tokens_per_minute, now).first->second;
}

absl::Status Gate::TakeRequest(const Caller& caller, MonotonicNs now) {
  if (caller.key == nullptr) return absl::OkStatus();
  MutexLock lock(&mutex_);
  Bucket& bucket = QuotaOf(*caller.key, now).requests;
  if (bucket.TryTake(1, now)) return absl::OkStatus();
  return OverQuota(*caller.key, "requests", bucket.limit(), bucket.MsUntil(1, now));
}

absl::StatusOr<std::shared_ptr<Gate::Reservation>> Gate::ReserveTokens(const Caller& caller, int64_t tokens,
                                                                       MonotonicNs now) {
  if (caller.key == nullptr) return std::shared_ptr<Reservation>();
  MutexLock lock(&mutex_);
  Bucket& bucket = QuotaOf(*caller.key, now).tokens;
  if (bucket.unlimited()) return std::shared_ptr<Reservation>();
  if (!bucket.TryTake(tokens, now)) return OverQuota(*caller.key, "tokens", bucket.limit(), bucket.MsUntil(tokens, now));
  return std::make_shared<Reservation>(this, caller.key->id, std::min(tokens, bucket.limit()));
}

void Gate::Settle(const std::string& key_id, int64_t unused) {
  MutexLock lock(&mutex_);
  if (const auto quota = quotas_.find(key_id); quota != quotas_.end()) quota->second.tokens.Return(unused, NowNs());
}

Gate::Standing Gate::StandingOf(const Caller& caller, MonotonicNs now) const {
  if (caller.key == nullptr) return {};
  MutexLock lock(&mutex_);
  const auto quota = quotas_.find(caller.key->id);
  if (quota == quotas_.end()) return {};
  return {.requests = LeftOf(quota->second.requests, now), .tokens = LeftOf(quota->second.tokens, now)};
}

}  // namespace pagoda::router
