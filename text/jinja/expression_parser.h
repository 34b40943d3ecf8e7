// The expressions of a template: precedence climbing as in jinja2 3.1, parser.py.
#pragma once

#include "text/jinja/token_stream.h"

namespace pagoda::text::jinja {

class ExpressionParser {
 public:
  explicit ExpressionParser(TokenStream* stream) : stream_(*stream) {}

  ExpressionPtr Parse(bool with_conditional = true);
  // `a, b, c`: a tuple when there is a comma.
  ExpressionPtr ParseTuple(bool with_conditional = true);
  // Filters only, over `operand` (null for a filter block).
  ExpressionPtr ParseFilters(ExpressionPtr operand, bool start_inline);
  ExpressionPtr ParsePrimary();
  ExpressionPtr ParsePostfix(ExpressionPtr operand);

 private:
  ExpressionPtr Make(ExpressionKind kind);
  ExpressionPtr Finish(ExpressionPtr expression);  // its height
  ExpressionPtr ParseOr();
  ExpressionPtr ParseAnd();
  ExpressionPtr ParseNot();
  ExpressionPtr ParseCompare();
  ExpressionPtr ParseSum();
  ExpressionPtr ParseConcat();
  ExpressionPtr ParseProduct();
  ExpressionPtr ParsePower();
  ExpressionPtr ParseUnary(bool with_filters);
  ExpressionPtr ParseAttributeOrItem(ExpressionPtr operand);
  ExpressionPtr ParseIndex();
  ExpressionPtr ParseListLiteral();
  ExpressionPtr ParseDictLiteral();
  ExpressionPtr ParseCall(ExpressionPtr callee);
  ExpressionPtr ParseTest(ExpressionPtr operand);
  void ParseArguments(std::vector<Argument>* out);
  bool AtTupleEnd() const;

  TokenStream& stream_;
};

}  // namespace pagoda::text::jinja
