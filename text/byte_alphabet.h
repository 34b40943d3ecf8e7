// GPT-2's alphabet: each byte as one visible character ("Ġ" is the space). Source: openai/gpt-2, encoder.py.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace pagoda::text {

// The character for each byte, as UTF-8.
std::string_view ByteCharacter(unsigned char byte);
// The bytes that a text over the alphabet stands for; nothing when a character is not of the alphabet.
std::optional<std::string> BytesOfAlphabet(std::string_view text);
std::string ToAlphabet(std::string_view bytes);

}  // namespace pagoda::text
