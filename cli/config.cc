// `pagoda config check FILE`: every process that the file has a section for reads it as it would at its start, and says what is
// wrong with file and line.
#include <sys/wait.h>
#include <unistd.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <filesystem>
#include <iostream>

#include "cli/command.h"
#include "common/config.h"

namespace pagoda::cli {
namespace {

struct Process {
  const char* section;
  std::vector<std::string> command;  // the binary beside this one, and what goes before its flags
};

std::vector<Process> Processes() {
  const std::string folder = std::filesystem::read_symlink("/proc/self/exe").parent_path();
  return {{"router", {folder + "/pagoda-router"}},
          {"coordinator", {folder + "/pagoda-coordinator"}},
          {"worker", {folder + "/pagoda-worker"}},
          {"serve", {folder + "/pagoda", "serve"}}};
}

// Runs it in this terminal; its exit status, -1 when it cannot be run.
int RunAndWait(const std::vector<std::string>& command) {
  std::vector<char*> argv;
  for (const std::string& argument : command) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  std::cout.flush();
  const pid_t pid = fork();
  if (pid == 0) {
    execv(argv[0], argv.data());
    _exit(127);
  }
  int status = 0;
  if (pid < 0 || waitpid(pid, &status, 0) != pid) return -1;
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

absl::StatusOr<std::vector<std::string>> SectionsOf(const std::string& file) {
  std::vector<std::string> sections;
  std::error_code ignored;
  if (std::filesystem::is_directory(file, ignored)) return absl::InvalidArgumentError(absl::StrCat(file, " is a folder, not a file"));
  try {
    const YAML::Node root = YAML::LoadFile(file);
    for (const Process& process : Processes()) {
      if (root.IsMap() && root[process.section]) sections.emplace_back(process.section);
    }
  } catch (const YAML::BadFile&) {
    return absl::NotFoundError(absl::StrCat("cannot read ", file));
  } catch (const YAML::Exception& error) {
    return absl::InvalidArgumentError(absl::StrCat(file, ":", error.mark.line + 1, ": ", error.msg));
  }
  return sections;
}

int Check(const std::string& file, std::vector<std::string> wanted) {
  if (wanted.empty()) {
    auto sections = SectionsOf(file);
    if (!sections.ok()) return Fail(sections.status());
    wanted = *std::move(sections);
  }
  if (wanted.empty()) {
    return Fail(absl::InvalidArgumentError(absl::StrCat(
        file, " has none of the sections router, coordinator, worker, serve; say with --for whose file it is")));
  }
  int exit_status = kExitOk;
  for (const Process& process : Processes()) {
    if (std::find(wanted.begin(), wanted.end(), process.section) == wanted.end()) continue;
    std::vector<std::string> command = process.command;
    command.insert(command.end(), {"--config", file, "--check-config"});
    const int status = RunAndWait(command);
    std::cout << process.section << ": " << (status == 0 ? "good" : "not usable as it is") << std::endl;
    if (status != 0) exit_status = kExitFailed;
  }
  return exit_status;
}

}  // namespace

int RunConfig(int argc, const char* const* argv) {
  const std::string_view word = argc < 2 ? "" : argv[1];
  if (word != "check") {
    const bool help = word == "--help" || word == "-h";
    (help ? std::cout : std::cerr) << "usage: pagoda config check FILE [--for router,coordinator,worker,serve]\n";
    return help ? 0 : kExitUsage;
  }
  CLI::App app("Checks a configuration file with the processes that will read it; starts nothing.", "pagoda config check");
  std::string file;
  std::vector<std::string> wanted;
  app.add_option("file", file, "the YAML file")->required();
  app.add_option("--for", wanted, "whose file it is; default: of those with a section in it")
      ->delimiter(',')
      ->check(CLI::IsMember({"router", "coordinator", "worker", "serve"}));
  int exit_status = 0;
  if (!ParseOrExit(app, argc - 1, argv + 1, exit_status)) return exit_status;
  return Check(file, std::move(wanted));
}

}  // namespace pagoda::cli
