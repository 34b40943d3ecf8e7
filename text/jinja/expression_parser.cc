#include "text/jinja/expression_parser.h"

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <optional>

namespace pagoda::text::jinja {
namespace {

std::optional<Operator> CompareOperator(const LexToken& token) {
  if (token.kind == TokenKind::kName && token.text == "in") return Operator::kIn;
  if (token.kind != TokenKind::kOperator) return std::nullopt;
  if (token.text == "==") return Operator::kEqual;
  if (token.text == "!=") return Operator::kNotEqual;
  if (token.text == "<") return Operator::kLess;
  if (token.text == "<=") return Operator::kLessEqual;
  if (token.text == ">") return Operator::kGreater;
  if (token.text == ">=") return Operator::kGreaterEqual;
  return std::nullopt;
}

}  // namespace

ExpressionPtr ExpressionParser::Make(ExpressionKind kind) {
  auto out = std::make_unique<Expression>();
  out->kind = kind;
  out->line = stream_.current().line;
  return out;
}

ExpressionPtr ExpressionParser::Finish(ExpressionPtr expression) {
  int height = 0;
  for (const auto& operand : expression->operands) {
    if (operand != nullptr) height = std::max(height, operand->height);
  }
  for (const auto& argument : expression->arguments) {
    height = std::max(height, argument.value->height);
  }
  expression->height = height + 1;
  if (expression->height > kMaxHeight) stream_.Error("the expression is nested too deeply");
  return expression;
}

ExpressionPtr ExpressionParser::Parse(bool with_conditional) {
  const TokenStream::Level level(&stream_);
  ExpressionPtr value = ParseOr();
  while (with_conditional && stream_.SkipName("if")) {
    auto out = Make(ExpressionKind::kConditional);
    out->operands.push_back(std::move(value));
    out->operands.push_back(ParseOr());
    out->operands.push_back(stream_.SkipName("else") ? Parse() : nullptr);
    value = Finish(std::move(out));
  }
  return value;
}

bool ExpressionParser::AtTupleEnd() const {
  const LexToken& token = stream_.current();
  return token.kind == TokenKind::kBlockEnd || token.kind == TokenKind::kVariableEnd ||
         stream_.IsOperator(")") || stream_.IsName("in");
}

ExpressionPtr ExpressionParser::ParseTuple(bool with_conditional) {
  ExpressionPtr first = Parse(with_conditional);
  if (!stream_.IsOperator(",")) return first;
  auto out = Make(ExpressionKind::kTuple);
  out->operands.push_back(std::move(first));
  while (stream_.SkipOperator(",")) {
    if (AtTupleEnd()) break;
    out->operands.push_back(Parse(with_conditional));
  }
  return Finish(std::move(out));
}

ExpressionPtr ExpressionParser::ParseOr() {
  ExpressionPtr left = ParseAnd();
  if (!stream_.IsName("or")) return left;
  auto out = Make(ExpressionKind::kOr);
  out->operands.push_back(std::move(left));
  while (stream_.SkipName("or")) out->operands.push_back(ParseAnd());
  return Finish(std::move(out));
}

ExpressionPtr ExpressionParser::ParseAnd() {
  ExpressionPtr left = ParseNot();
  if (!stream_.IsName("and")) return left;
  auto out = Make(ExpressionKind::kAnd);
  out->operands.push_back(std::move(left));
  while (stream_.SkipName("and")) out->operands.push_back(ParseNot());
  return Finish(std::move(out));
}

ExpressionPtr ExpressionParser::ParseNot() {
  if (!stream_.IsName("not")) return ParseCompare();
  const TokenStream::Level level(&stream_);
  auto out = Make(ExpressionKind::kNot);
  stream_.Next();
  out->operands.push_back(ParseNot());
  return Finish(std::move(out));
}

ExpressionPtr ExpressionParser::ParseCompare() {
  ExpressionPtr left = ParseSum();
  ExpressionPtr out;
  while (true) {
    std::optional<Operator> op = CompareOperator(stream_.current());
    if (!op.has_value() && stream_.IsName("not") && stream_.Peek().kind == TokenKind::kName &&
        stream_.Peek().text == "in") {
      stream_.Next();
      op = Operator::kNotIn;
    }
    if (!op.has_value()) break;
    if (out == nullptr) {
      out = Make(ExpressionKind::kCompare);
      out->operands.push_back(std::move(left));
    }
    stream_.Next();
    out->operators.push_back(*op);
    out->operands.push_back(ParseSum());
  }
  return out != nullptr ? Finish(std::move(out)) : std::move(left);
}

ExpressionPtr ExpressionParser::ParseSum() {
  ExpressionPtr left = ParseConcat();
  if (!stream_.IsOperator("+") && !stream_.IsOperator("-")) return left;
  auto out = Make(ExpressionKind::kArithmetic);
  out->operands.push_back(std::move(left));
  while (stream_.IsOperator("+") || stream_.IsOperator("-")) {
    out->operators.push_back(stream_.Next().text == "+" ? Operator::kAdd : Operator::kSubtract);
    out->operands.push_back(ParseConcat());
  }
  return Finish(std::move(out));
}

ExpressionPtr ExpressionParser::ParseConcat() {
  ExpressionPtr left = ParseProduct();
  if (!stream_.IsOperator("~")) return left;
  auto out = Make(ExpressionKind::kConcat);
  out->operands.push_back(std::move(left));
  while (stream_.SkipOperator("~")) out->operands.push_back(ParseProduct());
  return Finish(std::move(out));
}

ExpressionPtr ExpressionParser::ParseProduct() {
  const auto find = [&]() -> std::optional<Operator> {
    if (stream_.IsOperator("*")) return Operator::kMultiply;
    if (stream_.IsOperator("/")) return Operator::kDivide;
    if (stream_.IsOperator("//")) return Operator::kFloorDivide;
    if (stream_.IsOperator("%")) return Operator::kModulo;
    return std::nullopt;
  };
  ExpressionPtr left = ParsePower();
  std::optional<Operator> op = find();
  if (!op.has_value()) return left;
  auto out = Make(ExpressionKind::kArithmetic);
  out->operands.push_back(std::move(left));
  for (; op.has_value(); op = find()) {
    stream_.Next();
    out->operators.push_back(*op);
    out->operands.push_back(ParsePower());
  }
  return Finish(std::move(out));
}

ExpressionPtr ExpressionParser::ParsePower() {
  ExpressionPtr left = ParseUnary(true);
  if (!stream_.IsOperator("**")) return left;
  auto out = Make(ExpressionKind::kArithmetic);
  out->operands.push_back(std::move(left));
  while (stream_.SkipOperator("**")) {
    out->operators.push_back(Operator::kPower);
    out->operands.push_back(ParseUnary(true));
  }
  return Finish(std::move(out));
}

ExpressionPtr ExpressionParser::ParseUnary(bool with_filters) {
  ExpressionPtr out;
  if (stream_.IsOperator("-") || stream_.IsOperator("+")) {
    const TokenStream::Level level(&stream_);
    out = Make(stream_.IsOperator("-") ? ExpressionKind::kNegate : ExpressionKind::kPlus);
    stream_.Next();
    out->operands.push_back(ParseUnary(false));
    out = Finish(std::move(out));
  } else {
    out = ParsePrimary();
  }
  out = ParsePostfix(std::move(out));
  return with_filters ? ParseFilters(std::move(out), false) : std::move(out);
}

ExpressionPtr ExpressionParser::ParsePrimary() {
  auto out = Make(ExpressionKind::kConstant);
  const LexToken& token = stream_.current();
  switch (token.kind) {
    case TokenKind::kName: {
      const std::string name = stream_.Next().text;
      if (name == "true" || name == "True") {
        out->constant = Value(true);
      } else if (name == "false" || name == "False") {
        out->constant = Value(false);
      } else if (name == "none" || name == "None") {
        out->constant = Value(None{});
      } else {
        out->kind = ExpressionKind::kName;
        out->name = name;
        stream_.SawName(name);
      }
      return out;
    }
    case TokenKind::kString: {
      std::string text = stream_.Next().text;
      while (stream_.current().kind == TokenKind::kString) text += stream_.Next().text;
      out->constant = Value(std::move(text));
      return out;
    }
    case TokenKind::kInteger: {
      int64_t value = 0;
      const auto [end, error] =
          std::from_chars(token.text.data(), token.text.data() + token.text.size(), value);
      if (error != std::errc()) stream_.Error("the number is too large");
      stream_.Next();
      out->constant = Value(value);
      return out;
    }
    case TokenKind::kFloat: {
      double value = 0;
      std::from_chars(token.text.data(), token.text.data() + token.text.size(), value);
      stream_.Next();
      out->constant = Value(value);
      return out;
    }
    default: break;
  }
  if (stream_.SkipOperator("(")) {
    if (stream_.SkipOperator(")")) {
      out->kind = ExpressionKind::kTuple;
      return out;
    }
    ExpressionPtr inside = ParseTuple();
    stream_.ExpectOperator(")");
    return inside;
  }
  if (stream_.IsOperator("[")) return ParseListLiteral();
  if (stream_.IsOperator("{")) return ParseDictLiteral();
  stream_.Error("expected an expression");
}

ExpressionPtr ExpressionParser::ParseListLiteral() {
  auto out = Make(ExpressionKind::kList);
  stream_.ExpectOperator("[");
  while (!stream_.IsOperator("]")) {
    if (!out->operands.empty()) stream_.ExpectOperator(",");
    if (stream_.IsOperator("]")) break;
    out->operands.push_back(Parse());
  }
  stream_.ExpectOperator("]");
  return Finish(std::move(out));
}

ExpressionPtr ExpressionParser::ParseDictLiteral() {
  auto out = Make(ExpressionKind::kDict);
  stream_.ExpectOperator("{");
  while (!stream_.IsOperator("}")) {
    if (!out->operands.empty()) stream_.ExpectOperator(",");
    if (stream_.IsOperator("}")) break;
    out->operands.push_back(Parse());
    stream_.ExpectOperator(":");
    out->operands.push_back(Parse());
  }
  stream_.ExpectOperator("}");
  return Finish(std::move(out));
}

ExpressionPtr ExpressionParser::ParsePostfix(ExpressionPtr operand) {
  while (true) {
    if (stream_.IsOperator(".") || stream_.IsOperator("[")) {
      operand = ParseAttributeOrItem(std::move(operand));
    } else if (stream_.IsOperator("(")) {
      operand = ParseCall(std::move(operand));
    } else {
      return operand;
    }
  }
}

ExpressionPtr ExpressionParser::ParseAttributeOrItem(ExpressionPtr operand) {
  if (stream_.SkipOperator(".")) {
    const LexToken token = stream_.Next();
    if (token.kind == TokenKind::kName) {
      auto out = Make(ExpressionKind::kAttribute);
      out->name = token.text;
      out->operands.push_back(std::move(operand));
      return Finish(std::move(out));
    }
    if (token.kind != TokenKind::kInteger || token.text.size() > 9) {
      stream_.Error("expected a name or a number after '.'");
    }
    auto index = Make(ExpressionKind::kConstant);
    index->constant = Value(static_cast<int64_t>(std::atoi(token.text.c_str())));
    auto out = Make(ExpressionKind::kItem);
    out->operands.push_back(std::move(operand));
    out->operands.push_back(std::move(index));
    return Finish(std::move(out));
  }
  stream_.ExpectOperator("[");
  auto out = Make(ExpressionKind::kItem);
  out->operands.push_back(std::move(operand));
  ExpressionPtr index = ParseIndex();
  if (stream_.IsOperator(",")) {
    auto tuple = Make(ExpressionKind::kTuple);
    tuple->operands.push_back(std::move(index));
    while (stream_.SkipOperator(",")) tuple->operands.push_back(ParseIndex());
    index = Finish(std::move(tuple));
  }
  stream_.ExpectOperator("]");
  out->operands.push_back(std::move(index));
  return Finish(std::move(out));
}

// Inside of [ ]: an expression or a slice.
ExpressionPtr ExpressionParser::ParseIndex() {
  auto slice = Make(ExpressionKind::kSlice);
  const auto at_end = [&] {
    return stream_.IsOperator(":") || stream_.IsOperator("]") || stream_.IsOperator(",");
  };
  ExpressionPtr start;
  if (!stream_.IsOperator(":")) {
    start = Parse();
    if (!stream_.IsOperator(":")) return start;
  }
  stream_.ExpectOperator(":");
  slice->operands.push_back(std::move(start));
  slice->operands.push_back(at_end() ? nullptr : Parse());
  if (stream_.SkipOperator(":")) {
    slice->operands.push_back(at_end() ? nullptr : Parse());
  } else {
    slice->operands.push_back(nullptr);
  }
  return Finish(std::move(slice));
}

void ExpressionParser::ParseArguments(std::vector<Argument>* out) {
  stream_.ExpectOperator("(");
  bool first = true;
  while (!stream_.IsOperator(")")) {
    if (!first) {
      stream_.ExpectOperator(",");
      if (stream_.IsOperator(")")) break;
    }
    first = false;
    Argument argument;
    if (stream_.SkipOperator("*")) {
      argument.stars = 1;
    } else if (stream_.SkipOperator("**")) {
      argument.stars = 2;
    } else if (stream_.current().kind == TokenKind::kName &&
               stream_.Peek().kind == TokenKind::kOperator && stream_.Peek().text == "=") {
      argument.keyword = stream_.Next().text;
      stream_.Next();
    } else if (!out->empty() && (!out->back().keyword.empty() || out->back().stars == 2)) {
      stream_.Error("a positional argument follows a keyword argument");
    }
    argument.value = Parse();
    out->push_back(std::move(argument));
  }
  stream_.ExpectOperator(")");
}

ExpressionPtr ExpressionParser::ParseCall(ExpressionPtr callee) {
  auto out = Make(ExpressionKind::kCall);
  out->operands.push_back(std::move(callee));
  ParseArguments(&out->arguments);
  return Finish(std::move(out));
}

ExpressionPtr ExpressionParser::ParseFilters(ExpressionPtr operand, bool start_inline) {
  while (true) {
    if (start_inline || stream_.SkipOperator("|")) {
      start_inline = false;
      auto out = Make(ExpressionKind::kFilter);
      out->name = stream_.ExpectName();
      while (stream_.SkipOperator(".")) absl::StrAppend(&out->name, ".", stream_.ExpectName());
      out->operands.push_back(std::move(operand));
      if (stream_.IsOperator("(")) ParseArguments(&out->arguments);
      operand = Finish(std::move(out));
    } else if (operand != nullptr && stream_.IsName("is")) {
      operand = ParseTest(std::move(operand));
    } else if (stream_.IsOperator("(")) {
      operand = ParseCall(std::move(operand));
    } else {
      return operand;
    }
  }
}

ExpressionPtr ExpressionParser::ParseTest(ExpressionPtr operand) {
  auto out = Make(ExpressionKind::kTest);
  stream_.Next();  // is
  const bool negated = stream_.SkipName("not");
  out->name = stream_.ExpectName();
  while (stream_.SkipOperator(".")) absl::StrAppend(&out->name, ".", stream_.ExpectName());
  out->operands.push_back(std::move(operand));
  const LexToken& token = stream_.current();
  const bool starts_value =
      token.kind == TokenKind::kString || token.kind == TokenKind::kInteger ||
      token.kind == TokenKind::kFloat || stream_.IsOperator("[") || stream_.IsOperator("{") ||
      (token.kind == TokenKind::kName && token.text != "else" && token.text != "or" &&
       token.text != "and" && token.text != "if");
  if (stream_.IsOperator("(")) {
    ParseArguments(&out->arguments);
  } else if (starts_value) {
    if (stream_.IsName("is")) stream_.Error("tests cannot be chained with is");
    Argument argument;
    argument.value = ParsePostfix(ParsePrimary());
    out->arguments.push_back(std::move(argument));
  }
  out = Finish(std::move(out));
  if (!negated) return out;
  auto inverse = Make(ExpressionKind::kNot);
  inverse->operands.push_back(std::move(out));
  return Finish(std::move(inverse));
}

}  // namespace pagoda::text::jinja
