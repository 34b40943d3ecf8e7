#include "text/jinja/parser.h"

#include <algorithm>
#include <initializer_list>

#include "text/jinja/expression_parser.h"
#include "text/jinja/lexer.h"

namespace pagoda::text::jinja {
namespace {

using StatementPtr = std::unique_ptr<Statement>;

class StatementParser {
 public:
  explicit StatementParser(std::vector<LexToken> tokens)
      : stream_(std::move(tokens)), expressions_(&stream_) {}

  Block Run() {
    Block out = ParseBlock({});
    if (stream_.current().kind != TokenKind::kEnd) stream_.Error("expected a tag");
    return out;
  }

 private:
  using EndTags = std::initializer_list<std::string_view>;

  StatementPtr Make(StatementKind kind) {
    auto out = std::make_unique<Statement>();
    out->kind = kind;
    out->line = stream_.current().line;
    return out;
  }

  // Up to a tag of `ends`, whose name is then the current token; up to the end of the template when there are none.
  Block ParseBlock(EndTags ends) {
    const TokenStream::Level level(&stream_);
    Block out;
    while (true) {
      switch (stream_.current().kind) {
        case TokenKind::kText: {
          auto text = Make(StatementKind::kText);
          text->text = stream_.Next().text;
          out.push_back(std::move(text));
          break;
        }
        case TokenKind::kVariableBegin: {
          stream_.Next();
          auto output = Make(StatementKind::kOutput);
          output->value = expressions_.ParseTuple();
          stream_.Expect(TokenKind::kVariableEnd, "}}");
          out.push_back(std::move(output));
          break;
        }
        case TokenKind::kBlockBegin: {
          stream_.Next();
          if (std::any_of(ends.begin(), ends.end(),
                          [&](std::string_view end) { return stream_.IsName(end); })) {
            return out;
          }
          out.push_back(ParseStatement());
          stream_.Expect(TokenKind::kBlockEnd, "%}");
          break;
        }
        default:
          if (ends.size() > 0) stream_.Error("a block is not closed");
          return out;
      }
    }
  }

  // The end of the opening tag, the body, and the name of the closing one.
  Block ParseBody(EndTags ends, std::string* end = nullptr) {
    stream_.SkipOperator(":");
    stream_.Expect(TokenKind::kBlockEnd, "%}");
    Block out = ParseBlock(ends);
    const std::string name = stream_.Next().text;
    if (end != nullptr) *end = name;
    return out;
  }

  StatementPtr ParseStatement() {
    const TokenStream::Level level(&stream_);
    if (stream_.SkipName("for")) return ParseFor();
    if (stream_.SkipName("if")) return ParseIf();
    if (stream_.SkipName("set")) return ParseSet();
    if (stream_.SkipName("macro")) return ParseMacro();
    if (stream_.SkipName("call")) return ParseCallBlock();
    if (stream_.SkipName("filter")) return ParseFilterBlock();
    if (stream_.SkipName("with")) return ParseWith();
    if (stream_.SkipName("generation")) return ParseScope("endgeneration");
    if (stream_.SkipName("block")) {
      stream_.ExpectName();
      stream_.SkipName("scoped");
      auto out = ParseScope("endblock");
      if (stream_.current().kind == TokenKind::kName) stream_.Next();
      return out;
    }
    if (stream_.IsName("break") || stream_.IsName("continue")) {
      if (loops_ == 0) stream_.Error("break and continue belong in a loop");
      auto out = Make(stream_.IsName("break") ? StatementKind::kBreak : StatementKind::kContinue);
      stream_.Next();
      return out;
    }
    stream_.Error("this tag is not known or not supported");
  }

  StatementPtr ParseScope(std::string_view end) {
    auto out = Make(StatementKind::kScope);
    const int loops = std::exchange(loops_, 0);
    out->body = ParseBody({end});
    loops_ = loops;
    return out;
  }

  StatementPtr ParseFor() {
    auto out = Make(StatementKind::kFor);
    out->target = ParseTargets(false);
    if (!stream_.SkipName("in")) stream_.Error("expected 'in'");
    out->value = expressions_.ParseTuple(false);
    if (stream_.SkipName("if")) out->condition = expressions_.Parse();
    if (stream_.IsName("recursive")) stream_.Error("recursive loops are not supported");
    std::string end;
    ++loops_;
    out->body = ParseBody({"endfor", "else"}, &end);
    --loops_;
    if (end == "else") out->otherwise = ParseBody({"endfor"});
    return out;
  }

  // A chain of elif is a list of nested ifs, made without recursion.
  StatementPtr ParseIf() {
    auto root = Make(StatementKind::kIf);
    Statement* last = root.get();
    int branches = 0;
    while (true) {
      last->value = expressions_.ParseTuple(false);
      std::string end;
      last->body = ParseBody({"elif", "else", "endif"}, &end);
      if (end == "endif") return root;
      if (end == "else") {
        last->otherwise = ParseBody({"endif"});
        return root;
      }
      if (++branches > 2 * kMaxNesting) stream_.Error("too many elif branches");
      auto next = Make(StatementKind::kIf);
      Statement* pointer = next.get();
      last->otherwise.push_back(std::move(next));
      last = pointer;
    }
  }

  StatementPtr ParseSet() {
    auto out = Make(StatementKind::kSet);
    out->target = ParseTargets(true);
    if (stream_.SkipOperator("=")) {
      out->value = expressions_.ParseTuple();
      return out;
    }
    out->kind = StatementKind::kSetBlock;
    if (stream_.IsOperator("|")) out->value = expressions_.ParseFilters(nullptr, false);
    const int loops = std::exchange(loops_, 0);
    out->body = ParseBody({"endset"});
    loops_ = loops;
    return out;
  }

  Target ParseTarget(bool with_attributes) {
    const TokenStream::Level level(&stream_);
    Target out;
    if (stream_.SkipOperator("(")) {
      out = ParseTargets(with_attributes);
      stream_.ExpectOperator(")");
      return out;
    }
    out.name = stream_.ExpectName();
    static constexpr std::string_view kConstants[] = {"true", "false", "none", "True", "False", "None"};
    if (std::find(std::begin(kConstants), std::end(kConstants), out.name) != std::end(kConstants)) {
      stream_.Error(absl::StrCat("cannot assign to ", out.name));
    }
    if (with_attributes && stream_.SkipOperator(".")) {
      out.attribute = stream_.ExpectName();
      stream_.SawName(out.name);
    }
    return out;
  }

  Target ParseTargets(bool with_attributes) {
    Target first = ParseTarget(with_attributes);
    if (!stream_.IsOperator(",")) return first;
    Target out;
    out.parts.push_back(std::move(first));
    while (stream_.SkipOperator(",")) {
      if (stream_.IsName("in") || stream_.IsOperator("=") || stream_.IsOperator(")")) break;
      out.parts.push_back(ParseTarget(with_attributes));
    }
    return out;
  }

  void ParseParameters(Macro* macro) {
    stream_.ExpectOperator("(");
    while (!stream_.IsOperator(")")) {
      if (!macro->parameters.empty()) stream_.ExpectOperator(",");
      Parameter parameter;
      parameter.name = stream_.ExpectName();
      if (stream_.SkipOperator("=")) {
        parameter.fallback = expressions_.Parse();
      } else if (!macro->parameters.empty() && macro->parameters.back().fallback != nullptr) {
        stream_.Error("a parameter without a default follows one with a default");
      }
      macro->parameters.push_back(std::move(parameter));
    }
    stream_.ExpectOperator(")");
  }

  void ParseMacroBody(Macro* macro, std::string_view end) {
    stream_.open_macros.push_back(macro);
    const int loops = std::exchange(loops_, 0);
    macro->body = ParseBody({end});
    loops_ = loops;
    stream_.open_macros.pop_back();
  }

  StatementPtr ParseMacro() {
    auto out = Make(StatementKind::kMacro);
    out->macro = std::make_unique<Macro>();
    out->macro->name = stream_.ExpectName();
    ParseParameters(out->macro.get());
    ParseMacroBody(out->macro.get(), "endmacro");
    return out;
  }

  StatementPtr ParseCallBlock() {
    auto out = Make(StatementKind::kCallBlock);
    out->macro = std::make_unique<Macro>();
    out->macro->name = "caller";
    if (stream_.IsOperator("(")) ParseParameters(out->macro.get());
    out->value = expressions_.Parse();
    if (out->value->kind != ExpressionKind::kCall) stream_.Error("expected a call");
    ParseMacroBody(out->macro.get(), "endcall");
    return out;
  }

  StatementPtr ParseFilterBlock() {
    auto out = Make(StatementKind::kFilterBlock);
    out->value = expressions_.ParseFilters(nullptr, true);
    const int loops = std::exchange(loops_, 0);
    out->body = ParseBody({"endfilter"});
    loops_ = loops;
    return out;
  }

  StatementPtr ParseWith() {
    auto out = Make(StatementKind::kWith);
    while (stream_.current().kind != TokenKind::kBlockEnd) {
      if (!out->assignments.empty()) stream_.ExpectOperator(",");
      Target target = ParseTarget(false);
      stream_.ExpectOperator("=");
      out->assignments.emplace_back(std::move(target), expressions_.Parse());
    }
    out->body = ParseBody({"endwith"});
    return out;
  }

  TokenStream stream_;
  ExpressionParser expressions_;
  int loops_ = 0;
};

}  // namespace

Block ParseTemplate(std::string_view source) { return StatementParser(Lex(source)).Run(); }

}  // namespace pagoda::text::jinja
