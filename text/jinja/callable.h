// What a template can call: functions of the environment, methods of values, macros.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "text/jinja/value.h"

namespace pagoda::text::jinja {

class Interpreter;

struct Arguments {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> named;
};

struct Callable {
  virtual ~Callable() = default;
  virtual Value Call(Interpreter& interpreter, const Arguments& arguments) const = 0;
  std::string name;
};

// `loop` inside of a for.
struct LoopState {
  const std::vector<Value>* items = nullptr;  // owned by the loop; null once it has ended
  std::shared_ptr<const Sequence> owner;
  size_t index = 0;
  int depth = 1;
  std::vector<Value> last_changed;
  bool has_changed = false;
};

// Reads the arguments of a filter, a test or a method by position or by name, as Python does.
class ArgumentReader {
 public:
  // Fails for an argument that `names` does not hold.
  ArgumentReader(std::string_view callee, const Arguments& arguments,
                 std::initializer_list<std::string_view> names);
  // Null when it was not given.
  const Value* Get(size_t index) const { return values_[index]; }
  const Value& Require(size_t index) const;
  bool Flag(size_t index, bool fallback) const;
  int64_t Integer(size_t index, int64_t fallback) const;
  std::string_view String(size_t index, std::string_view fallback) const;

 private:
  std::string callee_;
  std::vector<std::string_view> names_;
  std::vector<const Value*> values_;
};

}  // namespace pagoda::text::jinja
