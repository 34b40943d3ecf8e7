#include "common/hex.h"

#include <charconv>

namespace pagoda {

static constexpr char kDigits[] = "0123456789abcdef";

std::string HexEncode(std::span<const uint8_t> bytes) {
  std::string text;
  text.reserve(bytes.size() * 2);
  for (uint8_t byte : bytes) {
    text.push_back(kDigits[byte >> 4]);
    text.push_back(kDigits[byte & 15]);
  }
  return text;
}

std::string HexEncode64(uint64_t value) {
  std::string text(16, '0');
  for (int i = 15; i >= 0; --i, value >>= 4) text[i] = kDigits[value & 15];
  return text;
}

bool HexDecode64(std::string_view text, uint64_t& value) {
  if (text.size() != 16) return false;
  const auto [end, error] = std::from_chars(text.data(), text.data() + 16, value, 16);
  return error == std::errc() && end == text.data() + 16;
}

}  // namespace pagoda
