#include "checkpoint/strict_json.h"

#include <cmath>
#include <set>
#include <vector>

#include "common/limits.h"

namespace pagoda::checkpoint {

absl::StatusOr<Json> ParseJsonObject(std::string_view text, std::string_view what) {
  std::string problem;
  std::vector<std::set<std::string>> keys;  // of each object that is open
  const auto watch = [&](int depth, Json::parse_event_t event, Json& parsed) {
    if (depth > limits::kMaxJsonDepth && problem.empty()) problem = "is nested too deep";
    if (!problem.empty()) return false;
    if (event == Json::parse_event_t::object_start) keys.emplace_back();
    if (event == Json::parse_event_t::object_end) keys.pop_back();
    if (event == Json::parse_event_t::key &&
        !keys.back().insert(parsed.get<std::string>()).second) {
      problem = absl::StrCat("has the key \"", parsed.get<std::string>(), "\" twice in one object");
    }
    return problem.empty();
  };
  Json parsed;
  try {
    parsed = Json::parse(text.begin(), text.end(), watch);
  } catch (const Json::parse_error& error) {
    if (problem.empty()) problem = absl::StrCat("is not valid JSON (character ", error.byte, ")");
  } catch (const Json::exception&) {  // a number that no type holds
    if (problem.empty()) problem = "is not valid JSON";
  }
  if (problem.empty() && !parsed.is_object()) problem = "is not a JSON object";
  if (!problem.empty()) return absl::InvalidArgumentError(absl::StrCat(AsAbsl(what), " ", problem));
  return parsed;
}

const Json* JsonSettings::Find(const char* key) const {
  const auto found = object_.find(key);
  return found == object_.end() || found->is_null() ? nullptr : &*found;
}

void JsonSettings::Fail(const char* key, std::string_view problem) {
  if (status_.ok())
    status_ = absl::InvalidArgumentError(absl::StrCat(what_, ": \"", key, "\" ", AsAbsl(problem)));
}

int64_t JsonSettings::Int(const char* key, std::optional<int64_t> fallback, int64_t most) {
  const Json* value = Find(key);
  if (value == nullptr) {
    if (!fallback) Fail(key, "is missing");
    return fallback.value_or(0);
  }
  // 4096.0 is how some writers put an integer.
  const bool whole =
      value->is_number_float() && std::floor(value->get<double>()) == value->get<double>();
  if (!value->is_number_integer() && !whole) {
    Fail(key, "is not an integer");
    return 0;
  }
  const double number = value->get<double>();
  if (!(number >= 0 && number <= static_cast<double>(most))) {
    Fail(key, "is out of range");
    return 0;
  }
  return static_cast<int64_t>(number);
}

double JsonSettings::Float(const char* key, double fallback) {
  const Json* value = Find(key);
  if (value == nullptr) return fallback;
  if (value->is_number()) return value->get<double>();
  Fail(key, "is not a number");
  return fallback;
}

bool JsonSettings::Bool(const char* key, bool fallback) {
  const Json* value = Find(key);
  if (value == nullptr) return fallback;
  if (value->is_boolean()) return value->get<bool>();
  Fail(key, "is not true or false");
  return fallback;
}

std::string JsonSettings::String(const char* key, std::string fallback) {
  const Json* value = Find(key);
  if (value == nullptr) return fallback;
  if (value->is_string()) return value->get<std::string>();
  Fail(key, "is not a string");
  return fallback;
}

}  // namespace pagoda::checkpoint
