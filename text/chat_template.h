// The Jinja that chat templates are written in, interpreted with budgets (steps, depth, output bytes): a template comes
// with a model file and is hostile. No attribute of anything but data can be reached.
// Immutable after Parse; Render may be called from any thread.
#pragma once

#include <nlohmann/json.hpp>

#include <memory>
#include <string>
#include <string_view>

#include "common/status.h"

namespace pagoda::text {

inline constexpr size_t kMaxTemplateBytes = 1u << 20;

struct TemplateLimits {
  int64_t steps = 2'000'000;
  int depth = 100;
  size_t output_bytes = 16u << 20;
};

class ChatTemplate {
 public:
  // kInvalidArgument with line and column on a syntax error.
  static absl::StatusOr<std::unique_ptr<ChatTemplate>> Parse(std::string_view source);
  ~ChatTemplate();

  // `context`: messages, add_generation_prompt, bos_token, eos_token, tools, documents, ... kInvalidArgument for
  // raise_exception (with its message), for a template's own type errors; kResourceExhausted over a budget.
  // `now_unix` feeds strftime_now.
  absl::StatusOr<std::string> Render(const nlohmann::ordered_json& context, int64_t now_unix,
                                     TemplateLimits limits = {}) const;

 private:
  struct Program;
  explicit ChatTemplate(std::unique_ptr<Program> program);
  std::unique_ptr<Program> program_;
};

}  // namespace pagoda::text
