// Python's string operations on UTF-8, for methods and filters.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace pagoda::text::jinja {

// Without `characters`: white space.
std::string_view StripLeft(std::string_view text, std::optional<std::string_view> characters);
std::string_view StripRight(std::string_view text, std::optional<std::string_view> characters);
std::string ReplaceAll(std::string_view text, std::string_view from, std::string_view to, int64_t count);
// str.split; without `separator`: at runs of white space.
std::vector<std::string_view> Split(std::string_view text, std::optional<std::string_view> separator,
                                    int64_t most, bool from_right);
std::vector<std::string_view> SplitLines(std::string_view text, bool keep_ends);
// jinja2's title filter: words begin after spaces, hyphens and opening brackets.
std::string TitleFilter(std::string_view text);

}  // namespace pagoda::text::jinja
