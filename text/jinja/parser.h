// From tokens to the syntax tree. Source of the grammar: jinja2 3.1, parser.py.
#pragma once

#include <string_view>

#include "text/jinja/ast.h"

namespace pagoda::text::jinja {

// Throws TemplateError with line and column: also for what is nested too deeply for the interpreter's stack.
Block ParseTemplate(std::string_view source);

}  // namespace pagoda::text::jinja
