#include "text/jinja/interpreter.h"

#include <algorithm>

#include "text/jinja/format.h"
#include "text/jinja/interpreter_guards.h"

namespace pagoda::text::jinja {
namespace {

// Out of line: GCC 12 at -O3 gives the recursive Assign unwind tables that end in abort() when it throws itself.
[[noreturn, gnu::noinline]] void FailUnpack(size_t values, size_t names) {
  Fail(absl::StrCat("cannot unpack ", values, " values into ", names, " names"));
}
[[noreturn, gnu::noinline]] void FailNotNamespace(const Target& target) {
  Fail(absl::StrCat("cannot assign attribute ", target.attribute, " on ", target.name,
                    ": it is not a namespace"));
}
[[noreturn, gnu::noinline]] void FailUnderscore() {
  Fail("attributes of a namespace cannot begin with an underscore");
}

constexpr int64_t kBytesPerStep = 64;  // building a string costs this many bytes a step

struct MacroValue : Callable {
  const Macro* macro = nullptr;
  Scope* closure = nullptr;
  Value Call(Interpreter& interpreter, const Arguments& arguments) const override {
    return interpreter.CallMacro(*macro, closure, arguments);
  }
};

}  // namespace

const Value* Scope::Find(std::string_view name) const {
  for (const Scope* scope = this; scope != nullptr; scope = scope->parent) {
    for (const auto& [key, value] : scope->variables) {
      if (key == name) return &value;
    }
  }
  return nullptr;
}

void Scope::Set(std::string_view name, Value value) {
  for (auto& [key, old] : variables) {
    if (key == name) {
      old = std::move(value);
      return;
    }
  }
  variables.emplace_back(name, std::move(value));
}

Interpreter::Interpreter(const TemplateLimits& limits, int64_t now_unix)
    : limits_(limits), now_unix_(now_unix) {}

Interpreter::~Interpreter() {
  for (const auto& space : namespaces_) space->items.clear();
}

std::string Interpreter::Render(const Block& body, const Value& context) {
  // The context's strings outlive the rendering, so scopes may view their keys.
  Scope outside;
  for (const auto& [key, value] : context.dict()->items) outside.Set(key.text(), value);
  root_.parent = &outside;
  scope_ = &root_;
  std::string out;
  output_ = &out;
  Execute(body);
  root_.variables.clear();
  root_.parent = nullptr;
  return out;
}

void Interpreter::Charge(int64_t steps) {
  steps_ += steps;
  if (steps_ > limits_.steps) FailBudget("the chat template went over its budget of steps");
}

void Interpreter::ChargeBytes(size_t bytes) {
  CheckSize(static_cast<int64_t>(bytes));
  Charge(static_cast<int64_t>(bytes) / kBytesPerStep);
}

void Interpreter::CheckSize(int64_t size) const {
  if (size > static_cast<int64_t>(limits_.output_bytes)) {
    FailBudget(absl::StrCat("the chat template made a text of more than ", limits_.output_bytes,
                            " bytes"));
  }
}

std::string Interpreter::Str(const Value& value) {
  std::string out = FormatStr(value, [this](size_t size) {
    Charge(1);
    CheckSize(static_cast<int64_t>(size));
  });
  ChargeBytes(out.size());
  return out;
}

void Interpreter::Output(std::string_view text) {
  output_->append(text);
  ChargeBytes(0);
  CheckSize(static_cast<int64_t>(output_->size()));
  Charge(static_cast<int64_t>(text.size()) / kBytesPerStep);
}

std::string Interpreter::Capture(const Block& block) {
  std::string out;
  std::string* saved = std::exchange(output_, &out);
  try {
    Execute(block);
  } catch (...) {
    output_ = saved;
    throw;
  }
  output_ = saved;
  return out;
}

Interpreter::Flow Interpreter::Execute(const Block& block) {
  const DepthGuard depth(this);
  for (const auto& statement : block) {
    Charge(1);
    const Flow flow = ExecuteOne(*statement);
    if (flow != Flow::kNext) return flow;
  }
  return Flow::kNext;
}

Interpreter::Flow Interpreter::ExecuteOne(const Statement& statement) {
  switch (statement.kind) {
    case StatementKind::kText: Output(statement.text); break;
    case StatementKind::kOutput: {
      const Value value = Evaluate(*statement.value);
      if (value.is_text()) {
        Output(value.text());
      } else {
        Output(Str(value));
      }
      break;
    }
    case StatementKind::kIf:
      return Execute(Truthy(Evaluate(*statement.value)) ? statement.body : statement.otherwise);
    case StatementKind::kFor: return ExecuteFor(statement);
    case StatementKind::kSet: Assign(statement.target, Evaluate(*statement.value)); break;
    case StatementKind::kSetBlock: ExecuteSetBlock(statement); break;
    case StatementKind::kMacro:
      scope_->Set(statement.macro->name, MakeMacro(*statement.macro));
      break;
    case StatementKind::kCallBlock: ExecuteCallBlock(statement); break;
    case StatementKind::kFilterBlock: {
      std::string text;
      {
        const ScopeGuard scope(this, scope_);
        text = Capture(statement.body);
      }
      Output(Str(EvaluateFilterChain(*statement.value, Value(std::move(text)))));
      break;
    }
    case StatementKind::kWith: {
      std::vector<Value> values;
      for (const auto& [target, expression] : statement.assignments) {
        values.push_back(Evaluate(*expression));
      }
      const ScopeGuard scope(this, scope_);
      for (size_t i = 0; i < values.size(); ++i) {
        Assign(statement.assignments[i].first, values[i]);
      }
      return Execute(statement.body);
    }
    case StatementKind::kScope: {
      const ScopeGuard scope(this, scope_);
      return Execute(statement.body);
    }
    case StatementKind::kBreak: return Flow::kBreak;
    case StatementKind::kContinue: return Flow::kContinue;
  }
  return Flow::kNext;
}

Interpreter::Flow Interpreter::ExecuteFor(const Statement& statement) {
  std::shared_ptr<const Sequence> items = Iterate(Evaluate(*statement.value));
  if (statement.condition != nullptr) {
    std::vector<Value> chosen;
    for (const Value& item : items->items) {
      Charge(1);
      const ScopeGuard scope(this, scope_);
      Assign(statement.target, item);
      if (Truthy(Evaluate(*statement.condition))) chosen.push_back(item);
    }
    const Value list = MakeList(std::move(chosen));
    items = Iterate(list);
  }
  if (items->items.empty()) {
    const ScopeGuard scope(this, scope_);
    return Execute(statement.otherwise);
  }
  const auto state = std::make_shared<LoopState>();
  state->items = &items->items;
  state->owner = items;
  const Value loop(state);
  for (size_t i = 0; i < items->items.size(); ++i) {
    Charge(1);
    state->index = i;
    const ScopeGuard scope(this, scope_);
    scope_->Set("loop", loop);
    Assign(statement.target, items->items[i]);
    const Flow flow = Execute(statement.body);
    if (flow == Flow::kBreak) break;
  }
  return Flow::kNext;
}

void Interpreter::ExecuteSetBlock(const Statement& statement) {
  std::string text;
  {
    const ScopeGuard scope(this, scope_);
    text = Capture(statement.body);
  }
  Value value(std::move(text));
  if (statement.value != nullptr) value = EvaluateFilterChain(*statement.value, value);
  Assign(statement.target, value);
}

void Interpreter::ExecuteCallBlock(const Statement& statement) {
  const Value caller = MakeMacro(*statement.macro);
  Output(Str(EvaluateCall(*statement.value, &caller)));
}

void Interpreter::Assign(const Target& target, const Value& value) {
  if (!target.parts.empty()) {
    const auto items = Iterate(value);
    if (items->items.size() != target.parts.size()) {
      FailUnpack(items->items.size(), target.parts.size());
    }
    for (size_t i = 0; i < target.parts.size(); ++i) Assign(target.parts[i], items->items[i]);
    return;
  }
  if (target.attribute.empty()) {
    scope_->Set(target.name, value);
    return;
  }
  const Value space = Lookup(target.name);
  if (space.name_space() == nullptr) {
    FailNotNamespace(target);
  }
  if (target.attribute.starts_with('_')) FailUnderscore();
  space.name_space()->Set(target.attribute, value);
}

Value Interpreter::MakeMacro(const Macro& macro) {
  auto made = std::make_shared<MacroValue>();
  made->name = macro.name;
  made->macro = &macro;
  made->closure = scope_;
  for (Scope* scope = scope_; scope != nullptr && !scope->captured; scope = scope->parent) {
    scope->captured = true;
  }
  return Value(std::shared_ptr<const Callable>(std::move(made)));
}

Value Interpreter::CallMacro(const Macro& macro, Scope* closure, const Arguments& arguments) {
  const DepthGuard depth(this);
  if (++macros_ > limits_.depth) {
    --macros_;
    FailBudget("the chat template's macros call each other too deeply");
  }
  struct Leave {
    int* count;
    ~Leave() { --*count; }
  } const leave{&macros_};
  const ScopeGuard scope(this, closure);
  std::vector<bool> taken(arguments.named.size(), false);
  for (size_t i = 0; i < macro.parameters.size(); ++i) {
    const Parameter& parameter = macro.parameters[i];
    if (i < arguments.positional.size()) {
      scope_->Set(parameter.name, arguments.positional[i]);
      continue;
    }
    const auto named =
        std::find_if(arguments.named.begin(), arguments.named.end(),
                     [&](const auto& item) { return item.first == parameter.name; });
    if (named != arguments.named.end()) {
      taken[named - arguments.named.begin()] = true;
      scope_->Set(parameter.name, named->second);
    } else if (parameter.fallback != nullptr) {
      scope_->Set(parameter.name, Evaluate(*parameter.fallback));
    } else {
      scope_->Set(parameter.name, Value::UndefinedBecause(
                                      absl::StrCat("parameter '", parameter.name, "' was not provided")));
    }
  }
  if (arguments.positional.size() > macro.parameters.size() && !macro.uses_varargs) {
    Fail(absl::StrCat("macro '", macro.name, "' takes not more than ", macro.parameters.size(),
                      " argument(s)"));
  }
  if (macro.uses_varargs) {
    const size_t from = std::min(arguments.positional.size(), macro.parameters.size());
    scope_->Set("varargs", MakeTuple({arguments.positional.begin() + from, arguments.positional.end()}));
  }
  auto extra = std::make_shared<Dict>();
  Value caller = Value::UndefinedBecause("No caller defined");
  for (size_t i = 0; i < taken.size(); ++i) {
    const auto& [name, value] = arguments.named[i];
    if (taken[i]) continue;
    if (name == "caller" && macro.uses_caller) {
      caller = value;
    } else if (macro.uses_kwargs) {
      extra->Set(Value(name), value);
    } else {
      Fail(absl::StrCat("macro '", macro.name, "' takes no keyword argument '", name, "'"));
    }
  }
  if (macro.uses_caller) scope_->Set("caller", caller);
  if (macro.uses_kwargs) scope_->Set("kwargs", MakeDict(std::move(extra)));
  return Value(Capture(macro.body));
}

Value Interpreter::MakeNamespace(std::shared_ptr<Namespace> made) {
  Charge(1);
  namespaces_.push_back(made);
  return Value(std::move(made));
}

}  // namespace pagoda::text::jinja
