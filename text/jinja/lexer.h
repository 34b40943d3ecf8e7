// Cuts a template into tokens, with the white-space rules of Jinja2 under trim_blocks and lstrip_blocks (what
// transformers sets). Source: jinja2 3.1, lexer.py.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "common/status.h"

namespace pagoda::text::jinja {

enum class TokenKind : uint8_t {
  kText,           // text outside of tags
  kBlockBegin,     // {%
  kBlockEnd,       // %}
  kVariableBegin,  // {{
  kVariableEnd,    // }}
  kName,
  kString,         // text: unescaped
  kInteger,
  kFloat,
  kOperator,       // text: "+", "//", "==", ...
  kEnd,
};

struct LexToken {
  TokenKind kind = TokenKind::kEnd;
  std::string text;
  int line = 0;
  int column = 0;  // in bytes, from 1
};

// Throws TemplateError with line and column. The last token is kEnd.
std::vector<LexToken> Lex(std::string_view source);

}  // namespace pagoda::text::jinja
