// JSON from a model's files, parsed without trust: no duplicate keys, bounded depth, typed look-ups
// that name the key. Internal to this folder; includes a heavy header, so only .cc files include
// it.
#pragma once

#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "common/status.h"

namespace pagoda::checkpoint {

using Json = nlohmann::json;

// `what` names the file in errors. The result is an object.
absl::StatusOr<Json> ParseJsonObject(std::string_view text, std::string_view what);

// Reads keys of one object, remembering the first that is wrong. An absent key and null are the
// fallback.
class JsonSettings {
 public:
  JsonSettings(const Json& object, std::string what) : object_(object), what_(std::move(what)) {}

  const Json* Find(const char* key) const;  // nullptr: absent or null
  bool Has(const char* key) const { return object_.contains(key); }
  // Without a fallback a missing key is an error. Always in [0, most].
  int64_t Int(const char* key, std::optional<int64_t> fallback = std::nullopt,
              int64_t most = std::numeric_limits<int32_t>::max());
  double Float(const char* key, double fallback);
  bool Bool(const char* key, bool fallback);
  std::string String(const char* key, std::string fallback);
  const absl::Status& status() const { return status_; }

 private:
  void Fail(const char* key, std::string_view problem);

  const Json& object_;
  const std::string what_;
  absl::Status status_;
};

}  // namespace pagoda::checkpoint
