// What Unicode 16 has and the libraries' Unicode 14 does not: general categories of the newer characters.
#pragma once

#include <span>

namespace pagoda::text {

struct CategoryRange {
  char32_t first;
  char32_t last;
  const char* category;  // "Lu"
};
// Ascending, disjoint.
std::span<const CategoryRange> AddedCategories();
// The category that Unicode 16 gave to `code_point`, null when Unicode 14 knew it already (or nobody does).
const char* AddedCategory(char32_t code_point);

}  // namespace pagoda::text
