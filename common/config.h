// Flags and one YAML file with the same names: `--max-model-len 4096` and `max-model-len: 4096`. A flag on the command
// line wins over the file. An unknown key in the file is an error that names it.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <string>

#include "common/status.h"

namespace pagoda {

// Adds `--config FILE` (YAML: a map of flag names to scalars or lists), `--check-config` is the caller's.
void AddConfigFile(CLI::App& app);

// Parses; on --help or --version prints and returns kCancelled with an empty message; on a wrong flag or key returns
// kInvalidArgument whose message says which and what is allowed.
absl::Status ParseCommandLine(CLI::App& app, int argc, const char* const* argv);

// "host:port" (IPv6 in brackets). Requires port 0..65535.
struct HostPort {
  std::string host;
  int port = 0;
  std::string ToString() const;
};
absl::StatusOr<HostPort> ParseHostPort(const std::string& text);

// For `->check(...)`, so that a wrong value is refused with its flag's name, or its file, line and name. In general: what a
// parser of ours says of it.
CLI::Validator Checked(std::function<absl::Status(const std::string&)> parse);
CLI::Validator IsHostPort();      // one
CLI::Validator IsHostPortOrEmpty();
CLI::Validator IsHostPortList();  // one or more, with commas between
CLI::Validator IsPortRange();     // "13500-13600", from a lower port to a higher one
CLI::Validator IsTraceEndpoint();
CLI::Validator IsLogLevel();

}  // namespace pagoda
