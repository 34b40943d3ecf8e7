// API keys as a server knows them: their SHA-256, never the keys. One YAML file, that `pagoda keys` writes and a
// Kubernetes secret may hold.
//
//   keys:
//     - id: 3f9a2c1b                  # public: it names the key in lists and logs
//       sha256: 9f86d081...           # of the whole key, hexadecimal
//       tenant: acme                  # whose prefix cache and quota it is
//       scopes: [inference]           # of inference, metrics, admin
//       models: [smollm2-135m]        # left out: all
//       requests_per_minute: 600      # left out or 0: no quota
//       tokens_per_minute: 100000     # prompt and output together
//
// A key is 256 random bits, so its plain hash cannot be guessed back; a slow hash would only cost every request.
// Thread rule: immutable; any thread.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "common/status.h"

namespace pagoda::security {

enum class Scope { kInference, kMetrics, kAdmin };
std::string_view NameOf(Scope scope);

inline constexpr double kLeastWeight = 0.01;
inline constexpr double kMostWeight = 100;

struct ApiKey {
  std::string id;
  std::array<unsigned char, 32> sha256 = {};
  std::string tenant;
  std::vector<Scope> scopes;
  std::vector<std::string> models;  // empty: all
  int64_t requests_per_minute = 0;  // 0: no quota
  int64_t tokens_per_minute = 0;    // 0: no quota
  double weight = 1;                // of its tenant's share while requests queue: 2 gets twice what 1 gets

  bool Has(Scope scope) const;
  bool MayUse(std::string_view model) const;
};

class KeyRing {
 public:
  // The error names the line. `name` is what it calls the text.
  static absl::StatusOr<KeyRing> Parse(const std::string& text, const std::string& name);
  static absl::StatusOr<KeyRing> Load(const std::string& path);

  // The key with this secret, or null. Takes the same time whichever key it is and however much of it fits.
  std::shared_ptr<const ApiKey> Find(std::string_view secret) const;
  const std::vector<std::shared_ptr<const ApiKey>>& keys() const { return keys_; }

  // The file's text; what Parse reads.
  static std::string ToText(const std::vector<ApiKey>& keys);

 private:
  std::vector<std::shared_ptr<const ApiKey>> keys_;
};

struct NewKey {
  std::string secret;  // shown once
  ApiKey key;          // id and sha256 filled in
};
NewKey MakeKey();

// What follows "Bearer " (or the password of "Basic ") in an Authorization header; empty when it is neither.
std::string SecretOf(std::string_view authorization);

// `text` for a log: what looks like a key (sk-..., of this server or another) becomes "sk-***".
std::string WithoutKeys(std::string_view text);

}  // namespace pagoda::security
