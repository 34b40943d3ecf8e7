// JSON lines on standard error: {"time","level","process","event", ...fields}. One call is one line; fields are typed, so
// nothing a client sent can forge a line. Prompts and keys are never logged.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <variant>

#include "common/status.h"

namespace pagoda {

enum class LogLevel { kDebug, kInfo, kWarning, kError };

struct LogField {
  std::string_view key;
  std::variant<std::string, int64_t, double, bool> value;

  LogField(std::string_view k, std::string_view v) : key(k), value(std::string(v)) {}
  LogField(std::string_view k, const std::string& v) : key(k), value(v) {}
  LogField(std::string_view k, const char* v) : key(k), value(std::string(v)) {}
  LogField(std::string_view k, bool v) : key(k), value(v) {}
  LogField(std::string_view k, double v) : key(k), value(v) {}
  template <typename T>
    requires std::is_integral_v<T>
  LogField(std::string_view k, T v) : key(k), value(static_cast<int64_t>(v)) {}
};

// Call once at start, before threads. `process` is e.g. "worker"; `plain` prints "level event key=value" for a terminal.
void InitLog(std::string_view process, LogLevel level, bool plain);
absl::StatusOr<LogLevel> ParseLogLevel(std::string_view text);  // debug|info|warning|error
void SetLogLevel(LogLevel level);
void Log(LogLevel level, std::string_view event, std::initializer_list<LogField> fields = {});

inline void LogInfo(std::string_view e, std::initializer_list<LogField> f = {}) { Log(LogLevel::kInfo, e, f); }
inline void LogDebug(std::string_view e, std::initializer_list<LogField> f = {}) { Log(LogLevel::kDebug, e, f); }
inline void LogWarning(std::string_view e, std::initializer_list<LogField> f = {}) { Log(LogLevel::kWarning, e, f); }
inline void LogError(std::string_view e, std::initializer_list<LogField> f = {}) { Log(LogLevel::kError, e, f); }

// `text` as the inside of a JSON string, without the quotes; invalid UTF-8 becomes U+FFFD.
std::string JsonEscape(std::string_view text);

}  // namespace pagoda
