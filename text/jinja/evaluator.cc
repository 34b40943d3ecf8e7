// Expressions: Interpreter's other half.
#include <algorithm>
#include <optional>

#include "text/jinja/format.h"
#include "text/jinja/interpreter.h"
#include "text/jinja/interpreter_guards.h"
#include "text/unicode.h"

namespace pagoda::text::jinja {
namespace {

// `value.method`, not called yet.
struct BoundMethod : Callable {
  Value self;
  Value Call(Interpreter& interpreter, const Arguments& arguments) const override {
    return CallMethod(interpreter, self, name, arguments);
  }
};

Value LoopAttribute(const LoopState& loop, std::string_view name) {
  const auto length = static_cast<int64_t>(loop.items->size());
  const auto index = static_cast<int64_t>(loop.index);
  if (name == "index") return Value(index + 1);
  if (name == "index0") return Value(index);
  if (name == "revindex") return Value(length - index);
  if (name == "revindex0") return Value(length - index - 1);
  if (name == "first") return Value(index == 0);
  if (name == "last") return Value(index + 1 == length);
  if (name == "length") return Value(length);
  if (name == "depth") return Value(1);
  if (name == "depth0") return Value(0);
  if (name == "previtem" && index > 0) return (*loop.items)[loop.index - 1];
  if (name == "nextitem" && index + 1 < length) return (*loop.items)[loop.index + 1];
  if (name == "previtem") return Value::UndefinedBecause("there is no previous item");
  if (name == "nextitem") return Value::UndefinedBecause("there is no next item");
  return Value();
}

int64_t ClampIndex(int64_t index, int64_t length, int64_t low, int64_t high) {
  if (index < 0) index = std::max(index, -length - 1) + length;
  return std::clamp(index, low, high);
}

// The characters of a text, for indexing one that is not ASCII.
std::vector<std::string_view> Characters(std::string_view text) {
  std::vector<std::string_view> out;
  for (size_t i = 0; i < text.size();) {
    const int length = DecodeUtf8(text, i).length;
    out.push_back(text.substr(i, length));
    i += length;
  }
  return out;
}

}  // namespace

Value Interpreter::Lookup(std::string_view name) {
  if (const Value* found = scope_->Find(name)) return *found;
  Value global = GlobalFunction(name);
  if (!global.is_undefined()) return global;
  return Value::UndefinedBecause(absl::StrCat("'", AsAbsl(name), "' is undefined"));
}

Value Interpreter::Evaluate(const Expression& expression) {
  Charge(1);
  const auto& operands = expression.operands;
  switch (expression.kind) {
    case ExpressionKind::kConstant: return expression.constant;
    case ExpressionKind::kName: return Lookup(expression.name);
    default: break;
  }
  const DepthGuard depth(this);
  switch (expression.kind) {
    case ExpressionKind::kList:
    case ExpressionKind::kTuple: {
      std::vector<Value> items;
      items.reserve(operands.size());
      for (const auto& operand : operands) items.push_back(Evaluate(*operand));
      return MakeSequence(expression.kind == ExpressionKind::kList ? SequenceKind::kList
                                                                    : SequenceKind::kTuple,
                          std::move(items));
    }
    case ExpressionKind::kDict: return EvaluateDict(expression);
    case ExpressionKind::kAttribute: return Attribute(Evaluate(*operands[0]), expression.name);
    case ExpressionKind::kItem: return EvaluateItem(expression);
    case ExpressionKind::kCall: return EvaluateCall(expression, nullptr);
    case ExpressionKind::kFilter: return EvaluateFilterChain(expression, Value());
    case ExpressionKind::kTest: {
      Arguments arguments;
      const Value value = Evaluate(*operands[0]);
      EvaluateArguments(expression, &arguments);
      return Value(Test(expression.name, value, arguments));
    }
    case ExpressionKind::kNegate: return Negate(Evaluate(*operands[0]));
    case ExpressionKind::kPlus: {
      const Value value = Evaluate(*operands[0]);
      return value.is_float() ? value : Negate(Negate(value));
    }
    case ExpressionKind::kNot: return Value(!Truthy(Evaluate(*operands[0])));
    case ExpressionKind::kArithmetic: {
      Value value = Evaluate(*operands[0]);
      for (size_t i = 1; i < operands.size(); ++i) {
        value = Arithmetic(expression.operators[i - 1], value, Evaluate(*operands[i]));
      }
      return value;
    }
    case ExpressionKind::kConcat: return EvaluateConcat(expression);
    case ExpressionKind::kCompare: return EvaluateCompare(expression);
    case ExpressionKind::kAnd:
    case ExpressionKind::kOr: {
      const bool stop_at = expression.kind == ExpressionKind::kOr;
      Value value;
      for (const auto& operand : operands) {
        value = Evaluate(*operand);
        if (Truthy(value) == stop_at) break;
      }
      return value;
    }
    case ExpressionKind::kConditional:
      if (Truthy(Evaluate(*operands[1]))) return Evaluate(*operands[0]);
      if (operands[2] != nullptr) return Evaluate(*operands[2]);
      return Value::UndefinedBecause(
          "the inline if-expression evaluated to false and no else section was defined");
    default: break;
  }
  Fail("a slice stands outside of brackets");
}

Value Interpreter::EvaluateDict(const Expression& expression) {
  auto dict = std::make_shared<Dict>();
  for (size_t i = 0; i + 1 < expression.operands.size(); i += 2) {
    Value key = Evaluate(*expression.operands[i]);
    dict->Set(std::move(key), Evaluate(*expression.operands[i + 1]));
  }
  return MakeDict(std::move(dict));
}

Value Interpreter::EvaluateConcat(const Expression& expression) {
  std::string out;
  for (const auto& operand : expression.operands) {
    out += Str(Evaluate(*operand));
    ChargeBytes(out.size());
  }
  return Value(std::move(out));
}

Value Interpreter::EvaluateCompare(const Expression& expression) {
  Value left = Evaluate(*expression.operands[0]);
  for (size_t i = 0; i < expression.operators.size(); ++i) {
    Value right = Evaluate(*expression.operands[i + 1]);
    bool holds = false;
    Charge(std::min(left.weight(), right.weight()));
    switch (expression.operators[i]) {
      case Operator::kEqual: holds = Equal(left, right); break;
      case Operator::kNotEqual: holds = !Equal(left, right); break;
      case Operator::kLess: holds = Compare(left, right) < 0; break;
      case Operator::kLessEqual: holds = Compare(left, right) <= 0; break;
      case Operator::kGreater: holds = Compare(left, right) > 0; break;
      case Operator::kGreaterEqual: holds = Compare(left, right) >= 0; break;
      case Operator::kIn: holds = Contains(right, left); break;
      case Operator::kNotIn: holds = !Contains(right, left); break;
      default: break;
    }
    if (!holds) return Value(false);
    left = std::move(right);
  }
  return Value(true);
}

bool Interpreter::Contains(const Value& container, const Value& item) {
  if (container.is_text()) {
    if (!item.is_text()) {
      Fail(absl::StrCat("'in <string>' requires string as left operand, not ",
                        AsAbsl(item.type_name())));
    }
    ChargeBytes(container.text().size());
    return container.text().find(item.text()) != std::string::npos;
  }
  if (const Dict* dict = container.dict()) return dict->Find(item) != nullptr;
  const auto items = Iterate(container);
  Charge(items->weight / 4);
  return std::any_of(items->items.begin(), items->items.end(),
                     [&](const Value& value) { return Equal(value, item); });
}

Value Interpreter::Arithmetic(Operator op, const Value& left, const Value& right) {
  switch (op) {
    case Operator::kAdd: return Add(*this, left, right);
    case Operator::kSubtract:
      if (!left.is_number() || !right.is_number()) break;
      return Add(*this, left, Negate(right));
    case Operator::kMultiply: return Multiply(*this, left, right);
    case Operator::kModulo:
      if (left.is_text()) return PercentFormat(*this, left.text(), right);
      return Divide(op, left, right);
    case Operator::kDivide:
    case Operator::kFloorDivide: return Divide(op, left, right);
    case Operator::kPower: return Power(left, right);
    default: break;
  }
  Fail(absl::StrCat("unsupported operand types for -: '", AsAbsl(left.type_name()), "' and '",
                    AsAbsl(right.type_name()), "'"));
}

Value Interpreter::Attribute(const Value& value, std::string_view name) {
  if (value.is_undefined()) {
    Fail(value.undefined().why != nullptr
             ? *value.undefined().why
             : absl::StrCat("an undefined value has no attribute '", AsAbsl(name), "'"));
  }
  if (const Namespace* space = value.name_space()) {
    if (const Value* found = space->Find(name)) return *found;
  } else if (const LoopState* loop = value.loop()) {
    Value found = loop->items != nullptr ? LoopAttribute(*loop, name) : Value();
    if (!found.is_undefined() || found.undefined().why != nullptr) return found;
  }
  if (const Callable* function = value.callable(); function != nullptr && name == "name") {
    return Value(function->name);
  }
  if (HasMethod(value, name)) {
    auto bound = std::make_shared<BoundMethod>();
    bound->self = value;
    bound->name = name;
    return Value(std::shared_ptr<const Callable>(std::move(bound)));
  }
  if (const Dict* dict = value.dict()) {
    if (const Value* found = dict->Find(name)) return *found;
  }
  return Value::UndefinedBecause(absl::StrCat("'", AsAbsl(value.type_name()),
                                              " object' has no attribute '", AsAbsl(name), "'"));
}

Value Interpreter::Item(const Value& value, const Value& key) {
  if (value.is_undefined()) return Attribute(value, Str(key));
  if (const Dict* dict = value.dict()) {
    if (const Value* found = dict->Find(key)) return *found;
  } else if (key.is_integral()) {
    int64_t index = key.integer();
    if (const Sequence* list = value.sequence(); list != nullptr && list->indexable()) {
      const auto size = static_cast<int64_t>(list->items.size());
      if (index < 0) index += size;
      if (index >= 0 && index < size) return list->items[index];
    } else if (value.is_text() && value.text_object().ascii) {
      const auto size = static_cast<int64_t>(value.text().size());
      if (index < 0) index += size;
      if (index >= 0 && index < size) return Value(value.text().substr(index, 1));
    } else if (value.is_text()) {
      ChargeBytes(value.text().size());
      const auto characters = Characters(value.text());
      const auto size = static_cast<int64_t>(characters.size());
      if (index < 0) index += size;
      if (index >= 0 && index < size) return Value(characters[index]);
    }
  }
  if (key.is_text()) return Attribute(value, key.text());
  return Value::UndefinedBecause(
      absl::StrCat("'", AsAbsl(value.type_name()), " object' has no element ", Str(key)));
}

Value Interpreter::EvaluateItem(const Expression& expression) {
  const Value value = Evaluate(*expression.operands[0]);
  const Expression& index = *expression.operands[1];
  if (index.kind == ExpressionKind::kSlice) return EvaluateSlice(value, index);
  return Item(value, Evaluate(index));
}

Value Interpreter::EvaluateSlice(const Value& value, const Expression& slice) {
  const Sequence* list = value.sequence();
  if (value.is_undefined()) return Attribute(value, "slice");
  if (!value.is_text() && (list == nullptr || !list->indexable())) {
    return Value::UndefinedBecause(
        absl::StrCat("'", AsAbsl(value.type_name()), " object' cannot be sliced"));
  }
  const auto bound = [&](int which) -> std::optional<int64_t> {
    if (slice.operands[which] == nullptr) return std::nullopt;
    const Value at = Evaluate(*slice.operands[which]);
    if (at.is_none()) return std::nullopt;
    if (!at.is_integral()) Fail("slice indices must be integers or None");
    return at.integer();
  };
  const std::optional<int64_t> from = bound(0), to = bound(1);
  const int64_t step = bound(2).value_or(1);
  if (step == 0) Fail("slice step cannot be zero");
  std::vector<std::string_view> characters;
  if (value.is_text()) {
    ChargeBytes(value.text().size());
    characters = Characters(value.text());
  }
  const auto length = static_cast<int64_t>(value.is_text() ? characters.size() : list->items.size());
  const int64_t low = step > 0 ? 0 : -1, high = step > 0 ? length : length - 1;
  const int64_t begin = from.has_value() ? ClampIndex(*from, length, low, high) : (step > 0 ? low : high);
  const int64_t end = to.has_value() ? ClampIndex(*to, length, low, high) : (step > 0 ? high : low);
  std::string text;
  std::vector<Value> items;
  for (int64_t i = begin; step > 0 ? i < end : i > end;) {
    if (value.is_text()) {
      text += characters[i];
    } else {
      items.push_back(list->items[i]);
    }
    // A huge step ends the loop; adding it could overflow.
    if (step > length || step < -length) break;
    i += step;
  }
  if (value.is_text()) return Value(std::move(text));
  Charge(static_cast<int64_t>(items.size()));
  return MakeSequence(list->kind, std::move(items));
}

void Interpreter::EvaluateArguments(const Expression& expression, Arguments* out) {
  for (const Argument& argument : expression.arguments) {
    Value value = Evaluate(*argument.value);
    if (argument.stars == 1) {
      const auto items = Iterate(value);
      out->positional.insert(out->positional.end(), items->items.begin(), items->items.end());
    } else if (argument.stars == 2) {
      if (value.dict() == nullptr) Fail("the argument after ** must be a mapping");
      for (const auto& [key, item] : value.dict()->items) {
        if (!key.is_text()) Fail("keywords must be strings");
        out->named.emplace_back(key.text(), item);
      }
    } else if (!argument.keyword.empty()) {
      out->named.emplace_back(argument.keyword, std::move(value));
    } else {
      out->positional.push_back(std::move(value));
    }
  }
}

Value Interpreter::EvaluateCall(const Expression& expression, const Value* caller) {
  const Expression& target = *expression.operands[0];
  Arguments arguments;
  if (target.kind == ExpressionKind::kAttribute && caller == nullptr) {
    const Value self = Evaluate(*target.operands[0]);
    if (self.name_space() == nullptr && HasMethod(self, target.name)) {
      EvaluateArguments(expression, &arguments);
      return CallMethod(*this, self, target.name, arguments);
    }
    const Value callee = Attribute(self, target.name);
    EvaluateArguments(expression, &arguments);
    return Call(callee, arguments);
  }
  const Value callee = Evaluate(target);
  EvaluateArguments(expression, &arguments);
  if (caller != nullptr) arguments.named.emplace_back("caller", *caller);
  return Call(callee, arguments);
}

Value Interpreter::Call(const Value& callee, const Arguments& arguments) {
  if (const Callable* function = callee.callable()) return function->Call(*this, arguments);
  if (callee.is_undefined()) {
    Fail(callee.undefined().why != nullptr ? *callee.undefined().why : "an undefined value was called");
  }
  Fail(absl::StrCat("'", AsAbsl(callee.type_name()), "' object is not callable"));
}

Value Interpreter::EvaluateFilterChain(const Expression& expression, const Value& input) {
  if (expression.kind != ExpressionKind::kFilter) return Evaluate(expression);
  const DepthGuard depth(this);
  const Expression* operand = expression.operands[0].get();
  const Value value = operand == nullptr ? input : EvaluateFilterChain(*operand, input);
  Arguments arguments;
  EvaluateArguments(expression, &arguments);
  return Filter(expression.name, value, arguments);
}

Value Interpreter::Filter(std::string_view name, const Value& value, const Arguments& arguments) {
  Charge(1);
  FilterFunction function = FindTextFilter(name);
  if (function == nullptr) function = FindSequenceFilter(name);
  if (function == nullptr) Fail(absl::StrCat("no filter named '", AsAbsl(name), "'"));
  return function(*this, value, arguments);
}

bool Interpreter::Test(std::string_view name, const Value& value, const Arguments& arguments) {
  Charge(1);
  const TestFunction function = FindTest(name);
  if (function == nullptr) Fail(absl::StrCat("no test named '", AsAbsl(name), "'"));
  return function(*this, value, arguments);
}

std::shared_ptr<const Sequence> Interpreter::Iterate(const Value& value) {
  if (auto list = value.shared_sequence()) return list;
  auto out = std::make_shared<Sequence>();
  if (value.is_text()) {
    ChargeBytes(value.text().size() * 16);
    for (std::string_view character : Characters(value.text())) out->items.emplace_back(character);
    out->weight = static_cast<int64_t>(out->items.size());
    return out;
  }
  if (const Dict* dict = value.dict()) {
    for (const auto& [key, item] : dict->items) out->items.push_back(key);
    return out;
  }
  if (value.is_undefined()) return out;
  Fail(absl::StrCat("'", AsAbsl(value.type_name()), "' object is not iterable"));
}

}  // namespace pagoda::text::jinja
