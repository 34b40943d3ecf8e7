#include "text/tokenizer.h"

#include "text/unicode.h"

namespace pagoda::text {

std::string Tokenizer::Decode(std::span<const TokenId> tokens, bool skip_special) const {
  std::string bytes;
  bool first = true;
  for (const TokenId token : tokens) {
    if (skip_special && IsSpecial(token)) continue;
    std::string_view piece = TokenBytes(token);
    if (first && !IsSpecial(token)) {
      if (StripsLeadingSpace(token) && piece.starts_with(' ')) piece.remove_prefix(1);
      first = false;
    }
    bytes += piece;
  }
  return IsValidUtf8(bytes) ? bytes : ReplaceInvalidUtf8(bytes, ReplacesEachByte());
}

}  // namespace pagoda::text
