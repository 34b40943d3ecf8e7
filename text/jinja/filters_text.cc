// Filters whose result is a text or a number. Source: jinja2 3.1, filters.py; tojson as transformers overrides it.
#include <algorithm>
#include <charconv>
#include <cmath>
#include <optional>

#include "absl/container/flat_hash_map.h"
#include "text/jinja/format.h"
#include "text/jinja/interpreter.h"
#include "text/jinja/text_methods.h"
#include "text/unicode.h"

namespace pagoda::text::jinja {
namespace {

Value Upper(Interpreter& interpreter, const Value& value, const Arguments&) {
  return Value(ToUpper(interpreter.Str(value)));
}
Value Lower(Interpreter& interpreter, const Value& value, const Arguments&) {
  return Value(ToLower(interpreter.Str(value)));
}
Value Title(Interpreter& interpreter, const Value& value, const Arguments&) {
  return Value(TitleFilter(interpreter.Str(value)));
}
Value CapitalizeFilter(Interpreter& interpreter, const Value& value, const Arguments&) {
  return Value(Capitalize(interpreter.Str(value)));
}
Value String(Interpreter& interpreter, const Value& value, const Arguments&) {
  return value.is_text() ? value : Value(interpreter.Str(value));
}
Value Safe(Interpreter& interpreter, const Value& value, const Arguments&) {
  return Value::Safe(interpreter.Str(value));
}
Value Escape(Interpreter& interpreter, const Value& value, const Arguments&) {
  if (value.is_safe()) return value;
  return Value::Safe(EscapeHtml(interpreter.Str(value)));
}

Value Trim(Interpreter& interpreter, const Value& value, const Arguments& arguments) {
  const ArgumentReader args("trim", arguments, {"chars"});
  const std::string text = interpreter.Str(value);
  std::optional<std::string_view> characters;
  if (args.Get(0) != nullptr && args.Get(0)->is_text()) characters = args.Get(0)->text();
  return Value(StripRight(StripLeft(text, characters), characters));
}

Value Replace(Interpreter& interpreter, const Value& value, const Arguments& arguments) {
  const ArgumentReader args("replace", arguments, {"old", "new", "count"});
  return ReplaceWithin(interpreter, interpreter.Str(value), interpreter.Str(args.Require(0)),
                       interpreter.Str(args.Require(1)), args.Integer(2, -1));
}

Value Indent(Interpreter& interpreter, const Value& value, const Arguments& arguments) {
  const ArgumentReader args("indent", arguments, {"width", "first", "blank"});
  if (!value.is_text()) Fail("indent needs a string");
  std::string indention(4, ' ');
  if (const Value* width = args.Get(0); width != nullptr) {
    if (width->is_text()) {
      indention = width->text();
    } else {
      interpreter.CheckSize(args.Integer(0, 4));
      indention.assign(static_cast<size_t>(std::max<int64_t>(0, args.Integer(0, 4))), ' ');
    }
  }
  const bool first = args.Flag(1, false), blank = args.Flag(2, false);
  const std::string text = value.text() + "\n";
  const auto lines = SplitLines(text, false);
  interpreter.ChargeBytes(text.size() + lines.size() * indention.size());
  std::string out;
  for (size_t i = 0; i < lines.size(); ++i) {
    if (i > 0) out += '\n';
    if (i == 0 ? first : (blank || !lines[i].empty())) out += indention;
    out += lines[i];
  }
  return Value(std::move(out));
}

Value Format(Interpreter& interpreter, const Value& value, const Arguments& arguments) {
  if (!arguments.named.empty()) {
    auto dict = std::make_shared<Dict>();
    for (const auto& [name, item] : arguments.named) dict->Set(Value(name), item);
    return PercentFormat(interpreter, interpreter.Str(value), MakeDict(std::move(dict)));
  }
  return PercentFormat(interpreter, interpreter.Str(value), MakeTuple(arguments.positional));
}

Value ToJson(Interpreter& interpreter, const Value& value, const Arguments& arguments) {
  const ArgumentReader args("tojson", arguments,
                            {"ensure_ascii", "indent", "separators", "sort_keys"});
  JsonOptions options;
  options.ensure_ascii = args.Flag(0, false);
  options.sort_keys = args.Flag(3, false);
  if (const Value* indent = args.Get(1); indent != nullptr && !indent->is_none()) {
    options.pretty = true;
    options.item_separator = ",";
    if (indent->is_text()) {
      options.indent = indent->text();
    } else {
      options.indent.assign(static_cast<size_t>(std::clamp<int64_t>(args.Integer(1, 0), 0, 1000)), ' ');
    }
  }
  if (const Value* separators = args.Get(2); separators != nullptr && !separators->is_none()) {
    const auto pair = interpreter.Iterate(*separators);
    if (pair->items.size() != 2 || !pair->items[0].is_text() || !pair->items[1].is_text()) {
      Fail("tojson's separators must be two strings");
    }
    options.item_separator = pair->items[0].text();
    options.key_separator = pair->items[1].text();
  }
  std::string out = FormatJson(value, options, [&](size_t size) {
    interpreter.Charge(1);
    interpreter.CheckSize(static_cast<int64_t>(size));
  });
  interpreter.ChargeBytes(out.size());
  return Value(std::move(out));
}

// A number out of a text as Python's float() or int() reads it; nothing when it is none.
std::optional<double> ParseFloat(std::string_view text) {
  text = StripRight(StripLeft(text, std::nullopt), std::nullopt);
  std::string digits(text);
  std::erase(digits, '_');
  std::string_view rest = digits;
  const bool negative = rest.starts_with('-');
  if (negative || rest.starts_with('+')) rest.remove_prefix(1);
  if (rest.empty() || rest.starts_with('-')) return std::nullopt;
  double value = 0;
  const auto [end, error] = std::from_chars(rest.data(), rest.data() + rest.size(), value);
  if (end != rest.data() + rest.size()) return std::nullopt;
  if (error == std::errc::result_out_of_range) value = HUGE_VAL;
  return negative ? -value : value;
}

std::optional<int64_t> ParseInteger(std::string_view text, int base) {
  text = StripRight(StripLeft(text, std::nullopt), std::nullopt);
  std::string digits(text);
  std::erase(digits, '_');
  std::string_view rest = digits;
  const bool negative = rest.starts_with('-');
  if (negative || rest.starts_with('+')) rest.remove_prefix(1);
  if (rest.size() > 2 && rest[0] == '0') {
    const char mark = static_cast<char>(rest[1] | 0x20);
    if ((base == 16 && mark == 'x') || (base == 8 && mark == 'o') || (base == 2 && mark == 'b')) {
      rest.remove_prefix(2);
    }
  }
  int64_t value = 0;
  if (rest.empty() || rest[0] == '-' || base < 2 || base > 36) return std::nullopt;
  const auto [end, error] = std::from_chars(rest.data(), rest.data() + rest.size(), value, base);
  if (error != std::errc() || end != rest.data() + rest.size()) return std::nullopt;
  return negative ? -value : value;
}

std::optional<int64_t> Truncate(double value) {
  if (!std::isfinite(value) || std::fabs(value) >= 9.2e18) return std::nullopt;
  return static_cast<int64_t>(value);
}

Value Int(Interpreter&, const Value& value, const Arguments& arguments) {
  const ArgumentReader args("int", arguments, {"default", "base"});
  const Value fallback = args.Get(0) != nullptr ? *args.Get(0) : Value(0);
  std::optional<int64_t> out;
  if (value.is_integral()) {
    out = value.integer();
  } else if (value.is_float()) {
    out = Truncate(value.number());
  } else if (value.is_text()) {
    out = ParseInteger(value.text(), static_cast<int>(args.Integer(1, 10)));
    if (!out.has_value()) {
      if (const auto number = ParseFloat(value.text())) out = Truncate(*number);
    }
  } else if (value.is_undefined() && value.undefined().why != nullptr) {
    Fail(*value.undefined().why);
  }
  return out.has_value() ? Value(*out) : fallback;
}

Value Float(Interpreter&, const Value& value, const Arguments& arguments) {
  const ArgumentReader args("float", arguments, {"default"});
  if (value.is_number()) return Value(value.number());
  if (value.is_undefined() && value.undefined().why != nullptr) Fail(*value.undefined().why);
  if (value.is_text()) {
    if (const auto number = ParseFloat(value.text())) return Value(*number);
  }
  return args.Get(0) != nullptr ? *args.Get(0) : Value(0.0);
}

Value Abs(Interpreter&, const Value& value, const Arguments&) {
  if (!value.is_number()) Fail("abs needs a number");
  return value.number() < 0 ? Negate(value) : (value.is_bool() ? Value(value.integer()) : value);
}

// round(): half to even at the decimal that is nearest to the binary value, through printf's exact rounding.
double RoundDecimal(double value, int64_t precision) {
  if (!std::isfinite(value) || precision > 300) return value;
  if (precision < 0) {
    const double scale = std::pow(10.0, static_cast<double>(std::min<int64_t>(-precision, 400)));
    return std::isfinite(scale) ? std::nearbyint(value / scale) * scale : 0.0;
  }
  char buffer[700];
  std::snprintf(buffer, sizeof(buffer), "%.*f", static_cast<int>(precision), value);
  double out = 0;
  std::from_chars(buffer, buffer + std::char_traits<char>::length(buffer), out);
  return out;
}

Value Round(Interpreter&, const Value& value, const Arguments& arguments) {
  const ArgumentReader args("round", arguments, {"precision", "method"});
  if (!value.is_number()) Fail("round needs a number");
  const int64_t precision = args.Integer(0, 0);
  const std::string_view method = args.String(1, "common");
  if (method == "common") {
    if (value.is_integral() && precision >= 0) return Value(value.integer());
    const double rounded = RoundDecimal(value.number(), precision);
    return value.is_integral() ? Value(static_cast<int64_t>(rounded)) : Value(rounded);
  }
  if (method != "ceil" && method != "floor") Fail("round's method must be common, ceil or floor");
  const double scale = std::pow(10.0, static_cast<double>(std::clamp<int64_t>(precision, -300, 300)));
  const double scaled = value.number() * scale;
  return Value((method == "ceil" ? std::ceil(scaled) : std::floor(scaled)) / scale);
}

Value WordCount(Interpreter& interpreter, const Value& value, const Arguments&) {
  const std::string text = interpreter.Str(value);
  int64_t words = 0;
  bool inside = false;
  for (size_t i = 0; i < text.size();) {
    const Utf8Step step = DecodeUtf8(text, i);
    const bool word = IsWordCharacter(step.code_point) || IsNumeric(step.code_point);
    words += word && !inside;
    inside = word;
    i += step.length;
  }
  return Value(words);
}

Value Center(Interpreter& interpreter, const Value& value, const Arguments& arguments) {
  const ArgumentReader args("center", arguments, {"width"});
  Arguments inner;
  inner.positional.push_back(Value(args.Integer(0, 80)));
  return CallMethod(interpreter, Value(interpreter.Str(value)), "center", inner);
}

}  // namespace

FilterFunction FindTextFilter(std::string_view name) {
  static const auto& filters = *new absl::flat_hash_map<std::string_view, FilterFunction>{
      {"upper", Upper},   {"lower", Lower},   {"title", Title},     {"capitalize", CapitalizeFilter},
      {"string", String}, {"safe", Safe},     {"escape", Escape},   {"e", Escape},
      {"trim", Trim},     {"replace", Replace}, {"indent", Indent}, {"format", Format},
      {"tojson", ToJson}, {"int", Int},       {"float", Float},     {"abs", Abs},
      {"round", Round},   {"wordcount", WordCount}, {"center", Center},
  };
  const auto found = filters.find(name);
  return found == filters.end() ? nullptr : found->second;
}

}  // namespace pagoda::text::jinja
