// Values of a template: Python's, as far as templates can see them. Containers are immutable once made (the reference
// sandbox forbids changing them); only namespaces change.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "common/status.h"

namespace pagoda::text::jinja {

// Thrown inside the interpreter only; Parse and Render turn it into their status.
struct TemplateError {
  absl::Status status;
};
[[noreturn]] void Fail(std::string message);               // kInvalidArgument
[[noreturn]] void FailBudget(std::string message);         // kResourceExhausted

class Value;
struct Sequence;
struct Dict;
struct Namespace;
struct Callable;
struct LoopState;

struct Undefined {
  std::shared_ptr<const std::string> why;  // "'x' is undefined"
};
struct None {};
struct Text {
  std::string utf8;
  bool ascii = true;
  bool safe = false;  // Markup: what it is joined with is escaped
};

class Value {
 public:
  Value() : storage_(Undefined{}) {}
  Value(None none) : storage_(none) {}
  Value(bool value) : storage_(value) {}
  Value(int value) : storage_(static_cast<int64_t>(value)) {}
  Value(int64_t value) : storage_(value) {}
  Value(size_t value) : storage_(static_cast<int64_t>(value)) {}
  Value(double value) : storage_(value) {}
  Value(std::string text);
  Value(std::string_view text) : Value(std::string(text)) {}
  Value(const char* text) : Value(std::string(text)) {}
  Value(std::shared_ptr<const Text> text) : storage_(std::move(text)) {}
  Value(std::shared_ptr<const Sequence> list) : storage_(std::move(list)) {}
  Value(std::shared_ptr<const Dict> dict) : storage_(std::move(dict)) {}
  Value(std::shared_ptr<Namespace> value) : storage_(std::move(value)) {}
  Value(std::shared_ptr<const Callable> value) : storage_(std::move(value)) {}
  Value(std::shared_ptr<LoopState> value) : storage_(std::move(value)) {}
  static Value UndefinedBecause(std::string why);
  static Value Safe(std::string text);

  bool is_undefined() const { return std::holds_alternative<Undefined>(storage_); }
  bool is_none() const { return std::holds_alternative<None>(storage_); }
  bool is_bool() const { return std::holds_alternative<bool>(storage_); }
  bool is_integer() const { return std::holds_alternative<int64_t>(storage_); }  // not bool
  bool is_float() const { return std::holds_alternative<double>(storage_); }
  bool is_integral() const { return is_integer() || is_bool(); }
  bool is_number() const { return is_integral() || is_float(); }
  bool is_text() const { return std::holds_alternative<std::shared_ptr<const Text>>(storage_); }
  const Sequence* sequence() const { return Pointer<const Sequence>(); }
  const Dict* dict() const { return Pointer<const Dict>(); }
  Namespace* name_space() const { return Pointer<Namespace>(); }
  const Callable* callable() const { return Pointer<const Callable>(); }
  LoopState* loop() const { return Pointer<LoopState>(); }
  // Null when it is something else.
  std::shared_ptr<const Sequence> shared_sequence() const {
    const auto* pointer = std::get_if<std::shared_ptr<const Sequence>>(&storage_);
    return pointer != nullptr ? *pointer : nullptr;
  }

  const std::string& text() const { return std::get<std::shared_ptr<const Text>>(storage_)->utf8; }
  const Text& text_object() const { return *std::get<std::shared_ptr<const Text>>(storage_); }
  bool is_safe() const { return is_text() && text_object().safe; }
  bool boolean() const { return std::get<bool>(storage_); }
  // Of an integer or a bool.
  int64_t integer() const { return is_bool() ? boolean() : std::get<int64_t>(storage_); }
  // Of any number.
  double number() const {
    return is_float() ? std::get<double>(storage_) : static_cast<double>(integer());
  }
  const Undefined& undefined() const { return std::get<Undefined>(storage_); }
  // Nesting below this value; containers keep it small so that no walk of ours overflows the stack.
  int depth() const;
  // How many values (and stretches of text) a walk over this one meets, shared ones counted each time they are met.
  int64_t weight() const;
  // "str", "int", ...: Python's name of the type.
  std::string_view type_name() const;

 private:
  template <typename T>
  T* Pointer() const {
    const auto* pointer = std::get_if<std::shared_ptr<T>>(&storage_);
    return pointer != nullptr ? pointer->get() : nullptr;
  }
  std::variant<Undefined, None, bool, int64_t, double, std::shared_ptr<const Text>,
               std::shared_ptr<const Sequence>, std::shared_ptr<const Dict>,
               std::shared_ptr<Namespace>, std::shared_ptr<const Callable>,
               std::shared_ptr<LoopState>>
      storage_;
};

enum class SequenceKind : uint8_t {
  kList, kTuple, kRange, kGenerator, kDictKeys, kDictValues, kDictItems,
};

struct Sequence {
  SequenceKind kind = SequenceKind::kList;
  std::vector<Value> items;
  int depth = 0;
  int64_t weight = 1;
  // Python can index it.
  bool indexable() const { return kind <= SequenceKind::kRange; }
};
Value MakeSequence(SequenceKind kind, std::vector<Value> items);
inline Value MakeList(std::vector<Value> items) {
  return MakeSequence(SequenceKind::kList, std::move(items));
}
inline Value MakeTuple(std::vector<Value> items) {
  return MakeSequence(SequenceKind::kTuple, std::move(items));
}

// Insertion-ordered. Keys are hashable scalars or tuples; 1, 1.0 and True are one key, as in Python.
struct Dict {
  std::vector<std::pair<Value, Value>> items;
  int depth = 0;
  int64_t weight = 1;

  void Set(Value key, Value value);  // only while it is being made
  const Value* Find(const Value& key) const;
  const Value* Find(std::string_view key) const;

 private:
  size_t IndexOf(const Value& key) const;
  std::unordered_map<std::string, size_t> by_text_;  // filled once the dict is large
};
Value MakeDict(std::shared_ptr<Dict> dict);

struct Namespace {
  std::vector<std::pair<std::string, Value>> items;
  const Value* Find(std::string_view key) const;
  void Set(std::string_view key, Value value);
};

bool Truthy(const Value& value);
// == of Python; compares what it can, and never fails but for depth.
bool Equal(const Value& a, const Value& b);
// Three-way order for <, sort, min, max: fails for types Python does not order.
int Compare(const Value& a, const Value& b);

Value FromJson(const nlohmann::ordered_json& json, int depth = 0);

}  // namespace pagoda::text::jinja
