#include "common/config.h"

#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <charconv>
#include <iostream>
#include <map>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "common/log.h"
#include "common/reload.h"
#include "common/trace.h"

namespace pagoda {
namespace {

constexpr std::string_view kSections[] = {"router", "coordinator", "worker", "serve"};

bool IsSection(const std::string& name) { return std::ranges::find(kSections, name) != std::end(kSections); }

// "pagoda-router" and "/usr/bin/pagoda-router" read the section router, "pagoda serve" the section serve.
std::string SectionOf(const CLI::App& app) {
  const std::string name = app.get_name();
  return name.substr(name.find_last_of("/- ") + 1);
}

// A wrong key or value of the file. CLI::Error, so that it passes through CLI11 as its own errors do.
class WrongEntry : public CLI::FileError {
 public:
  WrongEntry(const std::string& file, int line, const std::string& what)
      : CLI::FileError(absl::StrCat(file, ":", line, ": ", what), CLI::ExitCodes::FileError) {}
};

// How many letters have to be changed, added or taken away to get from one to the other.
size_t Distance(const std::string& a, const std::string& b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t before = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t above = row[j];
      row[j] = std::min({above + 1, row[j - 1] + 1, before + (a[i - 1] != b[j - 1])});
      before = above;
    }
  }
  return row[b.size()];
}

std::string Suggestion(const CLI::App& app, const std::string& name) {
  std::string best;
  size_t distance = 2 + name.size() / 4;
  for (const CLI::Option* option : app.get_options()) {
    if (option == app.get_config_ptr()) continue;
    for (const std::string& known : option->get_lnames()) {
      if (const size_t d = Distance(name, known); d < distance) {
        distance = d;
        best = known;
      }
    }
  }
  return best.empty() ? "" : absl::StrCat("; is '", best, "' meant?");
}

// CLI11 reads configuration through a formatter; this one reads YAML: the entries of the top, then those of the process's
// own section, which win.
class YamlConfig : public CLI::Config {
 public:
  explicit YamlConfig(const CLI::App* app) : app_(app) {}

  std::string to_config(const CLI::App*, bool, bool, std::string) const override { return ""; }

  std::vector<CLI::ConfigItem> from_config(std::istream& input) const override {
    lines_.clear();
    const std::vector<YAML::Node> documents = YAML::LoadAll(input);
    if (documents.size() > 1) throw WrongEntry(File(), documents[1].Mark().line + 1, "a second document begins here (---): the file is one map of names to values");
    const YAML::Node root = documents.empty() ? YAML::Node() : documents[0];
    std::map<std::string, CLI::ConfigItem> items;
    if (root && !root.IsNull()) {
      if (!root.IsMap()) throw WrongEntry(File(), root.Mark().line + 1, "the file is not a map of names to values");
      ReadMap(root, /*top=*/true, items);
      const YAML::Node section = root[SectionOf(*app_)];
      if (section && section.IsMap() && IsSection(SectionOf(*app_))) ReadMap(section, /*top=*/false, items);
    }
    std::vector<CLI::ConfigItem> list;
    for (auto& [name, item] : items) list.push_back(std::move(item));
    return list;
  }

  // "FILE:LINE: " of the entry that CLI11's message is about, empty when it is about none.
  std::string PlaceOf(const std::string& message, int argc, const char* const* argv) const {
    const std::string* named = nullptr;
    for (const auto& [name, line] : lines_) {
      const size_t at = message.find("--" + name);
      const bool whole = at != std::string::npos && message.find_first_of("abcdefghijklmnopqrstuvwxyz0123456789-", at + 2 + name.size()) !=
                                                        at + 2 + name.size();
      if (whole) named = &name;
    }
    if (named == nullptr) return "";
    for (int i = 1; i < argc; ++i) {
      const std::string_view argument = argv[i];
      if (argument == "--" + *named || argument.starts_with("--" + *named + "=")) return "";  // it won over the file
    }
    return absl::StrCat(File(), ":", lines_.at(*named), ": ");
  }

  std::string File() const {
    const CLI::Option* option = app_->get_config_ptr();
    return option == nullptr || option->results().empty() ? "configuration file" : option->results().back();
  }

 private:
  void ReadMap(const YAML::Node& map, bool top, std::map<std::string, CLI::ConfigItem>& items) const {
    std::map<std::string, int> seen;
    for (const auto& entry : map) {
      const int line = entry.first.Mark().line + 1;
      if (!entry.first.IsScalar()) throw WrongEntry(File(), line, "a name is expected here");
      const std::string name = entry.first.Scalar();
      if (const auto [place, fresh] = seen.emplace(name, line); !fresh) {
        throw WrongEntry(File(), line, absl::StrCat("'", name, "' stands in line ", place->second, " already"));
      }
      if (top && IsSection(name)) {
        if (!entry.second.IsMap() && !entry.second.IsNull()) {
          throw WrongEntry(File(), line, absl::StrCat("section '", name, "' is not a map of names to values"));
        }
        continue;
      }
      if (name == "config" || app_->get_option_no_throw("--" + name) == nullptr) {
        throw WrongEntry(File(), line, absl::StrCat("there is no option '", name, "' here", Suggestion(*app_, name)));
      }
      items[name] = Item(name, line, entry.second);
      lines_[name] = line;
    }
  }

  CLI::ConfigItem Item(const std::string& name, int line, const YAML::Node& value) const {
    CLI::ConfigItem item;
    item.name = name;
    if (value.IsSequence()) {
      for (const YAML::Node& part : value) {
        if (!part.IsScalar()) throw WrongEntry(File(), line, absl::StrCat("'", name, "' lists something that is no plain value"));
        item.inputs.push_back(part.Scalar());
      }
    } else if (value.IsScalar()) {
      item.inputs.push_back(value.Scalar());
    } else {
      throw WrongEntry(File(), line, absl::StrCat("'", name, "' needs a value or a list"));
    }
    return item;
  }

  const CLI::App* const app_;
  mutable std::map<std::string, int> lines_;  // of the entries last read
};

}  // namespace

void AddConfigFile(CLI::App& app) {
  app.set_config("--config", "", "YAML file with the same names as the flags");
  app.config_formatter(std::make_shared<YamlConfig>(&app));
  app.allow_config_extras(CLI::config_extras_mode::error);
}

absl::Status ParseCommandLine(CLI::App& app, int argc, const char* const* argv) {
  const auto config = std::dynamic_pointer_cast<YamlConfig>(app.get_config_formatter());
  // --help tells every default that is a value; where zero or nothing stands for "as the program finds best", the text says so.
  for (CLI::Option* option : app.get_options()) {
    if (!option->get_default_str().empty()) continue;
    option->capture_default_str();
    const std::string text = option->get_default_str();
    if (text == "0" || text == "-1" || text == "[]") option->default_str("");
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& success) {
    app.exit(success, std::cout, std::cerr);
    return absl::CancelledError();
  } catch (const CLI::Error& error) {
    const std::string message = error.what();
    return absl::InvalidArgumentError(absl::StrCat(config == nullptr ? "" : config->PlaceOf(message, argc, argv), message));
  } catch (const YAML::Exception& error) {
    return absl::InvalidArgumentError(
        absl::StrCat(config == nullptr ? "configuration file" : config->File(), ":", error.mark.line + 1, ": ", error.msg));
  }
  return absl::OkStatus();
}

std::string ConfigFileOf(const CLI::App& app) {
  const CLI::Option* option = app.get_config_ptr();
  return option == nullptr || option->results().empty() ? "" : option->results().back();
}

absl::StatusOr<std::string> ConfiguredValue(const CLI::App& app, const std::string& name) {
  const std::string file = ConfigFileOf(app);
  if (file.empty()) return absl::NotFoundError("there is no configuration file");
  try {
    const YAML::Node root = YAML::LoadFile(file);
    if (!root.IsMap()) return absl::NotFoundError(absl::StrCat(file, " does not set '", name, "'"));
    const YAML::Node section = root[SectionOf(app)];
    const YAML::Node value = section && section.IsMap() && section[name] ? section[name] : root[name];
    if (value && value.IsScalar()) return value.Scalar();
    return absl::NotFoundError(absl::StrCat(file, " does not set '", name, "'"));
  } catch (const YAML::Exception& error) {
    return absl::InvalidArgumentError(absl::StrCat(file, ":", error.mark.line + 1, ": ", error.msg));
  }
}

void ReloadLogLevel(const CLI::App& app) {
  const auto text = ConfiguredValue(app, "log-level");
  if (!text.ok()) {
    LogWarning("log_level_not_reloaded", {{"error", AsStd(text.status().message())}});
    return;
  }
  const auto level = ParseLogLevel(*text);
  if (!level.ok()) {
    LogWarning("log_level_not_reloaded", {{"error", AsStd(level.status().message())}});
    return;
  }
  SetLogLevel(*level);
  Log(LogLevel::kInfo, "log_level_reloaded", {{"level", *text}});
}

std::string HostPort::ToString() const {
  const bool bracket = host.find(':') != std::string::npos;
  return absl::StrCat(bracket ? "[" : "", host, bracket ? "]:" : ":", port);
}

absl::StatusOr<HostPort> ParseHostPort(const std::string& text) {
  HostPort result;
  const size_t colon = text.rfind(':');
  const bool bracketed = !text.empty() && text[0] == '[';
  if (colon == std::string::npos || (bracketed && (colon < 3 || text[colon - 1] != ']'))) {
    return absl::InvalidArgumentError(absl::StrCat("'", text, "' is not host:port"));
  }
  result.host = bracketed ? text.substr(1, colon - 2) : text.substr(0, colon);
  if (!bracketed && result.host.find(':') != std::string::npos) {
    return absl::InvalidArgumentError(absl::StrCat("'", text, "' is not host:port (an IPv6 address stands in brackets: [::1]:80)"));
  }
  const auto in_a_host = [](char c) { return absl::ascii_isalnum(static_cast<unsigned char>(c)) || std::string_view("-._:%").find(c) != std::string_view::npos; };
  if (!std::ranges::all_of(result.host, in_a_host)) {
    return absl::InvalidArgumentError(absl::StrCat("'", text, "' is not host:port: a host has letters, digits, dots and dashes"));
  }
  const char* begin = text.data() + colon + 1;
  const auto [end, error] = std::from_chars(begin, text.data() + text.size(), result.port);
  if (error != std::errc() || end != text.data() + text.size() || result.port < 0 || result.port > 65535) {
    return absl::InvalidArgumentError(absl::StrCat("'", text, "': the port is not a number from 0 to 65535"));
  }
  return result;
}

CLI::Validator Checked(std::function<absl::Status(const std::string&)> parse) {
  return CLI::Validator([parse = std::move(parse)](std::string& text) { return std::string(parse(text).message()); }, "");
}

CLI::Validator IsHostPort() {
  return Checked([](const std::string& text) { return ParseHostPort(text).status(); });
}

CLI::Validator IsHostPortOrEmpty() {
  return Checked([](const std::string& text) { return text.empty() ? absl::OkStatus() : ParseHostPort(text).status(); });
}

CLI::Validator IsHostPortList() {
  return Checked([](const std::string& text) {
    for (const auto part : absl::StrSplit(text, ',')) PAGODA_RETURN_IF_ERROR(ParseHostPort(std::string(part)).status());
    return absl::OkStatus();
  });
}

CLI::Validator IsPortRange() {
  return Checked([](const std::string& text) {
    const std::vector<std::string> ends = absl::StrSplit(text, '-');
    int low = 0, high = 0;
    const bool numbers = ends.size() == 2 && absl::SimpleAtoi(ends[0], &low) && absl::SimpleAtoi(ends[1], &high);
    if (numbers && low >= 1 && low <= high && high <= 65535) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat("'", text, "' is not a range of ports such as 13500-13600"));
  });
}

CLI::Validator IsTraceEndpoint() {
  return Checked([](const std::string& text) { return text.empty() ? absl::OkStatus() : Tracer::CheckEndpoint(text); });
}

CLI::Validator IsLogLevel() {
  return Checked([](const std::string& text) { return ParseLogLevel(text).status(); });
}

}  // namespace pagoda
