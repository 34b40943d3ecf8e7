// Reading what a server answered without trusting its shape. Pure.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

namespace pagoda::cli {

// The string at `pointer` ("/choices/0/text"); empty when there is none or it is something else.
inline std::string TextAt(const nlohmann::json& value, const char* pointer) {
  const nlohmann::json::json_pointer place(pointer);
  if (!value.is_structured() || !value.contains(place)) return "";
  const nlohmann::json& found = value.at(place);
  return found.is_string() ? found.get<std::string>() : "";
}

inline int IntegerAt(const nlohmann::json& value, const char* pointer, int fallback) {
  const nlohmann::json::json_pointer place(pointer);
  if (!value.is_structured() || !value.contains(place)) return fallback;
  const nlohmann::json& found = value.at(place);
  return found.is_number_integer() ? found.get<int>() : fallback;
}

}  // namespace pagoda::cli
