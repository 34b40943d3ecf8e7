// Tests (`x is defined`). Source: jinja2 3.1, tests.py.
#include <cmath>

#include "absl/container/flat_hash_map.h"
#include "text/jinja/interpreter.h"
#include "text/unicode.h"

namespace pagoda::text::jinja {
namespace {

using Args = const Arguments&;

const Value& Only(std::string_view test, Args arguments) {
  if (arguments.positional.size() == 1 && arguments.named.empty()) return arguments.positional[0];
  Fail(absl::StrCat("the test ", AsAbsl(test), " takes one argument"));
}

int64_t WholeNumber(const Value& value) {
  if (!value.is_number()) Fail(absl::StrCat("a number is needed, not '", AsAbsl(value.type_name()), "'"));
  return value.is_integral() ? value.integer() : static_cast<int64_t>(value.number());
}

bool EqualTest(Interpreter& interpreter, const Value& value, Args args) {
  interpreter.Charge(value.weight());
  return Equal(value, Only("eq", args));
}
bool NotEqualTest(Interpreter& i, const Value& value, Args args) { return !EqualTest(i, value, args); }
bool Less(Interpreter&, const Value& v, Args args) { return Compare(v, Only("lt", args)) < 0; }
bool LessEqual(Interpreter&, const Value& v, Args args) { return Compare(v, Only("le", args)) <= 0; }
bool Greater(Interpreter&, const Value& v, Args args) { return Compare(v, Only("gt", args)) > 0; }
bool GreaterEqual(Interpreter&, const Value& v, Args args) { return Compare(v, Only("ge", args)) >= 0; }

bool In(Interpreter& interpreter, const Value& value, Args args) {
  const Value& container = Only("in", args);
  if (container.is_text()) {
    if (!value.is_text()) Fail("'in <string>' requires string as left operand");
    return container.text().find(value.text()) != std::string::npos;
  }
  if (const Dict* dict = container.dict()) return dict->Find(value) != nullptr;
  const auto items = interpreter.Iterate(container);
  interpreter.Charge(items->weight / 4);
  for (const Value& item : items->items) {
    if (Equal(item, value)) return true;
  }
  return false;
}

bool SameAs(Interpreter&, const Value& value, Args args) {
  const Value& other = Only("sameas", args);
  if (value.sequence() != nullptr) return value.sequence() == other.sequence();
  if (value.dict() != nullptr) return value.dict() == other.dict();
  return value.type_name() == other.type_name() && Equal(value, other);
}

bool Iterable(Interpreter&, const Value& value, Args) {
  return value.is_text() || value.sequence() != nullptr || value.dict() != nullptr || value.is_undefined();
}
// Has a length and can be indexed; a dict is one, undefined too (its length is 0).
bool IsSequence(Interpreter&, const Value& value, Args) {
  return value.is_text() || value.dict() != nullptr || value.is_undefined() ||
         (value.sequence() != nullptr && value.sequence()->indexable());
}

bool IsUpper(Interpreter& interpreter, const Value& value, Args) {
  const std::string text = interpreter.Str(value);
  return ToUpper(text) == text && ToLower(text) != text;
}
bool IsLower(Interpreter& interpreter, const Value& value, Args) {
  const std::string text = interpreter.Str(value);
  return ToLower(text) == text && ToUpper(text) != text;
}

bool Defined(Interpreter&, const Value& v, Args) { return !v.is_undefined(); }
bool IsUndefined(Interpreter&, const Value& v, Args) { return v.is_undefined(); }
bool IsNone(Interpreter&, const Value& v, Args) { return v.is_none(); }
bool IsString(Interpreter&, const Value& v, Args) { return v.is_text(); }
bool IsMapping(Interpreter&, const Value& v, Args) { return v.dict() != nullptr; }
bool IsNumber(Interpreter&, const Value& v, Args) { return v.is_number(); }
bool IsInteger(Interpreter&, const Value& v, Args) { return v.is_integer(); }
bool IsFloat(Interpreter&, const Value& v, Args) { return v.is_float(); }
bool IsBoolean(Interpreter&, const Value& v, Args) { return v.is_bool(); }
bool IsTrue(Interpreter&, const Value& v, Args) { return v.is_bool() && v.boolean(); }
bool IsFalse(Interpreter&, const Value& v, Args) { return v.is_bool() && !v.boolean(); }
bool IsCallable(Interpreter&, const Value& v, Args) { return v.callable() != nullptr; }
bool IsEscaped(Interpreter&, const Value& v, Args) { return v.is_safe(); }
bool IsOdd(Interpreter&, const Value& v, Args) { return WholeNumber(v) % 2 != 0; }
bool IsEven(Interpreter&, const Value& v, Args) { return WholeNumber(v) % 2 == 0; }
bool DivisibleBy(Interpreter&, const Value& v, Args args) {
  const int64_t by = WholeNumber(Only("divisibleby", args));
  if (by == 0) Fail("integer modulo by zero");
  return by == -1 || WholeNumber(v) % by == 0;
}

bool IsFilter(Interpreter&, const Value& v, Args) {
  return v.is_text() && (FindTextFilter(v.text()) != nullptr || FindSequenceFilter(v.text()) != nullptr);
}
bool IsTest(Interpreter&, const Value& v, Args) { return v.is_text() && FindTest(v.text()) != nullptr; }

}  // namespace

TestFunction FindTest(std::string_view name) {
  static const auto& tests = *new absl::flat_hash_map<std::string_view, TestFunction>{
      {"defined", Defined},     {"undefined", IsUndefined}, {"none", IsNone},
      {"string", IsString},     {"mapping", IsMapping},     {"iterable", Iterable},
      {"sequence", IsSequence}, {"number", IsNumber},       {"integer", IsInteger},
      {"float", IsFloat},       {"boolean", IsBoolean},     {"true", IsTrue},
      {"false", IsFalse},       {"callable", IsCallable},   {"escaped", IsEscaped},
      {"odd", IsOdd},           {"even", IsEven},           {"divisibleby", DivisibleBy},
      {"upper", IsUpper},       {"lower", IsLower},         {"sameas", SameAs},
      {"in", In},               {"eq", EqualTest},          {"equalto", EqualTest},
      {"==", EqualTest},        {"ne", NotEqualTest},       {"!=", NotEqualTest},
      {"lt", Less},             {"lessthan", Less},         {"<", Less},
      {"le", LessEqual},        {"<=", LessEqual},          {"gt", Greater},
      {"greaterthan", Greater}, {">", Greater},             {"ge", GreaterEqual},
      {">=", GreaterEqual},     {"filter", IsFilter},       {"test", IsTest},
  };
  const auto found = tests.find(name);
  return found == tests.end() ? nullptr : found->second;
}

}  // namespace pagoda::text::jinja
