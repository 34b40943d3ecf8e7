#include "text/jinja/lexer.h"

#include <algorithm>

#include "text/jinja/value.h"
#include "text/unicode.h"

namespace pagoda::text::jinja {
namespace {

constexpr size_t kMaxTokens = 1'000'000;

bool IsDigit(char c) { return c >= '0' && c <= '9'; }
bool IsNameStart(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' ||
         static_cast<unsigned char>(c) >= 0x80;
}
bool IsNamePart(char c) { return IsNameStart(c) || IsDigit(c); }

// \r\n and \r become \n, and one newline at the very end goes away, as Jinja2 does.
std::string NormalizeNewlines(std::string_view source) {
  std::string out;
  out.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] == '\r') {
      out += '\n';
      if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
    } else {
      out += source[i];
    }
  }
  if (out.ends_with('\n')) out.pop_back();
  return out;
}

size_t TrimmedEnd(std::string_view text) {
  size_t end = text.size();
  while (end > 0) {
    size_t begin = end - 1;
    while (begin > 0 && (static_cast<unsigned char>(text[begin]) & 0xC0) == 0x80) --begin;
    if (!IsPythonSpace(DecodeUtf8(text, begin).code_point)) break;
    end = begin;
  }
  return end;
}

class Lexer {
 public:
  explicit Lexer(std::string_view source) : text_(NormalizeNewlines(source)) {}

  std::vector<LexToken> Run() {
    while (position_ < text_.size()) Data();
    Push(TokenKind::kEnd, "");
    return std::move(tokens_);
  }

 private:
  [[noreturn]] void Error(std::string_view what, size_t at) const {
    const auto [line, column] = Place(at);
    Fail(absl::StrCat("the chat template has a syntax error at line ", line, ", column ", column,
                      ": ", AsAbsl(what)));
  }

  std::pair<int, int> Place(size_t at) const {
    const std::string_view before = std::string_view(text_).substr(0, at);
    const auto line = 1 + std::count(before.begin(), before.end(), '\n');
    const size_t start = before.rfind('\n');
    const size_t column = at - (start == std::string_view::npos ? 0 : start + 1) + 1;
    return {static_cast<int>(line), static_cast<int>(column)};
  }

  void Push(TokenKind kind, std::string text) {
    if (tokens_.size() >= kMaxTokens) Error("the template is too long", position_);
    while (counted_ < position_) {
      if (text_[counted_] == '\n') {
        ++line_;
        line_start_ = counted_ + 1;
      }
      ++counted_;
    }
    tokens_.push_back({kind, std::move(text), line_, static_cast<int>(position_ - line_start_ + 1)});
  }

  bool At(std::string_view what) const {
    return std::string_view(text_).substr(position_, what.size()) == what;
  }

  size_t SkipSpace(size_t at) const {
    while (at < text_.size()) {
      const Utf8Step step = DecodeUtf8(text_, at);
      if (!IsPythonSpace(step.code_point)) break;
      at += step.length;
    }
    return at;
  }

  // The text up to the next tag, and the tag.
  void Data() {
    size_t tag = position_;
    while (true) {
      tag = text_.find('{', tag);
      if (tag == std::string::npos || tag + 1 >= text_.size()) {
        tag = text_.size();
        break;
      }
      const char next = text_[tag + 1];
      if (next == '%' || next == '{' || next == '#') break;
      ++tag;
    }
    std::string_view data = std::string_view(text_).substr(position_, tag - position_);
    if (tag >= text_.size()) {
      if (!data.empty()) Push(TokenKind::kText, std::string(data));
      position_ = text_.size();
      return;
    }
    const char kind = text_[tag + 1];
    const char sign = tag + 2 < text_.size() ? text_[tag + 2] : '\0';
    if (sign == '-') {
      data = data.substr(0, TrimmedEnd(data));
    } else if (sign != '+' && kind != '{') {
      const size_t newline = data.rfind('\n');
      const size_t start = newline == std::string_view::npos ? 0 : newline + 1;
      if ((start > 0 || line_starting_) && TrimmedEnd(data.substr(start)) == 0) {
        data = data.substr(0, start);
      }
    }
    if (!data.empty()) Push(TokenKind::kText, std::string(data));
    position_ = tag;
    const size_t body = tag + 2 + (sign == '-' || sign == '+' ? 1 : 0);
    if (kind == '#') return Comment(body);
    if (kind == '%' && Raw(body)) return;
    Push(kind == '%' ? TokenKind::kBlockBegin : TokenKind::kVariableBegin, "");
    position_ = body;
    Code(kind == '%');
  }

  // After the end of a tag at `end`: what the sign and trim_blocks take away.
  void FinishTag(size_t end, char sign, bool trims) {
    position_ = end;
    if (sign == '-') {
      position_ = SkipSpace(end);
    } else if (sign != '+' && trims && position_ < text_.size() && text_[position_] == '\n') {
      ++position_;
    }
    line_starting_ = position_ > 0 && text_[position_ - 1] == '\n';
  }

  void Comment(size_t body) {
    const size_t end = text_.find("#}", body);
    if (end == std::string::npos) Error("a comment is not closed", position_);
    FinishTag(end + 2, end > body ? text_[end - 1] : '\0', true);
  }

  // {% raw %} ... {% endraw %}; false when this tag is another.
  bool Raw(size_t body) {
    size_t at = SkipSpace(body);
    if (std::string_view(text_).substr(at, 3) != "raw") return false;
    at = SkipSpace(at + 3);
    const bool strips = at < text_.size() && text_[at] == '-';
    if (strips) ++at;
    if (std::string_view(text_).substr(at, 2) != "%}") return false;
    size_t begin = at + 2;
    if (strips) begin = SkipSpace(begin);
    for (size_t open = text_.find("{%", begin); open != std::string::npos;
         open = text_.find("{%", open + 2)) {
      size_t inside = open + 2;
      const char sign = inside < text_.size() ? text_[inside] : '\0';
      if (sign == '-' || sign == '+') ++inside;
      inside = SkipSpace(inside);
      if (std::string_view(text_).substr(inside, 6) != "endraw") continue;
      size_t end = SkipSpace(inside + 6);
      const char close = end < text_.size() ? text_[end] : '\0';
      if (close == '-' || close == '+') ++end;
      if (std::string_view(text_).substr(end, 2) != "%}") continue;
      std::string_view data = std::string_view(text_).substr(begin, open - begin);
      if (sign == '-') {
        data = data.substr(0, TrimmedEnd(data));
      } else if (sign != '+') {
        const size_t newline = data.rfind('\n');
        const size_t start = newline == std::string_view::npos ? 0 : newline + 1;
        if (start > 0 && TrimmedEnd(data.substr(start)) == 0) data = data.substr(0, start);
      }
      if (!data.empty()) Push(TokenKind::kText, std::string(data));
      FinishTag(end + 2, close, true);
      return true;
    }
    Error("{% raw %} is not closed", position_);
  }

  // The inside of a tag up to its end.
  void Code(bool block) {
    std::string brackets;  // open ones
    const size_t opened = position_;
    while (true) {
      position_ = SkipSpace(position_);
      if (position_ >= text_.size()) Error("a tag is not closed", opened);
      if (brackets.empty() && TagEnd(block)) return;
      const char c = text_[position_];
      if (IsDigit(c)) {
        Number();
      } else if (IsNameStart(c)) {
        size_t end = position_;
        while (end < text_.size() && IsNamePart(text_[end])) ++end;
        Push(TokenKind::kName, text_.substr(position_, end - position_));
        position_ = end;
      } else if (c == '\'' || c == '"') {
        String(c);
      } else {
        Operator(&brackets);
      }
    }
  }

  bool TagEnd(bool block) {
    const std::string_view close = block ? "%}" : "}}";
    char sign = '\0';
    size_t at = position_;
    if (text_[at] == '-' || (block && text_[at] == '+')) sign = text_[at++];
    if (std::string_view(text_).substr(at, 2) != close) return false;
    Push(block ? TokenKind::kBlockEnd : TokenKind::kVariableEnd, "");
    FinishTag(at + 2, sign, block);
    return true;
  }

  size_t Digits(size_t at) const {
    while (at < text_.size() &&
           (IsDigit(text_[at]) || (text_[at] == '_' && at + 1 < text_.size() && IsDigit(text_[at + 1])))) {
      ++at;
    }
    return at;
  }

  void Number() {
    size_t end = Digits(position_);
    bool is_float = false;
    if (end + 1 < text_.size() && text_[end] == '.' && IsDigit(text_[end + 1])) {
      is_float = true;
      end = Digits(end + 1);
    }
    if (end < text_.size() && (text_[end] == 'e' || text_[end] == 'E')) {
      size_t exponent = end + 1;
      if (exponent < text_.size() && (text_[exponent] == '+' || text_[exponent] == '-')) ++exponent;
      if (exponent < text_.size() && IsDigit(text_[exponent])) {
        is_float = true;
        end = Digits(exponent);
      }
    }
    std::string digits = text_.substr(position_, end - position_);
    std::erase(digits, '_');
    Push(is_float ? TokenKind::kFloat : TokenKind::kInteger, std::move(digits));
    position_ = end;
  }

  void String(char quote) {
    std::string out;
    size_t at = position_ + 1;
    while (at < text_.size() && text_[at] != quote) {
      if (text_[at] == '\\' && at + 1 < text_.size()) {
        at = Unescape(at + 1, &out);
      } else {
        out += text_[at++];
      }
    }
    if (at >= text_.size()) Error("a string is not closed", position_);
    Push(TokenKind::kString, std::move(out));
    position_ = at + 1;
  }

  // Python's unicode-escape; returns the position after it.
  size_t Unescape(size_t at, std::string* out) {
    const char c = text_[at];
    static constexpr std::string_view kFrom = "\\'\"abfnrtv", kTo = "\\'\"\a\b\f\n\r\t\v";
    if (const size_t simple = kFrom.find(c); simple != std::string_view::npos) {
      *out += kTo[simple];
      return at + 1;
    }
    if (c == '\n') return at + 1;
    if (c >= '0' && c <= '7') {
      uint32_t value = 0;
      size_t end = at;
      while (end < text_.size() && end < at + 3 && text_[end] >= '0' && text_[end] <= '7') {
        value = value * 8 + static_cast<uint32_t>(text_[end++] - '0');
      }
      AppendUtf8(value, out);
      return end;
    }
    const size_t digits = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
    if (digits == 0) {
      *out += '\\';
      return at;
    }
    uint32_t value = 0;
    for (size_t i = at + 1; i <= at + digits; ++i) {
      const char h = i < text_.size() ? text_[i] : '\0';
      const int digit = IsDigit(h) ? h - '0' : h >= 'a' && h <= 'f' ? h - 'a' + 10
                                           : h >= 'A' && h <= 'F' ? h - 'A' + 10 : -1;
      if (digit < 0) Error("a \\x or \\u escape is cut short", at);
      value = value * 16 + static_cast<uint32_t>(digit);
    }
    const bool surrogate = value >= 0xD800 && value <= 0xDFFF;
    AppendUtf8(value > 0x10FFFF || surrogate ? 0xFFFD : value, out);
    return at + 1 + digits;
  }

  void Operator(std::string* brackets) {
    static constexpr std::string_view kTwo[] = {"//", "**", "==", "!=", "<=", ">="};
    for (std::string_view two : kTwo) {
      if (At(two)) {
        Push(TokenKind::kOperator, std::string(two));
        position_ += 2;
        return;
      }
    }
    const char c = text_[position_];
    if (std::string_view("+-*/%~<>=.:|,;()[]{}").find(c) == std::string_view::npos) {
      Error(absl::StrCat("unexpected character '", std::string(1, c), "'"), position_);
    }
    if (c == '(' || c == '[' || c == '{') {
      brackets->push_back(c == '(' ? ')' : c == '[' ? ']' : '}');
    } else if (c == ')' || c == ']' || c == '}') {
      if (brackets->empty() || brackets->back() != c) {
        Error(absl::StrCat("unexpected '", std::string(1, c), "'"), position_);
      }
      brackets->pop_back();
    }
    Push(TokenKind::kOperator, std::string(1, c));
    ++position_;
  }

  std::string text_;
  size_t position_ = 0;
  bool line_starting_ = true;
  std::vector<LexToken> tokens_;
  size_t counted_ = 0;  // newlines before here are in line_
  int line_ = 1;
  size_t line_start_ = 0;
};

}  // namespace

std::vector<LexToken> Lex(std::string_view source) { return Lexer(source).Run(); }

}  // namespace pagoda::text::jinja
