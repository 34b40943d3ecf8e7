#include "text/jinja/value.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "text/jinja/callable.h"
#include "text/unicode.h"

namespace pagoda::text::jinja {
namespace {

constexpr int kMaxValueDepth = 200;
constexpr size_t kIndexedDictSize = 8;
constexpr int64_t kMaxWeight = int64_t{1} << 40;

int DeeperThan(int depth) {
  if (depth >= kMaxValueDepth) FailBudget("the template nests lists or dicts too deeply");
  return depth + 1;
}

}  // namespace

void Fail(std::string message) { throw TemplateError{absl::InvalidArgumentError(message)}; }
void FailBudget(std::string message) { throw TemplateError{absl::ResourceExhaustedError(message)}; }

Value::Value(std::string text) {
  const bool ascii = IsAscii(text);
  storage_ = std::make_shared<const Text>(Text{std::move(text), ascii, false});
}

Value Value::Safe(std::string text) {
  const bool ascii = IsAscii(text);
  return Value(std::make_shared<const Text>(Text{std::move(text), ascii, true}));
}

Value Value::UndefinedBecause(std::string why) {
  Value value;
  value.storage_ = Undefined{std::make_shared<const std::string>(std::move(why))};
  return value;
}

int Value::depth() const {
  if (const Sequence* list = sequence()) return list->depth;
  if (const Dict* map = dict()) return map->depth;
  return 0;
}

int64_t Value::weight() const {
  if (const Sequence* list = sequence()) return list->weight;
  if (const Dict* map = dict()) return map->weight;
  return is_text() ? 1 + static_cast<int64_t>(text().size() / 64) : 1;
}

std::string_view Value::type_name() const {
  if (is_undefined()) return "Undefined";
  if (is_none()) return "NoneType";
  if (is_bool()) return "bool";
  if (is_integer()) return "int";
  if (is_float()) return "float";
  if (is_text()) return is_safe() ? "Markup" : "str";
  if (dict() != nullptr) return "dict";
  if (name_space() != nullptr) return "Namespace";
  if (callable() != nullptr) return "function";
  if (loop() != nullptr) return "LoopContext";
  switch (sequence()->kind) {
    case SequenceKind::kList: return "list";
    case SequenceKind::kTuple: return "tuple";
    case SequenceKind::kRange: return "range";
    case SequenceKind::kGenerator: return "generator";
    case SequenceKind::kDictKeys: return "dict_keys";
    case SequenceKind::kDictValues: return "dict_values";
    case SequenceKind::kDictItems: return "dict_items";
  }
  return "object";
}

Value MakeSequence(SequenceKind kind, std::vector<Value> items) {
  auto list = std::make_shared<Sequence>();
  list->kind = kind;
  int depth = 0;
  for (const Value& item : items) {
    depth = std::max(depth, item.depth());
    list->weight = std::min(list->weight + item.weight(), kMaxWeight);
  }
  list->depth = DeeperThan(depth);
  list->items = std::move(items);
  return Value(std::shared_ptr<const Sequence>(std::move(list)));
}

Value MakeDict(std::shared_ptr<Dict> dict) {
  int depth = 0;
  for (const auto& [key, value] : dict->items) {
    depth = std::max({depth, key.depth(), value.depth()});
    dict->weight = std::min(dict->weight + key.weight() + value.weight(), kMaxWeight);
  }
  dict->depth = DeeperThan(depth);
  return Value(std::shared_ptr<const Dict>(std::move(dict)));
}

size_t Dict::IndexOf(const Value& key) const {
  if (key.is_text() && items.size() > kIndexedDictSize) {
    const auto found = by_text_.find(key.text());
    return found == by_text_.end() ? items.size() : found->second;
  }
  for (size_t i = 0; i < items.size(); ++i) {
    if (Equal(items[i].first, key)) return i;
  }
  return items.size();
}

void Dict::Set(Value key, Value value) {
  if (key.dict() != nullptr || key.name_space() != nullptr ||
      (key.sequence() != nullptr && key.sequence()->kind == SequenceKind::kList)) {
    Fail(absl::StrCat("unhashable type: '", AsAbsl(key.type_name()), "'"));
  }
  const size_t at = IndexOf(key);
  if (at < items.size()) {
    items[at].second = std::move(value);
    return;
  }
  items.emplace_back(std::move(key), std::move(value));
  if (items.size() == kIndexedDictSize + 1) {
    for (size_t i = 0; i < items.size(); ++i) {
      if (items[i].first.is_text()) by_text_.emplace(items[i].first.text(), i);
    }
  } else if (items.size() > kIndexedDictSize && items.back().first.is_text()) {
    by_text_.emplace(items.back().first.text(), items.size() - 1);
  }
}

const Value* Dict::Find(const Value& key) const {
  const size_t at = IndexOf(key);
  return at < items.size() ? &items[at].second : nullptr;
}

const Value* Dict::Find(std::string_view key) const {
  if (items.size() > kIndexedDictSize) {
    const auto found = by_text_.find(std::string(key));
    return found == by_text_.end() ? nullptr : &items[found->second].second;
  }
  for (const auto& [name, value] : items) {
    if (name.is_text() && name.text() == key) return &value;
  }
  return nullptr;
}

const Value* Namespace::Find(std::string_view key) const {
  for (const auto& [name, value] : items) {
    if (name == key) return &value;
  }
  return nullptr;
}

void Namespace::Set(std::string_view key, Value value) {
  for (auto& [name, old] : items) {
    if (name == key) {
      old = std::move(value);
      return;
    }
  }
  items.emplace_back(std::string(key), std::move(value));
}

bool Truthy(const Value& value) {
  if (value.is_undefined() || value.is_none()) return false;
  if (value.is_integral()) return value.integer() != 0;
  if (value.is_float()) return value.number() != 0;
  if (value.is_text()) return !value.text().empty();
  if (const Sequence* list = value.sequence()) {
    return list->kind == SequenceKind::kGenerator || !list->items.empty();
  }
  if (const Dict* dict = value.dict()) return !dict->items.empty();
  return true;
}

namespace {

bool EqualSequences(const Sequence& a, const Sequence& b) {
  if (&a == &b) return true;
  if (a.kind != b.kind || a.kind == SequenceKind::kGenerator) return false;
  if (a.items.size() != b.items.size()) return false;
  for (size_t i = 0; i < a.items.size(); ++i) {
    if (!Equal(a.items[i], b.items[i])) return false;
  }
  return true;
}

bool EqualDicts(const Dict& a, const Dict& b) {
  if (&a == &b) return true;
  if (a.items.size() != b.items.size()) return false;
  for (const auto& [key, value] : a.items) {
    const Value* other = b.Find(key);
    if (other == nullptr || !Equal(value, *other)) return false;
  }
  return true;
}

}  // namespace

bool Equal(const Value& a, const Value& b) {
  if (a.is_number() && b.is_number()) {
    if (a.is_integral() && b.is_integral()) return a.integer() == b.integer();
    return a.number() == b.number();
  }
  if (a.is_text() && b.is_text()) return a.text() == b.text();
  if (a.is_undefined() && b.is_undefined()) return true;
  if (a.is_none() && b.is_none()) return true;
  if (a.sequence() != nullptr && b.sequence() != nullptr) {
    return EqualSequences(*a.sequence(), *b.sequence());
  }
  if (a.dict() != nullptr && b.dict() != nullptr) return EqualDicts(*a.dict(), *b.dict());
  if (a.name_space() != nullptr) return a.name_space() == b.name_space();
  if (a.callable() != nullptr) return a.callable() == b.callable();
  if (a.loop() != nullptr) return a.loop() == b.loop();
  return false;
}

int Compare(const Value& a, const Value& b) {
  if (a.is_number() && b.is_number()) {
    if (a.is_integral() && b.is_integral()) {
      return a.integer() < b.integer() ? -1 : a.integer() > b.integer();
    }
    return a.number() < b.number() ? -1 : a.number() > b.number();
  }
  if (a.is_text() && b.is_text()) {
    const int order = a.text().compare(b.text());  // UTF-8 sorts as code points do
    return order < 0 ? -1 : order > 0;
  }
  const Sequence* left = a.sequence();
  const Sequence* right = b.sequence();
  if (left != nullptr && right != nullptr && left->kind == right->kind &&
      left->kind <= SequenceKind::kTuple) {
    const size_t common = std::min(left->items.size(), right->items.size());
    for (size_t i = 0; i < common; ++i) {
      if (!Equal(left->items[i], right->items[i])) return Compare(left->items[i], right->items[i]);
    }
    return left->items.size() < right->items.size() ? -1 : left->items.size() > right->items.size();
  }
  if (a.is_undefined() && a.undefined().why != nullptr) Fail(*a.undefined().why);
  if (b.is_undefined() && b.undefined().why != nullptr) Fail(*b.undefined().why);
  Fail(absl::StrCat("'<' is not supported between '", AsAbsl(a.type_name()), "' and '",
                    AsAbsl(b.type_name()), "'"));
}

Value FromJson(const nlohmann::ordered_json& json, int depth) {
  if (depth > kMaxValueDepth) FailBudget("the template's input is nested too deeply");
  using Type = nlohmann::ordered_json::value_t;
  switch (json.type()) {
    case Type::boolean: return Value(json.get<bool>());
    case Type::number_integer: return Value(json.get<int64_t>());
    case Type::number_unsigned: {
      const auto value = json.get<uint64_t>();
      if (value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
        return Value(static_cast<double>(value));
      }
      return Value(static_cast<int64_t>(value));
    }
    case Type::number_float: return Value(json.get<double>());
    case Type::string: {
      const auto& text = json.get_ref<const std::string&>();
      return IsValidUtf8(text) ? Value(text) : Value(ReplaceInvalidUtf8(text));
    }
    case Type::array: {
      std::vector<Value> items;
      items.reserve(json.size());
      for (const auto& item : json) items.push_back(FromJson(item, depth + 1));
      return MakeList(std::move(items));
    }
    case Type::object: {
      auto dict = std::make_shared<Dict>();
      for (const auto& [key, value] : json.items()) dict->Set(Value(key), FromJson(value, depth + 1));
      return MakeDict(std::move(dict));
    }
    default: return Value(None{});
  }
}

}  // namespace pagoda::text::jinja
