#include "text/jinja/format.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "text/jinja/callable.h"
#include "text/unicode.h"

namespace pagoda::text::jinja {
namespace {

constexpr int kMaxFormatDepth = 250;
constexpr char kHex[] = "0123456789abcdef";

void AppendHexDigits(uint32_t value, int digits, std::string* out) {
  for (int shift = (digits - 1) * 4; shift >= 0; shift -= 4) *out += kHex[(value >> shift) & 15];
}

void AppendTextRepr(std::string_view text, std::string* out) {
  const bool has_single = text.find('\'') != std::string_view::npos;
  const bool has_double = text.find('"') != std::string_view::npos;
  const char quote = has_single && !has_double ? '"' : '\'';
  *out += quote;
  for (size_t i = 0; i < text.size();) {
    const Utf8Step step = DecodeUtf8(text, i);
    const char32_t c = step.code_point;
    if (c == static_cast<char32_t>(quote) || c == '\\') {
      *out += '\\';
      *out += static_cast<char>(c);
    } else if (c == '\n') {
      *out += "\\n";
    } else if (c == '\r') {
      *out += "\\r";
    } else if (c == '\t') {
      *out += "\\t";
    } else if (c == ' ' || IsPrintable(c)) {
      out->append(text.substr(i, step.length));
    } else if (c < 0x100) {
      *out += "\\x", AppendHexDigits(c, 2, out);
    } else if (c < 0x10000) {
      *out += "\\u", AppendHexDigits(c, 4, out);
    } else {
      *out += "\\U", AppendHexDigits(c, 8, out);
    }
    i += step.length;
  }
  *out += quote;
}

void Repr(const Value& value, const SizeCheck& check, int depth, std::string* out);

void ReprItems(const Sequence& list, const SizeCheck& check, int depth, std::string* out) {
  for (size_t i = 0; i < list.items.size(); ++i) {
    if (i > 0) *out += ", ";
    Repr(list.items[i], check, depth + 1, out);
  }
}

void ReprSequence(const Sequence& list, const SizeCheck& check, int depth, std::string* out) {
  switch (list.kind) {
    case SequenceKind::kTuple:
      *out += '(';
      ReprItems(list, check, depth, out);
      *out += list.items.size() == 1 ? ",)" : ")";
      return;
    case SequenceKind::kRange:
      if (list.items.empty()) {
        *out += "range(0, 0)";
      } else {
        const int64_t first = list.items.front().integer();
        const int64_t step =
            list.items.size() > 1 ? list.items[1].integer() - first : 1;
        absl::StrAppend(out, "range(", first, ", ", list.items.back().integer() + step);
        if (step != 1) absl::StrAppend(out, ", ", step);
        *out += ')';
      }
      return;
    case SequenceKind::kGenerator: *out += "<generator object>"; return;
    case SequenceKind::kDictKeys: *out += "dict_keys(["; break;
    case SequenceKind::kDictValues: *out += "dict_values(["; break;
    case SequenceKind::kDictItems: *out += "dict_items(["; break;
    case SequenceKind::kList: *out += '['; break;
  }
  ReprItems(list, check, depth, out);
  *out += list.kind == SequenceKind::kList ? "]" : "])";
}

void Repr(const Value& value, const SizeCheck& check, int depth, std::string* out) {
  if (depth > kMaxFormatDepth) FailBudget("a value is nested too deeply to be written");
  check(out->size());
  if (value.is_undefined()) {
    *out += "Undefined";
  } else if (value.is_none()) {
    *out += "None";
  } else if (value.is_bool()) {
    *out += value.boolean() ? "True" : "False";
  } else if (value.is_integer()) {
    absl::StrAppend(out, value.integer());
  } else if (value.is_float()) {
    *out += FormatFloat(value.number());
  } else if (value.is_text()) {
    if (value.is_safe()) *out += "Markup(";
    AppendTextRepr(value.text(), out);
    if (value.is_safe()) *out += ")";
  } else if (const Sequence* list = value.sequence()) {
    ReprSequence(*list, check, depth, out);
  } else if (const Dict* dict = value.dict()) {
    *out += '{';
    for (size_t i = 0; i < dict->items.size(); ++i) {
      if (i > 0) *out += ", ";
      Repr(dict->items[i].first, check, depth + 1, out);
      *out += ": ";
      Repr(dict->items[i].second, check, depth + 1, out);
    }
    *out += '}';
  } else if (const Namespace* space = value.name_space()) {
    *out += "<Namespace {";
    for (size_t i = 0; i < space->items.size(); ++i) {
      if (i > 0) *out += ", ";
      AppendTextRepr(space->items[i].first, out);
      *out += ": ";
      Repr(space->items[i].second, check, depth + 1, out);
    }
    *out += "}>";
  } else if (const LoopState* loop = value.loop()) {
    absl::StrAppend(out, "<LoopContext ", loop->index + 1, "/",
                    loop->items != nullptr ? loop->items->size() : 0, ">");
  } else {
    absl::StrAppend(out, "<function ", value.callable()->name, ">");
  }
}

void AppendJsonText(std::string_view text, bool ensure_ascii, std::string* out) {
  *out += '"';
  for (size_t i = 0; i < text.size();) {
    const Utf8Step step = DecodeUtf8(text, i);
    const char32_t c = step.code_point;
    static constexpr std::string_view kPlain = "\"\\\n\r\t\b\f", kEscaped = "\"\\nrtbf";
    const size_t simple = c < 0x80 ? kPlain.find(static_cast<char>(c)) : std::string_view::npos;
    if (simple != std::string_view::npos) {
      *out += '\\';
      *out += kEscaped[simple];
    } else if (c < 0x20 || (ensure_ascii && c >= 0x7F && c < 0x10000 && c != 0x7F)) {
      *out += "\\u", AppendHexDigits(c, 4, out);
    } else if (ensure_ascii && c >= 0x10000) {
      *out += "\\u", AppendHexDigits(0xD800 + ((c - 0x10000) >> 10), 4, out);
      *out += "\\u", AppendHexDigits(0xDC00 + ((c - 0x10000) & 0x3FF), 4, out);
    } else {
      out->append(text.substr(i, step.length));
    }
    i += step.length;
  }
  *out += '"';
}

class JsonWriter {
 public:
  JsonWriter(const JsonOptions& options, const SizeCheck& check, std::string* out)
      : options_(options), check_(check), out_(*out) {}

  void Write(const Value& value, int depth) {
    if (depth > kMaxFormatDepth) FailBudget("a value is nested too deeply for tojson");
    check_(out_.size());
    if (value.is_text()) {
      AppendJsonText(value.text(), options_.ensure_ascii, &out_);
    } else if (value.sequence() != nullptr && value.sequence()->kind <= SequenceKind::kTuple) {
      WriteList(*value.sequence(), depth);
    } else if (value.dict() != nullptr) {
      WriteDict(*value.dict(), depth);
    } else {
      out_ += Scalar(value);
    }
  }

 private:
  static std::string Scalar(const Value& value) {
    if (value.is_none()) return "null";
    if (value.is_bool()) return value.boolean() ? "true" : "false";
    if (value.is_integer()) return absl::StrCat(value.integer());
    if (!value.is_float()) {
      Fail(absl::StrCat("Object of type ", AsAbsl(value.type_name()), " is not JSON serializable"));
    }
    const double number = value.number();
    if (std::isnan(number)) return "NaN";
    if (std::isinf(number)) return number > 0 ? "Infinity" : "-Infinity";
    return FormatFloat(number);
  }

  void NewLine(int depth) {
    if (!options_.pretty) return;
    out_ += '\n';
    for (int i = 0; i < depth; ++i) out_ += options_.indent;
  }

  void WriteList(const Sequence& list, int depth) {
    if (list.items.empty()) {
      out_ += "[]";
      return;
    }
    out_ += '[';
    for (size_t i = 0; i < list.items.size(); ++i) {
      if (i > 0) out_ += options_.item_separator;
      NewLine(depth + 1);
      Write(list.items[i], depth + 1);
    }
    NewLine(depth);
    out_ += ']';
  }

  void WriteDict(const Dict& dict, int depth) {
    if (dict.items.empty()) {
      out_ += "{}";
      return;
    }
    std::vector<const std::pair<Value, Value>*> items;
    for (const auto& item : dict.items) items.push_back(&item);
    if (options_.sort_keys) {
      std::stable_sort(items.begin(), items.end(),
                       [](auto* a, auto* b) { return Compare(a->first, b->first) < 0; });
    }
    out_ += '{';
    for (size_t i = 0; i < items.size(); ++i) {
      if (i > 0) out_ += options_.item_separator;
      NewLine(depth + 1);
      const Value& key = items[i]->first;
      if (!key.is_text() && !key.is_number() && !key.is_none()) {
        Fail(absl::StrCat("keys must be str, int, float, bool or None, not ",
                          AsAbsl(key.type_name())));
      }
      AppendJsonText(key.is_text() ? key.text() : Scalar(key), options_.ensure_ascii, &out_);
      out_ += options_.key_separator;
      Write(items[i]->second, depth + 1);
    }
    NewLine(depth);
    out_ += '}';
  }

  const JsonOptions& options_;
  const SizeCheck& check_;
  std::string& out_;
};

}  // namespace

std::string FormatFloat(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  char buffer[64];
  const auto [end, error] =
      std::to_chars(buffer, buffer + sizeof(buffer), value, std::chars_format::scientific);
  (void)error;  // the buffer holds any double
  const std::string_view text(buffer, end - buffer);
  const size_t mark = text.find('e');
  std::string_view mantissa = text.substr(0, mark);
  int exponent = 0;
  const char* exponent_text = buffer + mark + 1;
  if (*exponent_text == '+') ++exponent_text;
  std::from_chars(exponent_text, end, exponent);
  std::string out;
  if (mantissa.starts_with('-')) {
    out += '-';
    mantissa.remove_prefix(1);
  }
  std::string digits(1, mantissa[0]);
  if (mantissa.size() > 2) digits.append(mantissa.substr(2));
  const int count = static_cast<int>(digits.size());
  if (exponent < -4 || exponent >= 16) {
    out += digits[0];
    if (count > 1) out += "." + digits.substr(1);
    out += exponent < 0 ? "e-" : "e+";
    const int size = std::abs(exponent);
    if (size < 10) out += '0';
    absl::StrAppend(&out, size);
  } else if (exponent < 0) {
    out += "0." + std::string(-exponent - 1, '0') + digits;
  } else if (count <= exponent + 1) {
    out += digits + std::string(exponent + 1 - count, '0') + ".0";
  } else {
    out += digits.substr(0, exponent + 1) + "." + digits.substr(exponent + 1);
  }
  return out;
}

void AppendRepr(const Value& value, const SizeCheck& check, std::string* out) {
  Repr(value, check, 0, out);
}

std::string FormatStr(const Value& value, const SizeCheck& check) {
  if (value.is_text()) return value.text();
  if (value.is_undefined()) return "";
  std::string out;
  Repr(value, check, 0, &out);
  return out;
}

std::string FormatJson(const Value& value, const JsonOptions& options, const SizeCheck& check) {
  std::string out;
  JsonWriter(options, check, &out).Write(value, 0);
  return out;
}

std::string EscapeHtml(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (char c : text) {
    switch (c) {
      case '&': out += "&amp;"; break;
      case '<': out += "&lt;"; break;
      case '>': out += "&gt;"; break;
      case '"': out += "&#34;"; break;
      case '\'': out += "&#39;"; break;
      default: out += c;
    }
  }
  return out;
}

}  // namespace pagoda::text::jinja
