#include "text/unicode_additions.h"

#include <algorithm>
#include <iterator>

namespace pagoda::text {
namespace {

constexpr CategoryRange kAdded[] = {
#include "text/unicode_additions.inc"
};

}  // namespace

std::span<const CategoryRange> AddedCategories() { return kAdded; }

const char* AddedCategory(char32_t code_point) {
  const auto* range =
      std::lower_bound(std::begin(kAdded), std::end(kAdded), code_point,
                       [](const CategoryRange& item, char32_t point) { return item.last < point; });
  if (range == std::end(kAdded) || code_point < range->first) return nullptr;
  return range->category;
}

}  // namespace pagoda::text
