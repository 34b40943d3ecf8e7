#include "common/log.h"

#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <cmath>
#include <cstdio>
#include <memory>

namespace pagoda {
namespace {

struct LogState {
  std::shared_ptr<spdlog::logger> logger;
  std::string process = "pagoda";
  bool plain = false;
};

LogState& State() {
  static LogState& state = *new LogState{
      std::make_shared<spdlog::logger>("pagoda", std::make_shared<spdlog::sinks::stderr_sink_mt>())};
  return state;
}

spdlog::level::level_enum ToSpdlog(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug: return spdlog::level::debug;
    case LogLevel::kInfo: return spdlog::level::info;
    case LogLevel::kWarning: return spdlog::level::warn;
    case LogLevel::kError: return spdlog::level::err;
  }
  return spdlog::level::info;
}

std::string_view Name(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug: return "debug";
    case LogLevel::kInfo: return "info";
    case LogLevel::kWarning: return "warning";
    case LogLevel::kError: return "error";
  }
  return "info";
}

std::string ValueText(const LogField& field, bool quote) {
  if (const auto* text = std::get_if<std::string>(&field.value)) {
    return quote ? absl::StrCat("\"", JsonEscape(*text), "\"") : JsonEscape(*text);
  }
  if (const auto* number = std::get_if<int64_t>(&field.value)) return absl::StrCat(*number);
  if (const auto* flag = std::get_if<bool>(&field.value)) return *flag ? "true" : "false";
  const double real = std::get<double>(field.value);
  return std::isfinite(real) ? absl::StrCat(real) : "null";
}

// Length of the UTF-8 sequence at text[i], or 0 when it is not valid.
size_t Utf8Length(std::string_view text, size_t i) {
  const auto byte = static_cast<unsigned char>(text[i]);
  const size_t length = byte < 0x80 ? 1 : byte >= 0xC2 && byte < 0xE0 ? 2 : byte >= 0xE0 && byte < 0xF0 ? 3
                        : byte >= 0xF0 && byte < 0xF5 ? 4 : 0;
  if (length == 0 || i + length > text.size()) return 0;
  for (size_t k = 1; k < length; ++k) {
    if ((static_cast<unsigned char>(text[i + k]) & 0xC0) != 0x80) return 0;
  }
  const auto second = length > 1 ? static_cast<unsigned char>(text[i + 1]) : 0;
  if (byte == 0xE0 && second < 0xA0) return 0;
  if (byte == 0xED && second > 0x9F) return 0;
  if (byte == 0xF0 && second < 0x90) return 0;
  if (byte == 0xF4 && second > 0x8F) return 0;
  return length;
}

}  // namespace

void InitLog(std::string_view process, LogLevel level, bool plain) {
  LogState& state = State();
  state.process = std::string(process);
  state.plain = plain;
  state.logger->set_pattern("%v");
  state.logger->flush_on(spdlog::level::debug);
  SetLogLevel(level);
}

absl::StatusOr<LogLevel> ParseLogLevel(std::string_view text) {
  for (LogLevel level : {LogLevel::kDebug, LogLevel::kInfo, LogLevel::kWarning, LogLevel::kError}) {
    if (text == Name(level)) return level;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("log level '", AsAbsl(text), "' is not one of debug, info, warning, error"));
}

void SetLogLevel(LogLevel level) { State().logger->set_level(ToSpdlog(level)); }

void Log(LogLevel level, std::string_view event, std::initializer_list<LogField> fields) {
  LogState& state = State();
  if (!state.logger->should_log(ToSpdlog(level))) return;
  std::string line;
  if (state.plain) {
    line = absl::StrCat(AsAbsl(Name(level)), " ", state.process, ": ", JsonEscape(event));
    for (const LogField& field : fields) {
      absl::StrAppend(&line, " ", AsAbsl(field.key), "=", ValueText(field, false));
    }
  } else {
    const auto now = std::chrono::system_clock::now();
    const auto ms = std::chrono::duration_cast<std::chrono::milliseconds>(now.time_since_epoch()).count();
    const std::time_t seconds = static_cast<std::time_t>(ms / 1000);
    std::tm utc{};
    gmtime_r(&seconds, &utc);
    char stamp[96];
    std::snprintf(stamp, sizeof(stamp), "%04d-%02d-%02dT%02d:%02d:%02d.%03dZ", utc.tm_year + 1900,
                  utc.tm_mon + 1, utc.tm_mday, utc.tm_hour, utc.tm_min, utc.tm_sec, static_cast<int>(ms % 1000));
    line = absl::StrCat("{\"time\":\"", stamp, "\",\"level\":\"", AsAbsl(Name(level)), "\",\"process\":\"",
                        state.process, "\",\"event\":\"", JsonEscape(event), "\"");
    for (const LogField& field : fields) {
      absl::StrAppend(&line, ",\"", JsonEscape(field.key), "\":", ValueText(field, true));
    }
    line += "}";
  }
  state.logger->log(ToSpdlog(level), "{}", line);
}

std::string JsonEscape(std::string_view text) {
  std::string out;
  out.reserve(text.size() + 8);
  for (size_t i = 0; i < text.size();) {
    const auto byte = static_cast<unsigned char>(text[i]);
    const size_t length = Utf8Length(text, i);
    if (length == 0) {
      out += "\xEF\xBF\xBD";
      ++i;
    } else if (byte == '"' || byte == '\\') {
      out += '\\';
      out += text[i++];
    } else if (byte == '\n') {
      out += "\\n";
      ++i;
    } else if (byte < 0x20 || byte == 0x7F) {
      char escape[8];
      std::snprintf(escape, sizeof(escape), "\\u%04x", byte);
      out += escape;
      ++i;
    } else {
      out.append(text, i, length);
      i += length;
    }
  }
  return out;
}

}  // namespace pagoda
