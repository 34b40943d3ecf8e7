// Methods of strings, dicts and sequences. Those that would change a value are refused, as in the reference sandbox.
#include <algorithm>
#include <optional>

#include "text/jinja/format.h"
#include "text/jinja/interpreter.h"
#include "text/jinja/text_methods.h"
#include "text/unicode.h"

namespace pagoda::text::jinja {
namespace {

constexpr std::string_view kTextMethods[] = {
    "strip",  "lstrip",   "rstrip",  "split",      "rsplit",       "splitlines",   "startswith",
    "endswith", "upper",  "lower",   "title",      "capitalize",   "replace",      "find",
    "rfind",  "count",    "join",    "format",     "isdigit",      "isalpha",      "isalnum",
    "isspace", "isupper", "islower", "removeprefix", "removesuffix", "index",      "zfill",
    "partition", "rpartition", "ljust", "rjust",   "isnumeric",    "isdecimal",    "swapcase",
    "casefold", "center",  "encode"};
constexpr std::string_view kDictMethods[] = {"get",  "items",  "keys",    "values", "copy",
                                             "pop",  "update", "setdefault", "clear", "popitem"};
constexpr std::string_view kListMethods[] = {"index",  "count", "copy", "append", "extend",
                                             "insert", "pop",   "remove", "reverse", "sort", "clear"};
constexpr std::string_view kTupleMethods[] = {"index", "count"};

template <size_t N>
bool Holds(const std::string_view (&list)[N], std::string_view name) {
  return std::find(std::begin(list), std::end(list), name) != std::end(list);
}

[[noreturn]] void Unsafe(std::string_view name, const Value& value) {
  Fail(absl::StrCat("access to attribute '", AsAbsl(name), "' of '", AsAbsl(value.type_name()),
                    "' object is unsafe"));
}

std::optional<std::string_view> OptionalText(const Value* value) {
  if (value == nullptr || value->is_none()) return std::nullopt;
  if (!value->is_text()) Fail("a method of a string was given something else than a string");
  return value->text();
}

const std::string& NeedText(const Value& value) {
  if (!value.is_text()) {
    if (value.is_undefined() && value.undefined().why != nullptr) Fail(*value.undefined().why);
    Fail(absl::StrCat("a string is needed, not '", AsAbsl(value.type_name()), "'"));
  }
  return value.text();
}

Value ListOf(Interpreter& interpreter, const std::vector<std::string_view>& parts, bool tuple = false) {
  interpreter.Charge(static_cast<int64_t>(parts.size()));
  std::vector<Value> items(parts.begin(), parts.end());
  return tuple ? MakeTuple(std::move(items)) : MakeList(std::move(items));
}

// startswith and endswith take one string or a tuple of them.
bool TouchesEnd(const std::string& text, const Value& what, bool start) {
  if (const Sequence* list = what.sequence(); list != nullptr && list->kind == SequenceKind::kTuple) {
    return std::any_of(list->items.begin(), list->items.end(),
                       [&](const Value& item) { return TouchesEnd(text, item, start); });
  }
  const std::string& part = NeedText(what);
  return start ? text.starts_with(part) : text.ends_with(part);
}

// How many code points lie before a byte.
Value CodePointIndex(const std::string& text, size_t byte) {
  if (byte == std::string::npos) return Value(-1);
  return Value(CountCodePoints(std::string_view(text).substr(0, byte)));
}

template <typename Predicate>
bool AllCharacters(const std::string& text, Predicate predicate) {
  for (size_t i = 0; i < text.size();) {
    const Utf8Step step = DecodeUtf8(text, i);
    if (!predicate(step.code_point)) return false;
    i += step.length;
  }
  return !text.empty();
}

bool IsLetter(char32_t c) {
  return c < 0x80 ? (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z')
                  : IsWordCharacter(c) && !IsNumeric(c) && !IsMark(c) && c != 0x203F;
}

bool TextPredicate(std::string_view name, const std::string& text) {
  if (name == "isspace") return AllCharacters(text, IsPythonSpace);
  if (name == "isalpha") return AllCharacters(text, IsLetter);
  if (name == "isalnum") {
    return AllCharacters(text, [](char32_t c) { return IsLetter(c) || IsNumeric(c); });
  }
  if (name == "isupper") return ToUpper(text) == text && ToLower(text) != text;
  if (name == "islower") return ToLower(text) == text && ToUpper(text) != text;
  return AllCharacters(text, IsNumeric);  // isdigit, isdecimal, isnumeric
}

// str.format with plain fields: {}, {0}, {name}. Conversions and format specifications are refused.
Value FormatMethod(Interpreter& interpreter, const std::string& format, const Arguments& arguments) {
  std::string out;
  size_t next = 0;
  for (size_t i = 0; i < format.size(); ++i) {
    const char c = format[i];
    if ((c == '{' || c == '}') && i + 1 < format.size() && format[i + 1] == c) {
      out += c;
      ++i;
      continue;
    }
    if (c == '}') Fail("single '}' in a format string");
    if (c != '{') {
      out += c;
      continue;
    }
    const size_t close = format.find('}', i);
    if (close == std::string::npos) Fail("single '{' in a format string");
    const std::string field = format.substr(i + 1, close - i - 1);
    i = close;
    const bool number = std::all_of(field.begin(), field.end(), [](char d) { return d >= '0' && d <= '9'; });
    if (number && field.size() < 9) {
      const size_t index = field.empty() ? next++ : static_cast<size_t>(std::stoi(field));
      if (index >= arguments.positional.size()) Fail("a format string has more fields than arguments");
      out += interpreter.Str(arguments.positional[index]);
      continue;
    }
    const auto named = std::find_if(arguments.named.begin(), arguments.named.end(),
                                    [&](const auto& item) { return item.first == field; });
    if (named == arguments.named.end()) Fail(absl::StrCat("the format field {", field, "} is not supported"));
    out += interpreter.Str(named->second);
  }
  interpreter.ChargeBytes(out.size());
  return Value(std::move(out));
}

Value Partition(const std::string& text, const std::string& separator, bool from_right) {
  if (separator.empty()) Fail("empty separator");
  const size_t at = from_right ? text.rfind(separator) : text.find(separator);
  if (at == std::string::npos) {
    return from_right ? MakeTuple({Value(""), Value(""), Value(text)})
                      : MakeTuple({Value(text), Value(""), Value("")});
  }
  return MakeTuple({Value(text.substr(0, at)), Value(separator), Value(text.substr(at + separator.size()))});
}

Value Justify(Interpreter& interpreter, std::string_view name, const std::string& text, const Arguments& arguments) {
  const ArgumentReader args(name, arguments, {"width", "fillchar"});
  const int64_t width = args.Integer(0, 0);
  interpreter.CheckSize(width);
  const auto size = static_cast<int64_t>(CountCodePoints(text));
  const int64_t missing = std::max<int64_t>(0, width - size);
  interpreter.ChargeBytes(static_cast<size_t>(missing) + text.size());
  const std::string fill(name == "zfill" ? std::string_view("0") : args.String(1, " "));
  const auto repeat = [&](int64_t count) { return ReplaceAll(std::string(count, ' '), " ", fill, -1); };
  if (name == "ljust") return Value(text + repeat(missing));
  if (name == "center") {
    const int64_t left = missing / 2 + (missing & width & 1);
    return Value(repeat(left) + text + repeat(missing - left));
  }
  if (name == "zfill" && !text.empty() && (text[0] == '-' || text[0] == '+')) {
    return Value(text.substr(0, 1) + repeat(missing) + text.substr(1));
  }
  return Value(repeat(missing) + text);
}

Value JoinMethod(Interpreter& interpreter, const std::string& separator, const Value& items) {
  std::string out;
  bool first = true;
  const auto source = interpreter.Iterate(items);
  for (const Value& item : source->items) {
    if (!first) out += separator;
    first = false;
    out += NeedText(item);
    interpreter.CheckSize(static_cast<int64_t>(out.size()));
    interpreter.Charge(1);
  }
  interpreter.ChargeBytes(out.size());
  return Value(std::move(out));
}

Value TextMethod(Interpreter& interpreter, const Value& self, std::string_view name,
                 const Arguments& arguments) {
  const std::string& text = self.text();
  interpreter.ChargeBytes(text.size());
  if (name == "format") return FormatMethod(interpreter, text, arguments);
  if (name == "split" || name == "rsplit") {
    const ArgumentReader args(name, arguments, {"sep", "maxsplit"});
    return ListOf(interpreter, Split(text, OptionalText(args.Get(0)), args.Integer(1, -1), name == "rsplit"));
  }
  if (name == "splitlines") {
    const ArgumentReader args(name, arguments, {"keepends"});
    return ListOf(interpreter, SplitLines(text, args.Flag(0, false)));
  }
  if (name == "ljust" || name == "rjust" || name == "zfill" || name == "center") {
    return Justify(interpreter, name, text, arguments);
  }
  const ArgumentReader args(name, arguments, {"first", "second", "third"});
  if (name == "strip") {
    const auto characters = OptionalText(args.Get(0));
    return Value(StripRight(StripLeft(text, characters), characters));
  }
  if (name == "lstrip") return Value(StripLeft(text, OptionalText(args.Get(0))));
  if (name == "rstrip") return Value(StripRight(text, OptionalText(args.Get(0))));
  if (name == "startswith") return Value(TouchesEnd(text, args.Require(0), true));
  if (name == "endswith") return Value(TouchesEnd(text, args.Require(0), false));
  if (name == "upper") return Value(ToUpper(text));
  if (name == "lower" || name == "casefold") return Value(ToLower(text));
  if (name == "title") return Value(ToTitle(text));
  if (name == "capitalize") return Value(Capitalize(text));
  if (name == "replace") {
    const std::string& from = NeedText(args.Require(0));
    const std::string& to = NeedText(args.Require(1));
    return ReplaceWithin(interpreter, text, from, to, args.Integer(2, -1));
  }
  if (name == "find") return CodePointIndex(text, text.find(NeedText(args.Require(0))));
  if (name == "rfind") return CodePointIndex(text, text.rfind(NeedText(args.Require(0))));
  if (name == "index") {
    const size_t at = text.find(NeedText(args.Require(0)));
    if (at == std::string::npos) Fail("substring not found");
    return CodePointIndex(text, at);
  }
  if (name == "count") {
    const std::string& part = NeedText(args.Require(0));
    if (part.empty()) return Value(CountCodePoints(text) + 1);
    return Value(Split(text, part, -1, false).size() - 1);
  }
  if (name == "join") return JoinMethod(interpreter, text, args.Require(0));
  if (name == "partition") return Partition(text, NeedText(args.Require(0)), false);
  if (name == "rpartition") return Partition(text, NeedText(args.Require(0)), true);
  if (name == "removeprefix" || name == "removesuffix") {
    const std::string& part = NeedText(args.Require(0));
    if (name == "removeprefix") return Value(text.starts_with(part) ? text.substr(part.size()) : text);
    return Value(text.ends_with(part) ? text.substr(0, text.size() - part.size()) : text);
  }
  if (name.starts_with("is")) return Value(TextPredicate(name, text));
  Fail(absl::StrCat("the method ", AsAbsl(name), " of strings is not supported"));
}

Value DictMethod(const Value& self, std::string_view name, const Arguments& arguments) {
  const Dict& dict = *self.dict();
  const ArgumentReader args(name, arguments, {"key", "default"});
  if (name == "get") {
    const Value* found = dict.Find(args.Require(0));
    if (found != nullptr) return *found;
    return args.Get(1) != nullptr ? *args.Get(1) : Value(None{});
  }
  if (name == "copy") return self;
  std::vector<Value> items;
  for (const auto& [key, value] : dict.items) {
    items.push_back(name == "keys" ? key : name == "values" ? value : MakeTuple({key, value}));
  }
  if (name == "keys") return MakeSequence(SequenceKind::kDictKeys, std::move(items));
  if (name == "values") return MakeSequence(SequenceKind::kDictValues, std::move(items));
  if (name == "items") return MakeSequence(SequenceKind::kDictItems, std::move(items));
  Unsafe(name, self);
}

Value ListMethod(Interpreter& interpreter, const Value& self, std::string_view name,
                 const Arguments& arguments) {
  const Sequence& list = *self.sequence();
  if (name == "copy") return self;
  if (name != "index" && name != "count") Unsafe(name, self);
  const ArgumentReader args(name, arguments, {"value"});
  interpreter.Charge(list.weight);
  int64_t count = 0;
  for (size_t i = 0; i < list.items.size(); ++i) {
    if (!Equal(list.items[i], args.Require(0))) continue;
    if (name == "index") return Value(i);
    ++count;
  }
  if (name == "index") Fail("the value is not in the list");
  return Value(count);
}

// loop.cycle and loop.changed.
Value LoopMethod(LoopState& loop, std::string_view name, const Arguments& arguments) {
  if (name == "cycle") {
    if (arguments.positional.empty()) Fail("no items for cycling given");
    return arguments.positional[loop.index % arguments.positional.size()];
  }
  const bool same = loop.has_changed && loop.last_changed.size() == arguments.positional.size() &&
                    std::equal(loop.last_changed.begin(), loop.last_changed.end(),
                               arguments.positional.begin(), Equal);
  loop.has_changed = true;
  loop.last_changed = arguments.positional;
  return Value(!same);
}

}  // namespace

bool HasMethod(const Value& value, std::string_view name) {
  if (value.is_text()) return Holds(kTextMethods, name);
  if (value.dict() != nullptr) return Holds(kDictMethods, name);
  if (value.loop() != nullptr) return name == "cycle" || name == "changed";
  if (const Sequence* list = value.sequence()) {
    if (list->kind == SequenceKind::kList) return Holds(kListMethods, name);
    return list->kind == SequenceKind::kTuple && Holds(kTupleMethods, name);
  }
  return false;
}

Value CallMethod(Interpreter& interpreter, const Value& value, std::string_view name,
                 const Arguments& arguments) {
  if (value.is_text()) return TextMethod(interpreter, value, name, arguments);
  if (value.dict() != nullptr) {
    interpreter.Charge(static_cast<int64_t>(value.dict()->items.size()) / 8);
    return DictMethod(value, name, arguments);
  }
  if (LoopState* loop = value.loop()) return LoopMethod(*loop, name, arguments);
  return ListMethod(interpreter, value, name, arguments);
}

}  // namespace pagoda::text::jinja
