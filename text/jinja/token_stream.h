// What both halves of the parser read from: the tokens, and how deep they are.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "text/jinja/ast.h"
#include "text/jinja/lexer.h"

namespace pagoda::text::jinja {

inline constexpr int kMaxNesting = 100;  // of expressions and of statements, while parsing
inline constexpr int kMaxHeight = 300;   // of an expression's tree

class TokenStream {
 public:
  explicit TokenStream(std::vector<LexToken> tokens) : tokens_(std::move(tokens)) {}

  const LexToken& current() const { return tokens_[position_]; }
  const LexToken& Peek() const {
    return tokens_[position_ + 1 < tokens_.size() ? position_ + 1 : position_];
  }
  LexToken Next() { return position_ + 1 < tokens_.size() ? tokens_[position_++] : tokens_.back(); }

  bool IsOperator(std::string_view text) const {
    return current().kind == TokenKind::kOperator && current().text == text;
  }
  bool IsName(std::string_view text) const {
    return current().kind == TokenKind::kName && current().text == text;
  }
  bool SkipOperator(std::string_view text) {
    if (!IsOperator(text)) return false;
    Next();
    return true;
  }
  bool SkipName(std::string_view text) {
    if (!IsName(text)) return false;
    Next();
    return true;
  }
  void ExpectOperator(std::string_view text) {
    if (!SkipOperator(text)) Error(absl::StrCat("expected '", AsAbsl(text), "'"));
  }
  std::string ExpectName() {
    if (current().kind != TokenKind::kName) Error("expected a name");
    return Next().text;
  }
  void Expect(TokenKind kind, std::string_view what) {
    if (current().kind != kind) Error(absl::StrCat("expected ", AsAbsl(what)));
    Next();
  }
  [[noreturn]] void Error(std::string_view what) const {
    const LexToken& token = current();
    std::string found = token.kind == TokenKind::kEnd        ? "the end of the template"
                        : token.kind == TokenKind::kBlockEnd ? "%}"
                        : token.kind == TokenKind::kVariableEnd
                            ? "}}"
                            : absl::StrCat("'", token.text.substr(0, 40), "'");
    Fail(absl::StrCat("the chat template has a syntax error at line ", token.line, ", column ",
                      token.column, ": ", AsAbsl(what), ", found ", found));
  }

  // Counts one level of nesting for as long as it lives.
  class Level {
   public:
    explicit Level(TokenStream* stream) : stream_(stream) {
      if (++stream_->nesting_ > kMaxNesting) stream_->Error("the template is nested too deeply");
    }
    ~Level() { --stream_->nesting_; }
    Level(const Level&) = delete;

   private:
    TokenStream* stream_;
  };

  // Names that were read since a macro's body began: does it use varargs, kwargs, caller?
  std::vector<Macro*> open_macros;
  void SawName(std::string_view name) {
    if (open_macros.empty()) return;
    Macro* macro = open_macros.back();
    macro->uses_varargs |= name == "varargs";
    macro->uses_kwargs |= name == "kwargs";
    macro->uses_caller |= name == "caller";
  }

 private:
  std::vector<LexToken> tokens_;
  size_t position_ = 0;
  int nesting_ = 0;
};

}  // namespace pagoda::text::jinja
