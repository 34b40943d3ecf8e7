#include "text/jinja/text_methods.h"

#include <algorithm>

#include "text/jinja/value.h"
#include "text/unicode.h"

namespace pagoda::text::jinja {
namespace {

bool IsStripped(std::string_view character, std::optional<std::string_view> characters) {
  if (!characters.has_value()) return IsPythonSpace(DecodeUtf8(character, 0).code_point);
  return characters->find(character) != std::string_view::npos;
}

size_t LastCharacter(std::string_view text) {
  size_t begin = text.size() - 1;
  while (begin > 0 && (static_cast<unsigned char>(text[begin]) & 0xC0) == 0x80) --begin;
  return begin;
}

std::vector<std::string_view> SplitSpaces(std::string_view text, int64_t most, bool from_right) {
  std::vector<std::string_view> out;
  if (from_right) {
    text = StripRight(text, std::nullopt);
    while (!text.empty() && (most < 0 || static_cast<int64_t>(out.size()) < most)) {
      size_t begin = text.size();
      while (begin > 0) {
        const size_t last = LastCharacter(text.substr(0, begin));
        if (IsPythonSpace(DecodeUtf8(text, last).code_point)) break;
        begin = last;
      }
      out.push_back(text.substr(begin));
      text = StripRight(text.substr(0, begin), std::nullopt);
    }
    if (!text.empty()) out.push_back(text);
    std::reverse(out.begin(), out.end());
    return out;
  }
  text = StripLeft(text, std::nullopt);
  while (!text.empty()) {
    if (most >= 0 && static_cast<int64_t>(out.size()) >= most) {
      out.push_back(text);
      break;
    }
    size_t end = 0;
    while (end < text.size()) {
      const Utf8Step step = DecodeUtf8(text, end);
      if (IsPythonSpace(step.code_point)) break;
      end += step.length;
    }
    out.push_back(text.substr(0, end));
    text = StripLeft(text.substr(end), std::nullopt);
  }
  return out;
}

}  // namespace

std::string_view StripLeft(std::string_view text, std::optional<std::string_view> characters) {
  while (!text.empty()) {
    const int length = DecodeUtf8(text, 0).length;
    if (!IsStripped(text.substr(0, length), characters)) break;
    text.remove_prefix(length);
  }
  return text;
}

std::string_view StripRight(std::string_view text, std::optional<std::string_view> characters) {
  while (!text.empty()) {
    const size_t last = LastCharacter(text);
    if (!IsStripped(text.substr(last), characters)) break;
    text = text.substr(0, last);
  }
  return text;
}

std::string ReplaceAll(std::string_view text, std::string_view from, std::string_view to,
                       int64_t count) {
  std::string out;
  if (from.empty()) {  // between all characters
    size_t i = 0;
    while (count != 0) {
      out += to;
      --count;
      if (i >= text.size()) return out;
      const int length = DecodeUtf8(text, i).length;
      out += text.substr(i, length);
      i += length;
    }
    out += text.substr(i);
    return out;
  }
  size_t done = 0;
  while (count != 0) {
    const size_t found = text.find(from, done);
    if (found == std::string_view::npos) break;
    out += text.substr(done, found - done);
    out += to;
    done = found + from.size();
    --count;
  }
  out += text.substr(done);
  return out;
}

std::vector<std::string_view> Split(std::string_view text, std::optional<std::string_view> separator,
                                    int64_t most, bool from_right) {
  if (!separator.has_value()) return SplitSpaces(text, most, from_right);
  if (separator->empty()) Fail("empty separator");
  std::vector<std::string_view> out;
  while (most < 0 || static_cast<int64_t>(out.size()) < most) {
    const size_t found = from_right ? text.rfind(*separator) : text.find(*separator);
    if (found == std::string_view::npos) break;
    const std::string_view left = text.substr(0, found);
    const std::string_view right = text.substr(found + separator->size());
    out.push_back(from_right ? right : left);
    text = from_right ? left : right;
  }
  out.push_back(text);
  if (from_right) std::reverse(out.begin(), out.end());
  return out;
}

std::vector<std::string_view> SplitLines(std::string_view text, bool keep_ends) {
  std::vector<std::string_view> out;
  size_t begin = 0;
  for (size_t i = 0; i < text.size();) {
    const Utf8Step step = DecodeUtf8(text, i);
    const char32_t c = step.code_point;
    const bool ends = (c >= 0x0A && c <= 0x0D) || (c >= 0x1C && c <= 0x1E) || c == 0x85 ||
                      c == 0x2028 || c == 0x2029;
    if (!ends) {
      i += step.length;
      continue;
    }
    size_t after = i + step.length;
    if (c == '\r' && after < text.size() && text[after] == '\n') ++after;
    out.push_back(text.substr(begin, (keep_ends ? after : i) - begin));
    begin = i = after;
  }
  if (begin < text.size()) out.push_back(text.substr(begin));
  return out;
}

std::string TitleFilter(std::string_view text) {
  std::string out;
  bool word_begins = true;
  for (size_t i = 0; i < text.size();) {
    const Utf8Step step = DecodeUtf8(text, i);
    const char32_t c = step.code_point;
    const std::string_view character = text.substr(i, step.length);
    const bool separates =
        c == '-' || c == '(' || c == '{' || c == '[' || c == '<' || IsPythonSpace(c);
    out += separates ? std::string(character) : word_begins ? ToUpper(character) : ToLower(character);
    word_begins = separates;
    i += step.length;
  }
  return out;
}

}  // namespace pagoda::text::jinja
