// Errors are absl::Status values; nothing throws across a folder's border. CHECK is for our own bugs only.
#pragma once

#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"

namespace pagoda {

// Prefixes the message of a failed status with what was being done: "loading shard 3: <message>".
absl::Status Annotate(const absl::Status& status, std::string_view context);

[[noreturn]] void CheckFailed(const char* file, int line, const char* condition,
                              const std::string& detail);

inline absl::string_view AsAbsl(std::string_view text) { return {text.data(), text.size()}; }
inline std::string_view AsStd(absl::string_view text) { return {text.data(), text.size()}; }

}  // namespace pagoda

// Debian's Abseil has no CHECK. Ends the process: use only where failure means a bug of ours.
#define PAGODA_CHECK(condition, ...)                                                      \
  do {                                                                                    \
    if (!(condition)) [[unlikely]]                                                        \
      ::pagoda::CheckFailed(__FILE__, __LINE__, #condition, absl::StrCat("" __VA_ARGS__)); \
  } while (false)

#define PAGODA_CONCAT_INNER(a, b) a##b
#define PAGODA_CONCAT(a, b) PAGODA_CONCAT_INNER(a, b)

#define PAGODA_RETURN_IF_ERROR(expression)                                     \
  do {                                                                         \
    if (absl::Status pagoda_status = (expression); !pagoda_status.ok()) [[unlikely]] \
      return pagoda_status;                                                    \
  } while (false)

#define PAGODA_ASSIGN_OR_RETURN(target, expression) \
  PAGODA_ASSIGN_OR_RETURN_IMPL(PAGODA_CONCAT(pagoda_or_, __LINE__), target, expression)
#define PAGODA_ASSIGN_OR_RETURN_IMPL(holder, target, expression) \
  auto holder = (expression);                                    \
  if (!holder.ok()) [[unlikely]]                                 \
    return holder.status();                                      \
  target = std::move(holder).value()
