// Hexadecimal text of bytes and numbers.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace pagoda {

std::string HexEncode(std::span<const uint8_t> bytes);
std::string HexEncode64(uint64_t value);  // 16 digits
// False when `text` is not exactly 16 hexadecimal digits.
bool HexDecode64(std::string_view text, uint64_t& value);

}  // namespace pagoda
