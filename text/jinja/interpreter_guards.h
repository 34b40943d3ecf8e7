// What the interpreter holds for the length of a C++ scope.
#pragma once

#include "text/jinja/interpreter.h"

namespace pagoda::text::jinja {

// One nested evaluation or block. Bounds the C++ stack, whatever the template recurses through.
class Interpreter::DepthGuard {
 public:
  explicit DepthGuard(Interpreter* interpreter) : interpreter_(interpreter) {
    if (++interpreter_->frames_ > 20 * interpreter_->limits_.depth) {
      --interpreter_->frames_;
      FailBudget("the chat template went over its depth budget");
    }
  }
  ~DepthGuard() { --interpreter_->frames_; }
  DepthGuard(const DepthGuard&) = delete;

 private:
  Interpreter* interpreter_;
};

// A scope below `parent`, current while this lives. A captured one is kept for the macros that see it.
class Interpreter::ScopeGuard {
 public:
  ScopeGuard(Interpreter* interpreter, Scope* parent)
      : interpreter_(interpreter), saved_(interpreter->scope_), scope_(std::make_unique<Scope>()) {
    scope_->parent = parent;
    interpreter_->scope_ = scope_.get();
  }
  ~ScopeGuard() {
    interpreter_->scope_ = saved_;
    if (scope_->captured) interpreter_->kept_scopes_.push_back(std::move(scope_));
  }
  ScopeGuard(const ScopeGuard&) = delete;

 private:
  Interpreter* interpreter_;
  Scope* saved_;
  std::unique_ptr<Scope> scope_;
};

}  // namespace pagoda::text::jinja
