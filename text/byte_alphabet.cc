#include "text/byte_alphabet.h"

#include <array>

#include "text/unicode.h"

namespace pagoda::text {
namespace {

struct Alphabet {
  std::array<std::string, 256> characters;
  std::array<int, 512> bytes;  // by code point

  Alphabet() {
    bytes.fill(-1);
    char32_t next = 256;
    for (int byte = 0; byte < 256; ++byte) {
      const bool visible = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) ||
                           (byte >= 174 && byte <= 255);
      const char32_t code_point = visible ? static_cast<char32_t>(byte) : next++;
      AppendUtf8(code_point, &characters[byte]);
      bytes[code_point] = byte;
    }
  }
};

const Alphabet& TheAlphabet() {
  static const Alphabet alphabet;
  return alphabet;
}

}  // namespace

std::string_view ByteCharacter(unsigned char byte) { return TheAlphabet().characters[byte]; }

std::optional<std::string> BytesOfAlphabet(std::string_view text) {
  const Alphabet& alphabet = TheAlphabet();
  std::string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size();) {
    const Utf8Step step = DecodeUtf8(text, i);
    if (!step.valid || step.code_point >= alphabet.bytes.size()) return std::nullopt;
    const int byte = alphabet.bytes[step.code_point];
    if (byte < 0) return std::nullopt;
    out += static_cast<char>(byte);
    i += step.length;
  }
  return out;
}

std::string ToAlphabet(std::string_view bytes) {
  std::string out;
  out.reserve(bytes.size() * 2);
  for (char c : bytes) out += ByteCharacter(static_cast<unsigned char>(c));
  return out;
}

}  // namespace pagoda::text
