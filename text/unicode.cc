#include "text/unicode.h"

#include <utf8proc.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "text/unicode_additions.h"

namespace pagoda::text {
namespace {

bool IsContinuation(unsigned char byte) { return (byte & 0xC0) == 0x80; }

// Decomposes since Unicode 13, which the reference tokenizers do not know.
constexpr char32_t kDivesAkuruVowelO = 0x11938;

// The category of a code point, one letter and one more ("Lu").
const char* Category(char32_t code_point) {
  if (const char* added = AddedCategory(code_point)) return added;
  return utf8proc_category_string(static_cast<utf8proc_int32_t>(code_point));
}

void AppendUpper(char32_t code_point, std::string* out) {
  if (code_point == 0xDF) {
    out->append("SS");
    return;
  }
  AppendUtf8(static_cast<char32_t>(utf8proc_toupper(static_cast<utf8proc_int32_t>(code_point))),
             out);
}

void AppendTitle(char32_t code_point, std::string* out) {
  if (code_point == 0xDF) {
    out->append("Ss");
    return;
  }
  AppendUtf8(static_cast<char32_t>(utf8proc_totitle(static_cast<utf8proc_int32_t>(code_point))),
             out);
}

void AppendLower(char32_t code_point, std::string* out) {
  if (code_point == 0x130) {
    out->append("i\xCC\x87");
    return;
  }
  AppendUtf8(static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(code_point))),
             out);
}

bool IsCased(char32_t code_point) {
  const char* category = Category(code_point);
  return category[0] == 'L' && (category[1] == 'u' || category[1] == 'l' || category[1] == 't');
}

}  // namespace

Utf8Step DecodeUtf8(std::string_view text, size_t position) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char lead = byte(position);
  if (lead < 0x80) return {lead, 1, true, false};
  int needed = 0;
  unsigned char low = 0x80, high = 0xBF;  // of the second byte
  char32_t value = 0;
  if (lead >= 0xC2 && lead <= 0xDF) {
    needed = 1, value = lead & 0x1F;
  } else if (lead >= 0xE0 && lead <= 0xEF) {
    needed = 2, value = lead & 0x0F;
    if (lead == 0xE0) low = 0xA0;
    if (lead == 0xED) high = 0x9F;
  } else if (lead >= 0xF0 && lead <= 0xF4) {
    needed = 3, value = lead & 0x07;
    if (lead == 0xF0) low = 0x90;
    if (lead == 0xF4) high = 0x8F;
  } else {
    return {0xFFFD, 1, false, false};
  }
  for (int i = 1; i <= needed; ++i) {
    if (position + i >= text.size()) return {0xFFFD, i, false, true};
    const unsigned char next = byte(position + i);
    const bool good = i == 1 ? (next >= low && next <= high) : IsContinuation(next);
    if (!good) return {0xFFFD, i, false, false};
    value = (value << 6) | (next & 0x3F);
  }
  return {value, needed + 1, true, false};
}

void AppendUtf8(char32_t code_point, std::string* out) {
  const auto put = [&](uint32_t value) { out->push_back(static_cast<char>(value)); };
  if (code_point < 0x80) {
    put(code_point);
  } else if (code_point < 0x800) {
    put(0xC0 | (code_point >> 6)), put(0x80 | (code_point & 0x3F));
  } else if (code_point < 0x10000) {
    put(0xE0 | (code_point >> 12)), put(0x80 | ((code_point >> 6) & 0x3F));
    put(0x80 | (code_point & 0x3F));
  } else {
    put(0xF0 | (code_point >> 18)), put(0x80 | ((code_point >> 12) & 0x3F));
    put(0x80 | ((code_point >> 6) & 0x3F)), put(0x80 | (code_point & 0x3F));
  }
}

bool IsAscii(std::string_view text) {
  unsigned char all = 0;
  for (char c : text) all |= static_cast<unsigned char>(c);
  return all < 0x80;
}

bool IsValidUtf8(std::string_view text) {
  if (IsAscii(text)) return true;
  for (size_t i = 0; i < text.size();) {
    const Utf8Step step = DecodeUtf8(text, i);
    if (!step.valid) return false;
    i += step.length;
  }
  return true;
}

std::string ReplaceInvalidUtf8(std::string_view text, bool each_byte) {
  std::string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size();) {
    const Utf8Step step = DecodeUtf8(text, i);
    out.append(step.valid ? text.substr(i, step.length) : kReplacement);
    i += !step.valid && each_byte ? 1 : step.length;
  }
  return out;
}

size_t CountCodePoints(std::string_view utf8) {
  size_t count = 0;
  for (char c : utf8) count += !IsContinuation(static_cast<unsigned char>(c));
  return count;
}

std::string ToNfc(std::string_view utf8) {
  // Nothing below U+0300 changes under NFC: its lead bytes are all below 0xCC.
  if (std::all_of(utf8.begin(), utf8.end(),
                  [](char c) { return static_cast<unsigned char>(c) < 0xCC; })) {
    return std::string(utf8);
  }
  std::vector<utf8proc_int32_t> points;
  points.reserve(utf8.size());
  for (size_t i = 0; i < utf8.size();) {
    const Utf8Step step = DecodeUtf8(utf8, i);
    i += step.length;
    utf8proc_int32_t parts[8];
    int last_boundclass = 0;
    if (step.code_point == kDivesAkuruVowelO) {
      points.push_back(static_cast<utf8proc_int32_t>(step.code_point));
      continue;
    }
    const auto count =
        utf8proc_decompose_char(static_cast<utf8proc_int32_t>(step.code_point), parts, 8,
                                static_cast<utf8proc_option_t>(UTF8PROC_DECOMPOSE), &last_boundclass);
    if (count <= 0 || count > 8) {
      points.push_back(static_cast<utf8proc_int32_t>(step.code_point));
    } else {
      points.insert(points.end(), parts, parts + count);
    }
  }
  // Canonical order by a stable sort of each run of marks; utf8proc's own is quadratic.
  const auto combining = [](utf8proc_int32_t point) {
    return IsUnknownToReferenceNfc(static_cast<char32_t>(point))
               ? 0
               : utf8proc_get_property(point)->combining_class;
  };
  for (size_t i = 0; i < points.size();) {
    if (combining(points[i]) == 0) {
      ++i;
      continue;
    }
    size_t end = i + 1;
    while (end < points.size() && combining(points[end]) != 0) ++end;
    std::stable_sort(points.begin() + i, points.begin() + end,
                     [&](auto a, auto b) { return combining(a) < combining(b); });
    i = end;
  }
  std::string out;
  out.reserve(utf8.size());
  for (size_t begin = 0; begin < points.size();) {
    size_t end = begin + 1;
    while (end < points.size() && !IsUnknownToReferenceNfc(static_cast<char32_t>(points[end]))) ++end;
    const auto composed = utf8proc_normalize_utf32(
        points.data() + begin, static_cast<utf8proc_ssize_t>(end - begin),
        static_cast<utf8proc_option_t>(UTF8PROC_COMPOSE | UTF8PROC_STABLE));
    for (utf8proc_ssize_t i = 0; i < composed; ++i) {
      AppendUtf8(static_cast<char32_t>(points[begin + i]), &out);
    }
    begin = end;
  }
  return out;
}

bool IsWhiteSpace(char32_t c) {
  return (c >= 9 && c <= 13) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x3000;
}

bool IsPythonSpace(char32_t c) { return IsWhiteSpace(c) || (c >= 0x1C && c <= 0x1F); }

bool IsNumeric(char32_t code_point) {
  if (code_point < 0x80) return code_point >= '0' && code_point <= '9';
  // Unicode 17 has these, and so does the reference's is_numeric.
  if ((code_point >= 0x11DE0 && code_point <= 0x11DE9) ||
      (code_point >= 0x16FF4 && code_point <= 0x16FF6)) {
    return true;
  }
  return Category(code_point)[0] == 'N';
}

bool IsMark(char32_t code_point) { return Category(code_point)[0] == 'M'; }

bool IsPunctuation(char32_t c) {
  if (c < 0x80) {
    return (c >= 33 && c <= 47) || (c >= 58 && c <= 64) || (c >= 91 && c <= 96) ||
           (c >= 123 && c <= 126);
  }
  if (c == 0x166D || c == 0x111C9) return true;  // were punctuation once
  return Category(c)[0] == 'P' && !IsUnknownReferencePunctuation(c);
}

bool IsWordCharacter(char32_t c) {
  if (c == 0x200C || c == 0x200D) return true;
  // Letters in circles and squares are alphabetic, though their category is So.
  if ((c >= 0x24B6 && c <= 0x24E9) || (c >= 0x1F130 && c <= 0x1F149) ||
      (c >= 0x1F150 && c <= 0x1F169) || (c >= 0x1F170 && c <= 0x1F189)) {
    return true;
  }
  const char* category = Category(c);
  if (category[0] == 'L' || category[0] == 'M') return true;
  if (category[0] == 'N') return category[1] == 'd' || category[1] == 'l';
  return category[0] == 'P' && category[1] == 'c';
}

bool IsPrintable(char32_t c) {
  if (c < 0x7F) return c >= 0x20;
  const char* category = utf8proc_category_string(static_cast<utf8proc_int32_t>(c));
  return category[0] != 'C' && category[0] != 'Z';
}

std::string ToUpper(std::string_view utf8) {
  std::string out;
  out.reserve(utf8.size());
  for (size_t i = 0; i < utf8.size();) {
    const Utf8Step step = DecodeUtf8(utf8, i);
    AppendUpper(step.code_point, &out);
    i += step.length;
  }
  return out;
}

std::string ToLower(std::string_view utf8) {
  std::string out;
  out.reserve(utf8.size());
  for (size_t i = 0; i < utf8.size();) {
    const Utf8Step step = DecodeUtf8(utf8, i);
    AppendLower(step.code_point, &out);
    i += step.length;
  }
  return out;
}

std::string ToTitle(std::string_view utf8) {
  std::string out;
  out.reserve(utf8.size());
  bool inside_word = false;
  for (size_t i = 0; i < utf8.size();) {
    const Utf8Step step = DecodeUtf8(utf8, i);
    if (inside_word) {
      AppendLower(step.code_point, &out);
    } else {
      AppendTitle(step.code_point, &out);
    }
    inside_word = IsCased(step.code_point);
    i += step.length;
  }
  return out;
}

std::string Capitalize(std::string_view utf8) {
  if (utf8.empty()) return {};
  const Utf8Step step = DecodeUtf8(utf8, 0);
  std::string out;
  AppendTitle(step.code_point, &out);
  out += ToLower(utf8.substr(step.length));
  return out;
}

}  // namespace pagoda::text
