// Filters over lists and dicts. Source: jinja2 3.1, filters.py. What Python makes lazily is made at once here, and is
// marked as a generator so that it cannot be indexed or measured either.
#include <algorithm>

#include "absl/container/flat_hash_map.h"
#include "text/jinja/interpreter.h"
#include "text/jinja/text_methods.h"
#include "text/unicode.h"

namespace pagoda::text::jinja {
namespace {

Value Generator(std::vector<Value> items) {
  return MakeSequence(SequenceKind::kGenerator, std::move(items));
}

// The attribute path "a.b.0" looked up from `item`; `fallback` (may be null) stands in for what is undefined.
Value Path(Interpreter& interpreter, Value item, const Value& path, const Value* fallback) {
  if (path.is_none()) return item;
  if (!path.is_text()) {
    item = interpreter.Item(item, path);
    return item.is_undefined() && fallback != nullptr ? *fallback : item;
  }
  for (std::string_view part : Split(path.text(), ".", -1, false)) {
    const bool digits = !part.empty() && part.size() < 10 &&
                        std::all_of(part.begin(), part.end(), [](char c) { return c >= '0' && c <= '9'; });
    item = interpreter.Item(item, digits ? Value(std::stoi(std::string(part))) : Value(part));
    if (item.is_undefined() && fallback != nullptr && !fallback->is_none()) item = *fallback;
  }
  return item;
}

Value IgnoreCase(const Value& value, bool case_sensitive) {
  return !case_sensitive && value.is_text() ? Value(ToLower(value.text())) : value;
}

Value Key(Interpreter& interpreter, const Value& item, const Value* attribute, bool case_sensitive) {
  const Value value = attribute != nullptr ? Path(interpreter, item, *attribute, nullptr) : item;
  interpreter.Charge(value.weight());
  return IgnoreCase(value, case_sensitive);
}

Value Length(Interpreter&, const Value& value, const Arguments&) {
  if (value.is_text()) return Value(CountCodePoints(value.text()));
  if (const Dict* dict = value.dict()) return Value(dict->items.size());
  if (value.is_undefined()) return Value(0);
  const Sequence* list = value.sequence();
  if (list == nullptr || list->kind == SequenceKind::kGenerator) {
    Fail(absl::StrCat("object of type '", AsAbsl(value.type_name()), "' has no len()"));
  }
  return Value(list->items.size());
}

Value Join(Interpreter& interpreter, const Value& value, const Arguments& arguments) {
  const ArgumentReader args("join", arguments, {"d", "attribute"});
  const std::string separator = args.Get(0) != nullptr ? interpreter.Str(*args.Get(0)) : "";
  std::string out;
  bool first = true;
  const auto source = interpreter.Iterate(value);
  for (const Value& item : source->items) {
    if (!first) out += separator;
    first = false;
    out += interpreter.Str(args.Get(1) != nullptr ? Path(interpreter, item, *args.Get(1), nullptr) : item);
    interpreter.ChargeBytes(0);
    interpreter.CheckSize(static_cast<int64_t>(out.size()));
  }
  interpreter.ChargeBytes(out.size());
  return Value(std::move(out));
}

Value Default(Interpreter&, const Value& value, const Arguments& arguments) {
  const ArgumentReader args("default", arguments, {"default_value", "boolean"});
  if (!value.is_undefined() && !(args.Flag(1, false) && !Truthy(value))) return value;
  return args.Get(0) != nullptr ? *args.Get(0) : Value("");
}

Value First(Interpreter& interpreter, const Value& value, const Arguments&) {
  const auto items = interpreter.Iterate(value);
  if (items->items.empty()) return Value::UndefinedBecause("No first item, sequence was empty.");
  return items->items.front();
}

Value Last(Interpreter& interpreter, const Value& value, const Arguments&) {
  if (value.sequence() != nullptr && value.sequence()->kind == SequenceKind::kGenerator) {
    Fail("'generator' object is not reversible");
  }
  const auto items = interpreter.Iterate(value);
  if (items->items.empty()) return Value::UndefinedBecause("No last item, sequence was empty.");
  return items->items.back();
}

Value List(Interpreter& interpreter, const Value& value, const Arguments&) {
  return MakeList(interpreter.Iterate(value)->items);
}

Value Reverse(Interpreter& interpreter, const Value& value, const Arguments&) {
  const auto items = interpreter.Iterate(value);
  if (!value.is_text()) return Generator({items->items.rbegin(), items->items.rend()});
  std::string out;
  for (auto item = items->items.rbegin(); item != items->items.rend(); ++item) out += item->text();
  return Value(std::move(out));
}

Value Items(Interpreter& interpreter, const Value& value, const Arguments&) {
  if (value.is_undefined()) return Generator({});
  if (value.dict() == nullptr) Fail("Can only get item pairs from a mapping.");
  std::vector<Value> out;
  for (const auto& [key, item] : value.dict()->items) out.push_back(MakeTuple({key, item}));
  interpreter.Charge(static_cast<int64_t>(out.size()));
  return Generator(std::move(out));
}

// Sorts positions by their keys, stably; `reverse` keeps equal ones in order, as Python does.
std::vector<size_t> Order(const std::vector<Value>& keys, bool reverse) {
  std::vector<size_t> order(keys.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = i;
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return reverse ? Compare(keys[b], keys[a]) < 0 : Compare(keys[a], keys[b]) < 0;
  });
  return order;
}

Value Sort(Interpreter& interpreter, const Value& value, const Arguments& arguments) {
  const ArgumentReader args("sort", arguments, {"reverse", "case_sensitive", "attribute"});
  const auto items = interpreter.Iterate(value);
  std::vector<Value> keys;
  for (const Value& item : items->items) {
    std::vector<Value> parts;
    if (args.Get(2) != nullptr && args.Get(2)->is_text()) {
      for (std::string_view path : Split(args.Get(2)->text(), ",", -1, false)) {
        const Value attribute(path);
        parts.push_back(Key(interpreter, item, &attribute, args.Flag(1, false)));
      }
    } else {
      parts.push_back(Key(interpreter, item, args.Get(2), args.Flag(1, false)));
    }
    keys.push_back(MakeList(std::move(parts)));
    interpreter.Charge(16 + keys.back().weight());
  }
  std::vector<Value> out;
  for (size_t i : Order(keys, args.Flag(0, false))) out.push_back(items->items[i]);
  return MakeList(std::move(out));
}

Value DictSort(Interpreter& interpreter, const Value& value, const Arguments& arguments) {
  const ArgumentReader args("dictsort", arguments, {"case_sensitive", "by", "reverse"});
  if (value.dict() == nullptr) Fail("dictsort needs a mapping");
  const std::string_view by = args.String(1, "key");
  if (by != "key" && by != "value") Fail("You can only sort by either \"key\" or \"value\"");
  std::vector<Value> keys;
  for (const auto& [key, item] : value.dict()->items) {
    keys.push_back(IgnoreCase(by == "key" ? key : item, args.Flag(0, false)));
    interpreter.Charge(16 + keys.back().weight());
  }
  std::vector<Value> out;
  for (size_t i : Order(keys, args.Flag(2, false))) {
    out.push_back(MakeTuple({value.dict()->items[i].first, value.dict()->items[i].second}));
  }
  return MakeList(std::move(out));
}

Value Unique(Interpreter& interpreter, const Value& value, const Arguments& arguments) {
  const ArgumentReader args("unique", arguments, {"case_sensitive", "attribute"});
  Dict seen;
  std::vector<Value> out;
  const auto source = interpreter.Iterate(value);
  for (const Value& item : source->items) {
    const Value key = Key(interpreter, item, args.Get(1), args.Flag(0, false));
    if (!key.is_text()) interpreter.Charge(static_cast<int64_t>(seen.items.size()));
    if (seen.Find(key) != nullptr) continue;
    seen.Set(key, Value(true));
    out.push_back(item);
  }
  return Generator(std::move(out));
}

Value Extreme(Interpreter& interpreter, const Value& value, const Arguments& arguments, bool max) {
  const ArgumentReader args(max ? "max" : "min", arguments, {"case_sensitive", "attribute"});
  const auto items = interpreter.Iterate(value);
  if (items->items.empty()) return Value::UndefinedBecause("No aggregated item, sequence was empty.");
  size_t best = 0;
  Value best_key;
  for (size_t i = 0; i < items->items.size(); ++i) {
    Value key = Key(interpreter, items->items[i], args.Get(1), args.Flag(0, false));
    if (i > 0 && (max ? Compare(best_key, key) >= 0 : Compare(key, best_key) >= 0)) continue;
    best = i;
    best_key = std::move(key);
  }
  return items->items[best];
}
Value Min(Interpreter& interpreter, const Value& value, const Arguments& arguments) {
  return Extreme(interpreter, value, arguments, false);
}
Value Max(Interpreter& interpreter, const Value& value, const Arguments& arguments) {
  return Extreme(interpreter, value, arguments, true);
}

Value Sum(Interpreter& interpreter, const Value& value, const Arguments& arguments) {
  const ArgumentReader args("sum", arguments, {"attribute", "start"});
  Value total = args.Get(1) != nullptr ? *args.Get(1) : Value(0);
  if (total.is_text()) Fail("sum() can't sum strings");
  const auto source = interpreter.Iterate(value);
  for (const Value& item : source->items) {
    interpreter.Charge(1);
    total = Add(interpreter, total,
                args.Get(0) != nullptr ? Path(interpreter, item, *args.Get(0), nullptr) : item);
  }
  return total;
}

Value Map(Interpreter& interpreter, const Value& value, const Arguments& arguments) {
  if (!Truthy(value)) return Generator({});
  std::vector<Value> out;
  if (arguments.positional.empty()) {
    const ArgumentReader args("map", arguments, {"attribute", "default"});
    const auto source = interpreter.Iterate(value);
    for (const Value& item : source->items) {
      interpreter.Charge(1);
      out.push_back(Path(interpreter, item, args.Require(0), args.Get(1)));
    }
    return Generator(std::move(out));
  }
  const Value& filter = arguments.positional[0];
  if (!filter.is_text()) Fail("map needs the name of a filter");
  Arguments rest = arguments;
  rest.positional.erase(rest.positional.begin());
  const auto source = interpreter.Iterate(value);
  for (const Value& item : source->items) {
    out.push_back(interpreter.Filter(filter.text(), item, rest));
  }
  return Generator(std::move(out));
}

Value Choose(Interpreter& interpreter, const Value& value, const Arguments& arguments, bool by_attribute,
             bool keep) {
  if (!Truthy(value)) return Generator({});
  Arguments rest = arguments;
  Value attribute(None{});
  if (by_attribute) {
    if (rest.positional.empty()) Fail("Missing parameter for attribute name");
    attribute = rest.positional[0];
    rest.positional.erase(rest.positional.begin());
  }
  std::string test;
  if (!rest.positional.empty()) {
    test = interpreter.Str(rest.positional[0]);
    rest.positional.erase(rest.positional.begin());
  }
  std::vector<Value> out;
  const auto source = interpreter.Iterate(value);
  for (const Value& item : source->items) {
    interpreter.Charge(1);
    const Value subject = Path(interpreter, item, attribute, nullptr);
    const bool holds = test.empty() ? Truthy(subject) : interpreter.Test(test, subject, rest);
    if (holds == keep) out.push_back(item);
  }
  return Generator(std::move(out));
}
Value Select(Interpreter& i, const Value& v, const Arguments& a) { return Choose(i, v, a, false, true); }
Value Reject(Interpreter& i, const Value& v, const Arguments& a) { return Choose(i, v, a, false, false); }
Value SelectAttr(Interpreter& i, const Value& v, const Arguments& a) { return Choose(i, v, a, true, true); }
Value RejectAttr(Interpreter& i, const Value& v, const Arguments& a) { return Choose(i, v, a, true, false); }

Value Batch(Interpreter& interpreter, const Value& value, const Arguments& arguments) {
  const ArgumentReader args("batch", arguments, {"linecount", "fill_with"});
  const int64_t size = args.Integer(0, 1);
  if (size < 1 || size > 100'000) Fail("batch needs a size between 1 and 100000");
  std::vector<Value> out, line;
  const auto source = interpreter.Iterate(value);
  for (const Value& item : source->items) {
    if (static_cast<int64_t>(line.size()) == size) out.push_back(MakeList(std::exchange(line, {})));
    line.push_back(item);
  }
  if (!line.empty()) {
    if (args.Get(1) != nullptr && !args.Get(1)->is_none()) {
      interpreter.Charge(size);
      line.resize(static_cast<size_t>(size), *args.Get(1));
    }
    out.push_back(MakeList(std::move(line)));
  }
  return Generator(std::move(out));
}

Value Attr(Interpreter& interpreter, const Value& value, const Arguments& arguments) {
  const ArgumentReader args("attr", arguments, {"name"});
  const Value& name = args.Require(0);
  // Only real attributes, never the keys of a dict.
  if (!name.is_text() || (value.dict() != nullptr && !HasMethod(value, name.text()))) return Value();
  return interpreter.Attribute(value, name.text());
}

Value GroupBy(Interpreter& interpreter, const Value& value, const Arguments& arguments) {
  const ArgumentReader args("groupby", arguments, {"attribute", "default", "case_sensitive"});
  const auto items = interpreter.Iterate(value);
  std::vector<Value> keys, raw;
  for (const Value& item : items->items) {
    raw.push_back(Path(interpreter, item, args.Require(0), args.Get(1)));
    keys.push_back(IgnoreCase(raw.back(), args.Flag(2, false)));
    interpreter.Charge(16 + keys.back().weight());
  }
  std::vector<Value> out;
  const std::vector<size_t> order = Order(keys, false);
  for (size_t i = 0; i < order.size();) {
    std::vector<Value> group;
    const size_t first = i;
    while (i < order.size() && Equal(keys[order[first]], keys[order[i]])) group.push_back(items->items[order[i++]]);
    out.push_back(MakeTuple({raw[order[first]], MakeList(std::move(group))}));
  }
  return MakeList(std::move(out));
}

}  // namespace

FilterFunction FindSequenceFilter(std::string_view name) {
  static const auto& filters = *new absl::flat_hash_map<std::string_view, FilterFunction>{
      {"length", Length}, {"count", Length},       {"join", Join},         {"default", Default},
      {"d", Default},     {"first", First},        {"last", Last},         {"list", List},
      {"reverse", Reverse}, {"items", Items},      {"sort", Sort},         {"dictsort", DictSort},
      {"unique", Unique}, {"min", Min},            {"max", Max},           {"sum", Sum},
      {"map", Map},       {"select", Select},      {"reject", Reject},     {"selectattr", SelectAttr},
      {"rejectattr", RejectAttr}, {"batch", Batch}, {"attr", Attr},        {"groupby", GroupBy},
  };
  const auto found = filters.find(name);
  return found == filters.end() ? nullptr : found->second;
}

}  // namespace pagoda::text::jinja
