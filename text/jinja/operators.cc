// Python's arithmetic on template values.
#include <algorithm>
#include <cmath>

#include "text/jinja/format.h"
#include "text/jinja/interpreter.h"
#include "text/jinja/text_methods.h"
#include "text/unicode.h"

namespace pagoda::text::jinja {
namespace {

[[noreturn]] void Unsupported(std::string_view op, const Value& left, const Value& right) {
  for (const Value* value : {&left, &right}) {
    if (value->is_undefined() && value->undefined().why != nullptr) Fail(*value->undefined().why);
  }
  Fail(absl::StrCat("unsupported operand types for ", AsAbsl(op), ": '", AsAbsl(left.type_name()),
                    "' and '", AsAbsl(right.type_name()), "'"));
}

[[noreturn]] void Overflow() { Fail("an integer of the chat template is too large"); }

Value Repeat(Interpreter& interpreter, const Value& value, int64_t count) {
  count = std::max<int64_t>(count, 0);
  if (value.is_text()) {
    const auto size = static_cast<int64_t>(value.text().size());
    if (size > 0 && count > (int64_t{1} << 40) / size) interpreter.CheckSize(int64_t{1} << 40);
    interpreter.ChargeBytes(static_cast<size_t>(size * count));
    std::string out;
    out.reserve(static_cast<size_t>(size * count));
    if (size > 0) {
      for (int64_t i = 0; i < count; ++i) out += value.text();
    }
    return Value(std::move(out));
  }
  const Sequence& list = *value.sequence();
  const auto size = static_cast<int64_t>(list.items.size());
  if (size > 0 && count > (int64_t{1} << 40) / size) interpreter.Charge(int64_t{1} << 40);
  interpreter.Charge(size * count);
  std::vector<Value> items;
  if (size > 0) {
    for (int64_t i = 0; i < count; ++i) {
      items.insert(items.end(), list.items.begin(), list.items.end());
    }
  }
  return MakeSequence(list.kind, std::move(items));
}

bool Repeatable(const Value& value) {
  return value.is_text() ||
         (value.sequence() != nullptr && value.sequence()->kind <= SequenceKind::kTuple);
}

double FloorModulo(double a, double b) {
  const double remainder = std::fmod(a, b);
  return remainder != 0 && (remainder < 0) != (b < 0) ? remainder + b : remainder;
}

}  // namespace

Value Add(Interpreter& interpreter, const Value& left, const Value& right) {
  if (left.is_integral() && right.is_integral()) {
    int64_t sum = 0;
    if (__builtin_add_overflow(left.integer(), right.integer(), &sum)) Overflow();
    return Value(sum);
  }
  if (left.is_number() && right.is_number()) return Value(left.number() + right.number());
  if (left.is_text() && right.is_text()) {
    interpreter.ChargeBytes(left.text().size() + right.text().size());
    if (left.is_safe() || right.is_safe()) {
      return Value::Safe((left.is_safe() ? left.text() : EscapeHtml(left.text())) +
                         (right.is_safe() ? right.text() : EscapeHtml(right.text())));
    }
    return Value(left.text() + right.text());
  }
  const Sequence* a = left.sequence();
  const Sequence* b = right.sequence();
  if (a != nullptr && b != nullptr && a->kind == b->kind && a->kind <= SequenceKind::kTuple) {
    interpreter.Charge(static_cast<int64_t>(a->items.size() + b->items.size()) / 8);
    std::vector<Value> items = a->items;
    items.insert(items.end(), b->items.begin(), b->items.end());
    return MakeSequence(a->kind, std::move(items));
  }
  Unsupported("+", left, right);
}

Value Multiply(Interpreter& interpreter, const Value& left, const Value& right) {
  if (left.is_integral() && right.is_integral()) {
    int64_t product = 0;
    if (__builtin_mul_overflow(left.integer(), right.integer(), &product)) Overflow();
    return Value(product);
  }
  if (left.is_number() && right.is_number()) return Value(left.number() * right.number());
  if (Repeatable(left) && right.is_integral()) return Repeat(interpreter, left, right.integer());
  if (Repeatable(right) && left.is_integral()) return Repeat(interpreter, right, left.integer());
  Unsupported("*", left, right);
}

Value Divide(Operator op, const Value& left, const Value& right) {
  if (!left.is_number() || !right.is_number()) {
    Unsupported(op == Operator::kDivide ? "/" : op == Operator::kModulo ? "%" : "//", left, right);
  }
  if (right.number() == 0) Fail("division by zero");
  if (op == Operator::kDivide) return Value(left.number() / right.number());
  if (left.is_integral() && right.is_integral()) {
    const int64_t a = left.integer(), b = right.integer();
    if (b == -1) return op == Operator::kModulo ? Value(0) : Negate(left);
    int64_t quotient = a / b;
    int64_t remainder = a % b;
    if (remainder != 0 && (remainder < 0) != (b < 0)) {
      --quotient;
      remainder += b;
    }
    return Value(op == Operator::kModulo ? remainder : quotient);
  }
  const double a = left.number(), b = right.number();
  if (op == Operator::kModulo) return Value(FloorModulo(a, b));
  return Value(std::floor((a - FloorModulo(a, b)) / b + 0.5));
}

Value Power(const Value& left, const Value& right) {
  if (!left.is_number() || !right.is_number()) Unsupported("**", left, right);
  if (!left.is_integral() || !right.is_integral() || right.integer() < 0) {
    if (left.number() == 0 && right.number() < 0) Fail("0.0 cannot be raised to a negative power");
    return Value(std::pow(left.number(), right.number()));
  }
  int64_t result = 1, base = left.integer();
  for (int64_t exponent = right.integer(); exponent > 0; exponent >>= 1) {
    if ((exponent & 1) != 0 && __builtin_mul_overflow(result, base, &result)) Overflow();
    if (exponent > 1 && __builtin_mul_overflow(base, base, &base)) Overflow();
  }
  return Value(result);
}

Value Negate(const Value& value) {
  if (value.is_integral()) {
    int64_t result = 0;
    if (__builtin_sub_overflow(int64_t{0}, value.integer(), &result)) Overflow();
    return Value(result);
  }
  if (value.is_float()) return Value(-value.number());
  if (value.is_undefined() && value.undefined().why != nullptr) Fail(*value.undefined().why);
  Fail(absl::StrCat("bad operand type for unary -: '", AsAbsl(value.type_name()), "'"));
}

namespace {

// One %-conversion of PercentFormat: flags, width and precision are handed to printf.
std::string FormatOne(Interpreter& interpreter, const std::string& spec, char kind, const Value& value) {
  if (kind == 's' || kind == 'r') {
    std::string text;
    if (kind == 's') {
      text = interpreter.Str(value);
    } else {
      AppendRepr(value, [&](size_t size) { interpreter.CheckSize(static_cast<int64_t>(size)); }, &text);
    }
    if (spec.empty()) return text;
    const bool left = spec[0] == '-';
    const int width = std::atoi(spec.c_str() + (left ? 1 : 0));
    const auto size = static_cast<int>(CountCodePoints(text));
    const std::string padding(static_cast<size_t>(std::max(0, width - size)), ' ');
    return left ? text + padding : padding + text;
  }
  if (!value.is_number()) Fail(absl::StrCat("%", std::string(1, kind), " format: a number is required"));
  char buffer[512];
  if (kind == 'd' || kind == 'i' || kind == 'u' || kind == 'x' || kind == 'X' || kind == 'o') {
    const auto number = value.is_float() ? static_cast<int64_t>(value.number()) : value.integer();
    const std::string format = "%" + spec + "l" + (kind == 'i' || kind == 'u' ? 'd' : kind);
    std::snprintf(buffer, sizeof(buffer), format.c_str(), static_cast<long>(number));
  } else {
    const std::string format = "%" + spec + kind;
    std::snprintf(buffer, sizeof(buffer), format.c_str(), value.number());
  }
  return buffer;
}

}  // namespace

Value PercentFormat(Interpreter& interpreter, std::string_view format, const Value& values) {
  std::vector<Value> list;
  if (values.sequence() != nullptr && values.sequence()->kind == SequenceKind::kTuple) {
    list = values.sequence()->items;
  } else {
    list.push_back(values);
  }
  std::string out;
  size_t used = 0;
  for (size_t i = 0; i < format.size(); ++i) {
    if (format[i] != '%') {
      out += format[i];
      continue;
    }
    if (++i >= format.size()) Fail("incomplete format");
    if (format[i] == '%') {
      out += '%';
      continue;
    }
    const Value* value = nullptr;
    if (format[i] == '(') {
      const size_t close = format.find(')', i);
      if (close == std::string_view::npos || values.dict() == nullptr) Fail("format requires a mapping");
      value = values.dict()->Find(format.substr(i + 1, close - i - 1));
      if (value == nullptr) Fail("a key of the format is missing");
      i = close + 1;
      used = list.size();
    }
    std::string spec;
    while (i < format.size() && std::string_view("-+ #0123456789.").find(format[i]) != std::string_view::npos) {
      spec += format[i++];
    }
    if (spec.size() > 6 || i >= format.size() ||
        std::string_view("sdiuxXorfFeEgG").find(format[i]) == std::string_view::npos) {
      Fail("unsupported format character");
    }
    if (std::atoi(spec.c_str() + spec.find_first_not_of("-+ #0") * (spec.find_first_not_of("-+ #0") != std::string::npos)) > 200) {
      Fail("the width of a format is too large");
    }
    if (value == nullptr) {
      if (used >= list.size()) Fail("not enough arguments for format string");
      value = &list[used++];
    }
    out += FormatOne(interpreter, spec, format[i], *value);
    interpreter.CheckSize(static_cast<int64_t>(out.size()));
  }
  if (used < list.size() && values.dict() == nullptr) {
    Fail("not all arguments converted during string formatting");
  }
  interpreter.ChargeBytes(out.size());
  return Value(std::move(out));
}

Value ReplaceWithin(Interpreter& interpreter, std::string_view text, std::string_view from,
                    std::string_view to, int64_t count) {
  if (to.size() > from.size()) {
    size_t places = from.empty() ? CountCodePoints(text) + 1 : 0;
    if (!from.empty()) {
      for (size_t at = 0; (at = text.find(from, at)) != std::string_view::npos; at += from.size()) ++places;
    }
    if (count >= 0) places = std::min(places, static_cast<size_t>(count));
    interpreter.ChargeBytes(text.size() + places * (to.size() - from.size()));
  }
  return Value(ReplaceAll(text, from, to, count));
}

}  // namespace pagoda::text::jinja
