// UTF-8 and the few Unicode facts that tokenizers and templates need. Free functions without state.
// Invalid bytes: one U+FFFD per maximal subpart of an ill-formed sequence (Unicode 15, 3.9; what Python's
// errors="replace" and Rust's from_utf8_lossy do).
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace pagoda::text {

inline constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

struct Utf8Step {
  char32_t code_point = 0;  // U+FFFD when !valid
  int length = 0;           // bytes to go on by; at least 1
  bool valid = false;
  bool truncated = false;   // !valid, and more bytes could have made it valid: the text ended too early
};
// `position` is less than text.size().
Utf8Step DecodeUtf8(std::string_view text, size_t position);

void AppendUtf8(char32_t code_point, std::string* out);
bool IsAscii(std::string_view text);
bool IsValidUtf8(std::string_view text);
// A copy in which every ill-formed sequence is U+FFFD; with `each_byte` every byte of it.
std::string ReplaceInvalidUtf8(std::string_view text, bool each_byte = false);
size_t CountCodePoints(std::string_view utf8);

// Normalisation form C of valid UTF-8 as the reference tokenizers do it (see unicode_additions.h), in O(n log n),
// whatever the runs of combining marks are.
std::string ToNfc(std::string_view utf8);

// White_Space of Unicode.
bool IsWhiteSpace(char32_t code_point);
// What Python's str.strip removes: White_Space and U+001C..U+001F.
bool IsPythonSpace(char32_t code_point);
// General category N*.
bool IsNumeric(char32_t code_point);
// General category M*.
bool IsMark(char32_t code_point);
// ASCII punctuation, or general category P* as the reference tokenizers' Punctuation step knows it.
bool IsPunctuation(char32_t code_point);
// \w of Unicode: letters, marks, decimal digits, connectors, joiners.
bool IsWordCharacter(char32_t code_point);

// str.isprintable() of one character.
bool IsPrintable(char32_t code_point);

std::string ToUpper(std::string_view utf8);
std::string ToLower(std::string_view utf8);
// str.title(): the first letter of each run of cased letters in title case, the others in lower case.
std::string ToTitle(std::string_view utf8);
// str.capitalize(): the first character in title case, the rest in lower case.
std::string Capitalize(std::string_view utf8);

}  // namespace pagoda::text
