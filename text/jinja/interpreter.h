// Runs a syntax tree against data, within budgets. One per rendering; one thread.
#pragma once

#include <deque>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "text/chat_template.h"
#include "text/jinja/ast.h"
#include "text/jinja/callable.h"
#include "text/jinja/value.h"

namespace pagoda::text::jinja {

// The variables of one block; reads go on to the parent. Scopes that a macro may still see live until the rendering ends.
struct Scope {
  Scope* parent = nullptr;
  std::vector<std::pair<std::string_view, Value>> variables;
  bool captured = false;
  const Value* Find(std::string_view name) const;
  void Set(std::string_view name, Value value);
};

class Interpreter {
 public:
  Interpreter(const TemplateLimits& limits, int64_t now_unix);
  ~Interpreter();

  // Throws TemplateError.
  std::string Render(const Block& body, const Value& context);

  // What filters, tests and methods need.
  Value Call(const Value& callee, const Arguments& arguments);
  Value Filter(std::string_view name, const Value& value, const Arguments& arguments);
  bool Test(std::string_view name, const Value& value, const Arguments& arguments);
  // value.name, value[key], as the sandbox does; undefined when there is none.
  Value Attribute(const Value& value, std::string_view name);
  Value Item(const Value& value, const Value& key);
  // The elements of anything iterable; fails otherwise.
  std::shared_ptr<const Sequence> Iterate(const Value& value);
  std::string Str(const Value& value);
  void Charge(int64_t steps);
  // Charges for a string that was made, and refuses one over the output's limit.
  void ChargeBytes(size_t bytes);
  void CheckSize(int64_t size) const;
  int64_t now_unix() const { return now_unix_; }
  Value MakeNamespace(std::shared_ptr<Namespace> made);

  Value CallMacro(const Macro& macro, Scope* closure, const Arguments& arguments);

 private:
  enum class Flow : uint8_t { kNext, kBreak, kContinue };
  class DepthGuard;
  class ScopeGuard;

  Flow Execute(const Block& block);
  Flow ExecuteOne(const Statement& statement);
  Flow ExecuteFor(const Statement& statement);
  void ExecuteSetBlock(const Statement& statement);
  void ExecuteCallBlock(const Statement& statement);
  std::string Capture(const Block& block);
  void Assign(const Target& target, const Value& value);
  void Output(std::string_view text);
  Value MakeMacro(const Macro& macro);

  Value Evaluate(const Expression& expression);
  Value EvaluateDict(const Expression& expression);
  Value EvaluateItem(const Expression& expression);
  Value EvaluateSlice(const Value& value, const Expression& slice);
  Value EvaluateCall(const Expression& expression, const Value* caller);
  Value EvaluateCompare(const Expression& expression);
  Value EvaluateConcat(const Expression& expression);
  Value Arithmetic(Operator op, const Value& left, const Value& right);
  Value EvaluateFilterChain(const Expression& expression, const Value& input);
  void EvaluateArguments(const Expression& expression, Arguments* out);
  bool Contains(const Value& container, const Value& item);
  Value Lookup(std::string_view name);

  const TemplateLimits limits_;
  const int64_t now_unix_;
  int64_t steps_ = 0;
  int frames_ = 0;  // nested evaluations and blocks
  int macros_ = 0;  // nested macro calls
  std::string* output_ = nullptr;
  Scope* scope_ = nullptr;
  Scope root_;
  std::vector<std::unique_ptr<Scope>> kept_scopes_;
  std::vector<std::shared_ptr<Namespace>> namespaces_;  // emptied at the end: they may form circles
};

// Python's operators on values; in operators.cc.
Value Add(Interpreter& interpreter, const Value& left, const Value& right);
Value Multiply(Interpreter& interpreter, const Value& left, const Value& right);
Value Divide(Operator op, const Value& left, const Value& right);
Value Power(const Value& left, const Value& right);
Value Negate(const Value& value);
// "%s and %d" % values.
Value PercentFormat(Interpreter& interpreter, std::string_view format, const Value& values);

// ReplaceAll, refused before it is done when the result would be too large.
Value ReplaceWithin(Interpreter& interpreter, std::string_view text, std::string_view from,
                    std::string_view to, int64_t count);

// The methods of strings, dicts and sequences; in methods.cc. False when the type has no such method.
bool HasMethod(const Value& value, std::string_view name);
Value CallMethod(Interpreter& interpreter, const Value& value, std::string_view name,
                 const Arguments& arguments);
// Functions of the environment (range, namespace, ...); undefined when there is none.
Value GlobalFunction(std::string_view name);

using FilterFunction = Value (*)(Interpreter&, const Value&, const Arguments&);
FilterFunction FindTextFilter(std::string_view name);      // filters_text.cc
FilterFunction FindSequenceFilter(std::string_view name);  // filters_sequence.cc
using TestFunction = bool (*)(Interpreter&, const Value&, const Arguments&);
TestFunction FindTest(std::string_view name);              // tests.cc

}  // namespace pagoda::text::jinja
