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

// The reference tokenizers carry tables of several ages, and a vocabulary was trained with theirs. True for a character
// that begins a new stretch in their normalisation form C: marks that Unicode 10 and later brought, which do not
// reorder or compose there (and U+11930, whose composition they do not know).
bool IsUnknownToReferenceNfc(char32_t code_point);
// Punctuation that their Punctuation step does not take for it (its table is of Unicode 8).
bool IsUnknownReferencePunctuation(char32_t code_point);

}  // namespace pagoda::text
