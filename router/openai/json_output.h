// Appends JSON to a string. Free functions; the caller keeps the commas.
#pragma once

#include <charconv>
#include <cmath>
#include <string>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "common/log.h"
#include "common/status.h"

namespace pagoda::router::openai {

inline void AppendString(std::string& out, std::string_view text) {
  out += '"';
  out += JsonEscape(text);
  out += '"';
}

// JSON has no infinities: what is as good as impossible is -9999.0, as in OpenAI's API.
inline void AppendLogprob(std::string& out, float value) {
  if (!(value > -9999.0f)) value = -9999.0f;
  if (value > 0) value = 0;
  char digits[32];
  const auto [end, error] = std::to_chars(digits, digits + sizeof(digits), value);
  (void)error;
  const std::string_view text(digits, static_cast<size_t>(end - digits));
  out += text;
  if (text.find_first_of(".e") == std::string_view::npos) out += ".0";
}

template <typename Range, typename Append>
void AppendList(std::string& out, const Range& range, Append append) {
  out += '[';
  bool first = true;
  for (const auto& entry : range) {
    if (!first) out += ',';
    first = false;
    append(entry);
  }
  out += ']';
}

template <typename Range>
void AppendIntegers(std::string& out, const Range& range) {
  AppendList(out, range, [&](const auto& value) { absl::StrAppend(&out, value); });
}

}  // namespace pagoda::router::openai
