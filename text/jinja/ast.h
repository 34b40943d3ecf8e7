// The syntax tree of a template. Made by the parser, read by the interpreter; never changed after parsing.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "text/jinja/value.h"

namespace pagoda::text::jinja {

struct Expression;
struct Statement;
using ExpressionPtr = std::unique_ptr<Expression>;
using Block = std::vector<std::unique_ptr<Statement>>;

enum class ExpressionKind : uint8_t {
  kConstant,     // constant
  kName,         // name
  kList,         // operands
  kTuple,        // operands
  kDict,         // operands: key, value, key, value, ...
  kAttribute,    // operands[0].name
  kItem,         // operands[0][operands[1]]
  kSlice,        // operands: start, stop, step; each may be null
  kCall,         // operands[0](arguments)
  kFilter,       // operands[0] | name(arguments); operands[0] is null in a filter block
  kTest,         // operands[0] is name(arguments)
  kNegate,       // operands[0]
  kPlus,         // operands[0]
  kNot,          // operands[0]
  kArithmetic,   // operands, from the left, with operators between them
  kConcat,       // operands ~
  kCompare,      // operands with operators between them, all of which must hold
  kAnd,          // operands
  kOr,           // operands
  kConditional,  // operands: value, condition, other value (may be null)
};

enum class Operator : uint8_t {
  kAdd, kSubtract, kMultiply, kDivide, kFloorDivide, kModulo, kPower,
  kEqual, kNotEqual, kLess, kLessEqual, kGreater, kGreaterEqual, kIn, kNotIn,
};

struct Argument {
  std::string keyword;       // empty: positional
  int stars = 0;             // 1: *args, 2: **kwargs
  ExpressionPtr value;
};

struct Expression {
  ExpressionKind kind = ExpressionKind::kConstant;
  int line = 0;
  int height = 1;  // of the tree below; bounds the interpreter's recursion
  Value constant;
  std::string name;
  std::vector<ExpressionPtr> operands;
  std::vector<Operator> operators;
  std::vector<Argument> arguments;
};

// Where an assignment goes: a name, a tuple of targets, or an attribute of a namespace.
struct Target {
  std::string name;
  std::string attribute;  // not empty: name.attribute
  std::vector<Target> parts;
};

struct Parameter {
  std::string name;
  ExpressionPtr fallback;  // null: none
};

struct Macro {
  std::string name;
  std::vector<Parameter> parameters;
  Block body;
  bool uses_varargs = false;
  bool uses_kwargs = false;
  bool uses_caller = false;
};

enum class StatementKind : uint8_t {
  kText,         // text
  kOutput,       // value
  kIf,           // value, body, otherwise
  kFor,          // target, value, condition (may be null), body, otherwise
  kSet,          // target, value
  kSetBlock,     // target, body, value (a filter chain over nothing, may be null)
  kMacro,        // macro
  kCallBlock,    // value (a call), macro (the caller)
  kFilterBlock,  // value (a filter chain over nothing), body
  kWith,         // targets and values in order, body
  kScope,        // body in a scope of its own ({% generation %})
  kBreak,
  kContinue,
};

struct Statement {
  StatementKind kind = StatementKind::kText;
  int line = 0;
  std::string text;
  ExpressionPtr value;
  ExpressionPtr condition;
  Target target;
  std::vector<std::pair<Target, ExpressionPtr>> assignments;
  std::unique_ptr<Macro> macro;
  Block body;
  Block otherwise;
};

}  // namespace pagoda::text::jinja
