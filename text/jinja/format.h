// How Python writes values: str(), repr(), json.dumps.
#pragma once

#include <functional>
#include <string>
#include <string_view>

#include "text/jinja/value.h"

namespace pagoda::text::jinja {

// Called with the bytes written so far; may throw to stop.
using SizeCheck = std::function<void(size_t)>;

std::string FormatFloat(double value);
void AppendRepr(const Value& value, const SizeCheck& check, std::string* out);
// str(value): text as it is, everything else as repr; undefined is empty.
std::string FormatStr(const Value& value, const SizeCheck& check);

struct JsonOptions {
  bool ensure_ascii = false;
  bool pretty = false;
  std::string indent;
  std::string item_separator = ", ";
  std::string key_separator = ": ";
  bool sort_keys = false;
};
std::string FormatJson(const Value& value, const JsonOptions& options, const SizeCheck& check);

std::string EscapeHtml(std::string_view text);

}  // namespace pagoda::text::jinja
