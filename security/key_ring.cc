#include "security/key_ring.h"

#include <openssl/crypto.h>
#include <openssl/rand.h>
#include <openssl/sha.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <functional>
#include <map>
#include <set>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "security/certificate_files.h"

namespace pagoda::security {
namespace {

constexpr size_t kMaxKeys = 100'000;
constexpr size_t kMaxSecretBytes = 512;  // of what a client sends
constexpr int64_t kMaxPerMinute = 1'000'000'000'000;
constexpr Scope kScopes[] = {Scope::kInference, Scope::kMetrics, Scope::kAdmin};

std::array<unsigned char, 32> Hash(std::string_view secret) {
  std::array<unsigned char, 32> digest;
  SHA256(reinterpret_cast<const unsigned char*>(secret.data()), secret.size(), digest.data());
  return digest;
}

class Reader {
 public:
  explicit Reader(std::string name) : name_(std::move(name)) {}

  absl::Status At(const YAML::Node& node, const std::string& message) const {
    return absl::InvalidArgumentError(absl::StrCat(name_, ":", node.Mark().line + 1, ": ", message));
  }

  absl::StatusOr<std::string> Text(const YAML::Node& node, const char* key, size_t longest) const {
    if (!node.IsScalar() || node.Scalar().empty() || node.Scalar().size() > longest) {
      return At(node, absl::StrCat("'", key, "' must be a text of 1 to ", longest, " bytes"));
    }
    return node.Scalar();
  }

  absl::StatusOr<int64_t> Count(const YAML::Node& node, const char* key) const {
    int64_t value = -1;
    if (!node.IsScalar() || !YAML::convert<int64_t>::decode(node, value) || value < 0 || value > kMaxPerMinute) {
      return At(node, absl::StrCat("'", key, "' must be a number from 0 to ", kMaxPerMinute));
    }
    return value;
  }

  absl::StatusOr<std::vector<std::string>> List(const YAML::Node& node, const char* key) const {
    if (!node.IsSequence() || node.size() == 0) return At(node, absl::StrCat("'", key, "' must be a list that is not empty"));
    std::vector<std::string> items;
    for (const YAML::Node& item : node) {
      PAGODA_ASSIGN_OR_RETURN(items.emplace_back(), Text(item, key, 256));
    }
    return items;
  }

  absl::StatusOr<ApiKey> Key(const YAML::Node& node) const {
    if (!node.IsMap()) return At(node, "a key must be a map (id, sha256, tenant, ...)");
    ApiKey key;
    bool hashed = false;
    std::set<std::string> seen;
    for (const auto& entry : node) {
      const std::string name = entry.first.as<std::string>("");
      if (!seen.insert(name).second) return At(entry.first, absl::StrCat("'", name, "' stands twice"));
      if (name == "sha256") hashed = true;
      PAGODA_RETURN_IF_ERROR(Field(name, entry.first, entry.second, key));
    }
    if (key.id.empty() || key.tenant.empty() || !hashed) return At(node, "a key needs 'id', 'sha256' and 'tenant'");
    if (key.scopes.empty()) key.scopes = {Scope::kInference};
    return key;
  }

 private:
  absl::Status Field(const std::string& name, const YAML::Node& where, const YAML::Node& value, ApiKey& key) const {
    if (name == "id") {
      PAGODA_ASSIGN_OR_RETURN(key.id, Text(value, "id", 64));
    } else if (name == "tenant") {
      PAGODA_ASSIGN_OR_RETURN(key.tenant, Text(value, "tenant", 128));
    } else if (name == "sha256") {
      return ReadHash(value, key);
    } else if (name == "scopes") {
      return ReadScopes(value, key);
    } else if (name == "models") {
      PAGODA_ASSIGN_OR_RETURN(key.models, List(value, "models"));
    } else if (name == "requests_per_minute") {
      PAGODA_ASSIGN_OR_RETURN(key.requests_per_minute, Count(value, "requests_per_minute"));
    } else if (name == "tokens_per_minute") {
      PAGODA_ASSIGN_OR_RETURN(key.tokens_per_minute, Count(value, "tokens_per_minute"));
    } else if (name == "weight") {
      key.weight = value.IsScalar() ? value.as<double>(0) : 0;
      if (!(key.weight >= kLeastWeight && key.weight <= kMostWeight)) return At(value, "'weight' must be a number from 0.01 to 100");
    } else {
      return At(where, absl::StrCat("'", name, "' is not one of id, sha256, tenant, scopes, models, requests_per_minute, ",
                                    "tokens_per_minute, weight"));
    }
    return absl::OkStatus();
  }

  absl::Status ReadHash(const YAML::Node& value, ApiKey& key) const {
    const std::string hex = value.IsScalar() ? value.Scalar() : "";
    if (hex.size() != 64 || hex.find_first_not_of("0123456789abcdefABCDEF") != std::string::npos) {
      return At(value, "'sha256' must be 64 hexadecimal digits");
    }
    const std::string bytes = absl::HexStringToBytes(hex);
    std::copy(bytes.begin(), bytes.end(), reinterpret_cast<char*>(key.sha256.data()));
    return absl::OkStatus();
  }

  absl::Status ReadScopes(const YAML::Node& value, ApiKey& key) const {
    PAGODA_ASSIGN_OR_RETURN(const std::vector<std::string> names, List(value, "scopes"));
    for (const std::string& name : names) {
      const auto scope = std::ranges::find(kScopes, name, [](Scope s) { return NameOf(s); });
      if (scope == std::end(kScopes)) return At(value, absl::StrCat("'", name, "' is not one of inference, metrics, admin"));
      key.scopes.push_back(*scope);
    }
    return absl::OkStatus();
  }

  const std::string name_;
};

}  // namespace

std::string_view NameOf(Scope scope) {
  switch (scope) {
    case Scope::kInference: return "inference";
    case Scope::kMetrics: return "metrics";
    case Scope::kAdmin: return "admin";
  }
  return "";
}

bool ApiKey::Has(Scope scope) const { return std::ranges::find(scopes, scope) != scopes.end(); }

bool ApiKey::MayUse(std::string_view model) const {
  return models.empty() || std::ranges::find(models, model) != models.end();
}

absl::StatusOr<KeyRing> KeyRing::Parse(const std::string& text, const std::string& name) {
  const Reader reader(name);
  YAML::Node root;
  try {
    root = YAML::Load(text);
  } catch (const YAML::Exception& error) {
    // Its message may quote the line, and a line may hold what somebody took for a key.
    return absl::InvalidArgumentError(absl::StrCat(name, ":", error.mark.line + 1, ": this is not YAML"));
  }
  KeyRing ring;
  if (!root || root.IsNull()) return ring;
  if (!root.IsMap() || root.size() != 1 || !root["keys"]) {
    return reader.At(root, "the file must be a map with one entry, 'keys'");
  }
  const YAML::Node list = root["keys"];
  if (list.IsNull()) return ring;
  if (!list.IsSequence()) return reader.At(list, "'keys' must be a list");
  if (list.size() > kMaxKeys) return reader.At(list, absl::StrCat("there are more than ", kMaxKeys, " keys"));
  std::set<std::string> ids;
  for (const YAML::Node& node : list) {
    PAGODA_ASSIGN_OR_RETURN(ApiKey key, reader.Key(node));
    if (!ids.insert(key.id).second) return reader.At(node, absl::StrCat("two keys have the id '", key.id, "'"));
    ring.keys_.push_back(std::make_shared<const ApiKey>(std::move(key)));
  }
  return ring;
}

absl::StatusOr<KeyRing> KeyRing::Load(const std::string& path) {
  PAGODA_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(path));
  return Parse(text, path);
}

std::shared_ptr<const ApiKey> KeyRing::Find(std::string_view secret) const {
  const std::array<unsigned char, 32> digest = Hash(secret.substr(0, kMaxSecretBytes + 1));
  const std::shared_ptr<const ApiKey>* found = nullptr;
  for (const auto& key : keys_) {
    if (CRYPTO_memcmp(key->sha256.data(), digest.data(), digest.size()) == 0) found = &key;
  }
  return found == nullptr ? nullptr : *found;
}

std::string KeyRing::ToText(const std::vector<ApiKey>& keys) {
  YAML::Emitter out;
  out << YAML::Comment("API keys of Pagoda: hashes only. Made by `pagoda keys`.") << YAML::BeginMap << YAML::Key << "keys"
      << YAML::Value << YAML::BeginSeq;
  for (const ApiKey& key : keys) {
    const std::string bytes(key.sha256.begin(), key.sha256.end());
    out << YAML::BeginMap << YAML::Key << "id" << YAML::Value << key.id << YAML::Key << "sha256" << YAML::Value
        << absl::BytesToHexString(bytes) << YAML::Key << "tenant" << YAML::Value << key.tenant << YAML::Key << "scopes"
        << YAML::Value << YAML::Flow << YAML::BeginSeq;
    for (const Scope scope : key.scopes) out << std::string(NameOf(scope));
    out << YAML::EndSeq;
    if (!key.models.empty()) out << YAML::Key << "models" << YAML::Value << YAML::Flow << key.models;
    if (key.requests_per_minute > 0) out << YAML::Key << "requests_per_minute" << YAML::Value << key.requests_per_minute;
    if (key.tokens_per_minute > 0) out << YAML::Key << "tokens_per_minute" << YAML::Value << key.tokens_per_minute;
    if (key.weight != 1) out << YAML::Key << "weight" << YAML::Value << key.weight;
    out << YAML::EndMap;
  }
  out << YAML::EndSeq << YAML::EndMap;
  return std::string(out.c_str()) + "\n";
}

NewKey MakeKey() {
  unsigned char random[36];
  PAGODA_CHECK(RAND_bytes(random, sizeof(random)) == 1, "the machine gives no random bytes");
  const std::string bytes(reinterpret_cast<const char*>(random), sizeof(random));
  NewKey made;
  made.key.id = absl::BytesToHexString(bytes.substr(0, 4));
  made.secret = absl::StrCat("sk-pagoda-", made.key.id, "-", absl::BytesToHexString(bytes.substr(4)));
  made.key.sha256 = Hash(made.secret);
  return made;
}

std::string WithoutKeys(std::string_view text) {
  std::string out;
  for (size_t at = 0; at < text.size();) {
    const size_t begin = std::min(text.find("sk-", at), text.size());
    out.append(text, at, begin - at);
    if (begin == text.size()) break;
    const size_t end = std::min(text.find_first_not_of(
        "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-_", begin), text.size());
    const bool part_of_a_word = begin > 0 && absl::ascii_isalnum(static_cast<unsigned char>(text[begin - 1]));
    if (end - begin < 12 || part_of_a_word) {
      out.append(text, begin, end - begin);
    } else {
      out += "sk-***";
    }
    at = end;
  }
  return out;
}

std::string SecretOf(std::string_view authorization) {
  const size_t space = authorization.find(' ');
  if (space == std::string_view::npos || authorization.size() > 2 * kMaxSecretBytes) return "";
  const absl::string_view scheme = AsAbsl(authorization.substr(0, space));
  const std::string_view rest = authorization.substr(space + 1);
  if (absl::EqualsIgnoreCase(scheme, "bearer")) return std::string(rest);
  std::string decoded;
  if (!absl::EqualsIgnoreCase(scheme, "basic") || !absl::Base64Unescape(AsAbsl(rest), &decoded)) return "";
  const size_t colon = decoded.find(':');
  return colon == std::string::npos ? "" : decoded.substr(colon + 1);
}

}  // namespace pagoda::security
