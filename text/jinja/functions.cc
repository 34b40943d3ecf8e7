// Functions of the environment, and the reading of arguments.
#include <algorithm>
#include <ctime>

#include "absl/container/flat_hash_map.h"
#include "text/jinja/interpreter.h"

namespace pagoda::text::jinja {

ArgumentReader::ArgumentReader(std::string_view callee, const Arguments& arguments,
                               std::initializer_list<std::string_view> names)
    : callee_(callee), names_(names), values_(names.size(), nullptr) {
  if (arguments.positional.size() > names_.size()) {
    Fail(absl::StrCat(callee_, " takes at most ", names_.size(), " arguments, not ",
                      arguments.positional.size()));
  }
  for (size_t i = 0; i < arguments.positional.size(); ++i) values_[i] = &arguments.positional[i];
  for (const auto& [name, value] : arguments.named) {
    const auto at = std::find(names_.begin(), names_.end(), name);
    if (at == names_.end() || values_[at - names_.begin()] != nullptr) {
      Fail(absl::StrCat(callee_, " takes no further argument '", name, "'"));
    }
    values_[at - names_.begin()] = &value;
  }
}

const Value& ArgumentReader::Require(size_t index) const {
  if (values_[index] == nullptr) {
    Fail(absl::StrCat(callee_, " misses its argument '", AsAbsl(names_[index]), "'"));
  }
  return *values_[index];
}

bool ArgumentReader::Flag(size_t index, bool fallback) const {
  return values_[index] != nullptr ? Truthy(*values_[index]) : fallback;
}

int64_t ArgumentReader::Integer(size_t index, int64_t fallback) const {
  if (values_[index] == nullptr || values_[index]->is_none()) return fallback;
  if (!values_[index]->is_integral()) {
    Fail(absl::StrCat(callee_, ": '", AsAbsl(names_[index]), "' must be an integer"));
  }
  return values_[index]->integer();
}

std::string_view ArgumentReader::String(size_t index, std::string_view fallback) const {
  if (values_[index] == nullptr) return fallback;
  if (!values_[index]->is_text()) {
    Fail(absl::StrCat(callee_, ": '", AsAbsl(names_[index]), "' must be a string"));
  }
  return values_[index]->text();
}

namespace {

constexpr int64_t kMaxRange = 100'000;  // of the reference sandbox

using Function = Value (*)(Interpreter&, const Arguments&);

struct FunctionValue : Callable {
  Function function = nullptr;
  Value Call(Interpreter& interpreter, const Arguments& arguments) const override {
    return function(interpreter, arguments);
  }
};

Value Range(Interpreter& interpreter, const Arguments& arguments) {
  const ArgumentReader args("range", arguments, {"start", "stop", "step"});
  int64_t start = 0, stop = 0;
  if (!args.Require(0).is_integral()) Fail("range needs integers");
  if (args.Get(1) == nullptr) {
    stop = args.Integer(0, 0);
  } else {
    start = args.Integer(0, 0), stop = args.Integer(1, 0);
  }
  const int64_t step = args.Integer(2, 1);
  if (step == 0) Fail("range() arg 3 must not be zero");
  std::vector<Value> items;
  for (int64_t i = start; step > 0 ? i < stop : i > stop;) {
    if (static_cast<int64_t>(items.size()) >= kMaxRange) Fail("the range is too big: at most 100000 items");
    items.emplace_back(i);
    if (__builtin_add_overflow(i, step, &i)) break;
  }
  interpreter.Charge(static_cast<int64_t>(items.size()) / 8);
  return MakeSequence(SequenceKind::kRange, std::move(items));
}

std::shared_ptr<Dict> DictFrom(Interpreter& interpreter, const Arguments& arguments) {
  auto dict = std::make_shared<Dict>();
  if (arguments.positional.size() > 1) Fail("dict takes at most one positional argument");
  for (const Value& from : arguments.positional) {
    if (const Dict* other = from.dict()) {
      for (const auto& [key, value] : other->items) dict->Set(key, value);
      continue;
    }
    const auto source = interpreter.Iterate(from);
    for (const Value& pair : source->items) {
      const auto items = interpreter.Iterate(pair);
      if (items->items.size() != 2) Fail("dict needs pairs");
      dict->Set(items->items[0], items->items[1]);
      interpreter.Charge(1);
    }
  }
  for (const auto& [name, value] : arguments.named) dict->Set(Value(name), value);
  return dict;
}

Value MakeDictFunction(Interpreter& interpreter, const Arguments& arguments) {
  return MakeDict(DictFrom(interpreter, arguments));
}

Value MakeNamespaceFunction(Interpreter& interpreter, const Arguments& arguments) {
  auto made = std::make_shared<Namespace>();
  const auto source = DictFrom(interpreter, arguments);
  for (const auto& [key, value] : source->items) {
    if (!key.is_text()) Fail("a namespace needs names");
    if (key.text().starts_with('_')) Fail("attributes of a namespace cannot begin with an underscore");
    made->Set(key.text(), value);
  }
  return interpreter.MakeNamespace(std::move(made));
}

Value RaiseException(Interpreter& interpreter, const Arguments& arguments) {
  const ArgumentReader args("raise_exception", arguments, {"message"});
  Fail(interpreter.Str(args.Require(0)));
}

Value StrftimeNow(Interpreter& interpreter, const Arguments& arguments) {
  const ArgumentReader args("strftime_now", arguments, {"format"});
  const std::string format(args.String(0, ""));
  const auto now = static_cast<std::time_t>(interpreter.now_unix());
  std::tm parts{};
  gmtime_r(&now, &parts);
  if (args.Get(0) == nullptr || format.size() > 1000) Fail("strftime_now needs a format of at most 1000 bytes");
  if (format.empty()) return Value("");
  // A mark at the end tells an empty result from a buffer that is too small.
  std::string out(format.size() * 64 + 64, '\0');
  const size_t size = std::strftime(out.data(), out.size(), (format + "|").c_str(), &parts);
  if (size == 0) Fail("strftime_now made a text that is too long");
  out.resize(size - 1);
  return Value(std::move(out));
}

// joiner(sep): empty at its first call, `sep` after.
struct Joiner : Callable {
  std::string separator;
  mutable bool used = false;
  Value Call(Interpreter&, const Arguments&) const override {
    return Value(std::exchange(used, true) ? separator : std::string());
  }
};

Value MakeJoiner(Interpreter&, const Arguments& arguments) {
  const ArgumentReader args("joiner", arguments, {"sep"});
  auto made = std::make_shared<Joiner>();
  made->name = "joiner";
  made->separator = args.String(0, ", ");
  return Value(std::shared_ptr<const Callable>(std::move(made)));
}

Value Wrap(std::string_view name, Function function) {
  auto made = std::make_shared<FunctionValue>();
  made->name = name;
  made->function = function;
  return Value(std::shared_ptr<const Callable>(std::move(made)));
}

}  // namespace

Value GlobalFunction(std::string_view name) {
  static const auto& functions = *new absl::flat_hash_map<std::string_view, Value>{
      {"range", Wrap("range", Range)},
      {"dict", Wrap("dict", MakeDictFunction)},
      {"namespace", Wrap("namespace", MakeNamespaceFunction)},
      {"raise_exception", Wrap("raise_exception", RaiseException)},
      {"strftime_now", Wrap("strftime_now", StrftimeNow)},
      {"joiner", Wrap("joiner", MakeJoiner)},
  };
  const auto found = functions.find(name);
  return found == functions.end() ? Value() : found->second;
}

}  // namespace pagoda::text::jinja
