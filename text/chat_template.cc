#include "text/chat_template.h"

#include <nlohmann/json.hpp>

#include "text/jinja/interpreter.h"
#include "text/jinja/parser.h"
#include "text/unicode.h"

namespace pagoda::text {

struct ChatTemplate::Program {
  jinja::Block body;
};

ChatTemplate::ChatTemplate(std::unique_ptr<Program> program) : program_(std::move(program)) {}
ChatTemplate::~ChatTemplate() = default;

absl::StatusOr<std::unique_ptr<ChatTemplate>> ChatTemplate::Parse(std::string_view source) {
  if (source.size() > kMaxTemplateBytes) {
    return absl::InvalidArgumentError(absl::StrCat("the chat template has ", source.size(),
                                                   " bytes; at most ", kMaxTemplateBytes,
                                                   " are supported"));
  }
  try {
    auto program = std::make_unique<Program>();
    const std::string repaired = IsValidUtf8(source) ? "" : ReplaceInvalidUtf8(source);
    program->body = jinja::ParseTemplate(repaired.empty() ? source : std::string_view(repaired));
    return std::unique_ptr<ChatTemplate>(new ChatTemplate(std::move(program)));
  } catch (const jinja::TemplateError& error) {
    return error.status;
  }
}

absl::StatusOr<std::string> ChatTemplate::Render(const nlohmann::ordered_json& context,
                                                 int64_t now_unix, TemplateLimits limits) const {
  if (!context.is_object()) {
    return absl::InvalidArgumentError("a chat template renders an object, which it was not given");
  }
  try {
    // Destroyed after the interpreter, whose scopes view its keys.
    const jinja::Value values = jinja::FromJson(context);
    jinja::Interpreter interpreter(limits, now_unix);
    return interpreter.Render(program_->body, values);
  } catch (const jinja::TemplateError& error) {
    return error.status;
  }
}

}  // namespace pagoda::text
