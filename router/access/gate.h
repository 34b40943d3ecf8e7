// Who may ask what of this router: API keys, scopes, models, quotas. Without a key file everything is open to everybody, as
// a tenant with no name. Owner: the router. Thread rule: any thread.
//
// The quota is this router's: with several routers behind one address, a key may use its quota at each of them.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "common/mutex.h"
#include "router/access/quota.h"
#include "security/key_file.h"

namespace pagoda::router {

// Whoever sends a request. Without keys: nobody in particular.
struct Caller {
  std::shared_ptr<const security::ApiKey> key;  // null: no keys are configured
  std::string tenant() const { return key == nullptr ? "" : key->tenant; }
  std::string key_id() const { return key == nullptr ? "" : key->id; }
  double weight() const { return key == nullptr ? 1 : key->weight; }
  bool MayUse(std::string_view model) const { return key == nullptr || key->MayUse(model); }
  bool sees_all_models() const { return key == nullptr || key->models.empty(); }
};

// kPermissionDenied: a priority that is not this caller's to ask for. Below 0 a request goes before those of all tenants: where
// there are keys, for who looks after the cluster.
absl::Status CheckPriority(const Caller& caller, int priority);

class Gate {
 public:
  // Tokens that were set aside for a request. What it did not use goes back when this is gone.
  class Reservation {
   public:
    Reservation(Gate* gate, std::string key_id, int64_t tokens) : gate_(gate), key_id_(std::move(key_id)), tokens_(tokens) {}
    ~Reservation() { gate_->Settle(key_id_, tokens_ - used_); }
    Reservation(const Reservation&) = delete;
    Reservation& operator=(const Reservation&) = delete;
    void SetUsed(int64_t tokens) { used_ = tokens; }

   private:
    Gate* const gate_;
    const std::string key_id_;
    const int64_t tokens_;
    int64_t used_ = 0;
  };

  // Empty path: open. The error is of the file.
  static absl::StatusOr<std::unique_ptr<Gate>> Open(const std::string& key_file);

  // Reads the file again; on an error the keys stay as they were.
  absl::Status Reload();
  // Reload if the file was changed since it was last read.
  // True when it was.
  bool ReloadIfChanged();
  std::vector<std::string> Tenants() const;  // with a key to generate, in the file's order; one may stand twice

  // Of an Authorization header. kUnauthenticated: no such key; kPermissionDenied: not of this scope.
  absl::StatusOr<Caller> Admit(std::string_view authorization, security::Scope scope) const;
  // Counts one request. kResourceExhausted says when to come back.
  absl::Status TakeRequest(const Caller& caller, MonotonicNs now);
  // Null when the caller has no quota of tokens.
  absl::StatusOr<std::shared_ptr<Reservation>> ReserveTokens(const Caller& caller, int64_t tokens, MonotonicNs now);

  // For x-ratelimit-* headers. limit 0: no quota.
  struct Left {
    int64_t limit = 0;
    int64_t remaining = 0;
    int64_t reset_ms = 0;
  };
  struct Standing {
    Left requests;
    Left tokens;
  };
  Standing StandingOf(const Caller& caller, MonotonicNs now) const;

 private:
  explicit Gate(std::string key_file) : keys_(std::move(key_file)) {}
  void TakeUpQuotas();
  Quota& QuotaOf(const security::ApiKey& key, MonotonicNs now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Settle(const std::string& key_id, int64_t unused);

  security::KeyFile keys_;
  mutable Mutex mutex_;
  std::unordered_map<std::string, Quota> quotas_ ABSL_GUARDED_BY(mutex_);  // by the key's id
};

}  // namespace pagoda::router
