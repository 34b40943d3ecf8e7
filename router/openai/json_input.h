// Reading a client's JSON: bounded in depth and number of values, duplicate keys refused, linear
// time, no recursion; and typed access to the fields of an object with errors that name the field.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/status.h"

namespace pagoda::router::openai {

using Json = nlohmann::ordered_json;  // keys in the client's order: templates print them

// kInvalidArgument says where and why.
absl::StatusOr<Json> ParseJson(std::string_view text);

// Reads fields of one object. The first error is kept, later reads give defaults: check status() at
// the end. `null` counts as absent, as in OpenAI's API.
class Fields {
 public:
  explicit Fields(const Json& object) : object_(object) {}

  const Json* Find(const char* name) const;  // null when absent or `null`
  bool Bool(const char* name, bool fallback);
  std::optional<bool> OptionalBool(const char* name);
  std::optional<int64_t> Integer(const char* name);  // 3 and 3.0, not 3.5, not "3"
  std::optional<double> Real(const char* name);
  std::string String(const char* name);
  std::vector<std::string> StringOrList(const char* name, size_t limit);
  std::vector<int64_t> IntegerList(const char* name, size_t limit);

  void Fail(const char* name, std::string_view message);
  const absl::Status& status() const { return status_; }

 private:
  const Json& object_;
  absl::Status status_;
};

std::optional<int64_t> IntegerOf(const Json& value);

}  // namespace pagoda::router::openai
