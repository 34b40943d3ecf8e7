// What a running process takes up from its configuration file on SIGHUP: its log level. (Keys and certificates have homes of
// their own, which look at their files by themselves.) Thread rule: any thread, after the command line is parsed.
#pragma once

#include <CLI/CLI.hpp>
#include <string>

#include "common/log.h"
#include "common/status.h"

namespace pagoda {

// Of --config; empty when none was given.
std::string ConfigFileOf(const CLI::App& app);

// As the file has it now: of the process's section, or of the top. kNotFound when it is not there.
absl::StatusOr<std::string> ConfiguredValue(const CLI::App& app, const std::string& name);

// Sets `log-level` anew from the file; says in the log what it did, or why not.
void ReloadLogLevel(const CLI::App& app);

}  // namespace pagoda
