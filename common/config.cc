#include "common/config.h"

#include <yaml-cpp/yaml.h>

#include <charconv>
#include <iostream>

namespace pagoda {
namespace {

// CLI11 reads configuration through a formatter; this one reads YAML.
class YamlConfig : public CLI::Config {
 public:
  std::string to_config(const CLI::App*, bool, bool, std::string) const override { return ""; }

  std::vector<CLI::ConfigItem> from_config(std::istream& input) const override {
    std::vector<CLI::ConfigItem> items;
    const YAML::Node root = YAML::Load(input);
    if (!root || root.IsNull()) return items;
    if (!root.IsMap()) throw CLI::FileError("the configuration file is not a map of names to values");
    for (const auto& entry : root) {
      CLI::ConfigItem item;
      item.name = entry.first.as<std::string>();
      if (entry.second.IsSequence()) {
        for (const auto& value : entry.second) item.inputs.push_back(value.as<std::string>());
      } else if (entry.second.IsScalar()) {
        item.inputs.push_back(entry.second.as<std::string>());
      } else {
        throw CLI::FileError("configuration key '" + item.name + "' is neither a value nor a list");
      }
      items.push_back(std::move(item));
    }
    return items;
  }
};

}  // namespace

void AddConfigFile(CLI::App& app) {
  app.set_config("--config", "", "YAML file with the same names as the flags");
  app.config_formatter(std::make_shared<YamlConfig>());
  app.allow_config_extras(CLI::config_extras_mode::error);
}

absl::Status ParseCommandLine(CLI::App& app, int argc, const char* const* argv) {
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& success) {
    app.exit(success, std::cout, std::cerr);
    return absl::CancelledError();
  } catch (const CLI::Error& error) {
    return absl::InvalidArgumentError(error.what());
  } catch (const YAML::Exception& error) {
    return absl::InvalidArgumentError(absl::StrCat("configuration file: ", error.what()));
  }
  return absl::OkStatus();
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
  const char* begin = text.data() + colon + 1;
  const auto [end, error] = std::from_chars(begin, text.data() + text.size(), result.port);
  if (error != std::errc() || end != text.data() + text.size() || result.port < 0 || result.port > 65535) {
    return absl::InvalidArgumentError(absl::StrCat("'", text, "': the port is not a number from 0 to 65535"));
  }
  return result;
}

}  // namespace pagoda
