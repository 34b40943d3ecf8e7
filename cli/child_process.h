// One child process: started so that it cannot outlive its parent, in a process group of its own (a Ctrl-C on the terminal
// reaches only the parent, which then stops its children in order), with its output in a log file.
// Thread rule: Start only from the main thread (the kernel ties the death signal to the thread that forks).
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "common/status.h"

namespace pagoda::cli {

struct ChildCommand {
  std::vector<std::string> arguments;  // [0] is the path of the binary
  std::string log_path;                // standard output and error, appended
};

// The pid. An error (with the reason of exec) when the binary could not be started.
absl::StatusOr<pid_t> StartChild(const ChildCommand& command);

// "exited with status 3", "was killed by signal 9 (Killed)".
std::string DescribeExit(int wait_status);

// The last lines of a file, at most 16 KiB of them; empty when it cannot be read.
std::string TailOfFile(const std::string& path, int lines);

}  // namespace pagoda::cli
