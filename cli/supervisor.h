// Child processes and what happens to them, without threads: signals and ready files arrive as events of descriptors, so
// that a supervisor with nothing to do takes (nearly) no CPU.
//
// How it knows that a child hangs: the loops of a child touch its ready file about once a second while they go round
// (common/pulse.h). Once a ready file has not been touched for `silence_ms`, its child is killed and started again like any
// that dies. Only time that this supervisor itself was awake counts: a machine that slept has not proven anything.
//
// Owner and thread: the main thread, which must be the only thread when Create is called (SIGINT, SIGTERM and SIGCHLD are
// blocked for it and for all threads it makes later).
#pragma once

#include <time.h>

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "cli/child_process.h"
#include "common/clock.h"
#include "common/status.h"

namespace pagoda::cli {

struct ChildSpec {
  std::string name;
  ChildCommand command;
  std::string ready_file;  // written by the child once it serves; lies in the supervisor's ready folder
};

class Supervisor {
 public:
  // `ready_folder` is made when it is not there.
  static absl::StatusOr<std::unique_ptr<Supervisor>> Create(const std::string& ready_folder);
  ~Supervisor();  // kills what is left

  absl::Status Start(ChildSpec spec);
  // Of a child that is known; binds from its next start on (a port that was chosen the first time stays).
  void ReplaceArguments(const std::string& name, std::vector<std::string> arguments);

  // The text of the ready file, once it is there.
  std::optional<std::string> ReadyText(const std::string& name) const;

  // Blocks until `done` is true; it is asked after every event, and each `tick_ms` (-1: only after events).
  // kCancelled when a signal asked to stop; kUnavailable with the log's tail when a child died.
  absl::Status WaitUntil(const std::function<bool()>& done, int tick_ms = -1);

  // Restarts whatever dies, with growing pauses, and kills what gives no sign of life for `silence_ms` (0: never), until a
  // signal asks to stop. `say` gets a line for each happening.
  void SuperviseUntilStopped(const std::function<void(const std::string&)>& say, int silence_ms = 0);

  // SIGTERM to these, then waits for them to end; SIGKILL after `grace_ms`, or at once when a second signal came.
  // False when any had to be killed.
  bool Stop(const std::vector<std::string>& names, int grace_ms);

  int signals() const { return signals_; }

 private:
  struct Child {
    ChildSpec spec;
    pid_t pid = -1;  // -1: not running
    int failures = 0;
    bool was_ready = false;
    MonotonicNs started_ns = 0;
    MonotonicNs restart_at_ns = 0;
    int exit_status = 0;
    timespec touched = {};  // the ready file's time, when it was last looked at
    int silent_ms = 0;      // for how long that has been so
  };

  Supervisor(int signal_fd, int inotify_fd) : signal_fd_(signal_fd), inotify_fd_(inotify_fd) {}
  absl::Status Launch(Child& child);
  // Waits for events up to `timeout_ms` (-1: without end); returns the names of children that ended.
  std::vector<std::string> NextEvents(int timeout_ms);
  std::vector<std::string> Reap();
  std::string Obituary(const Child& child) const;
  void RestartDue(const std::function<void(const std::string&)>& say);
  int MsToNextRestart() const;
  // `passed_ms` more have gone by.
  void KillSilent(int passed_ms, int silence_ms, const std::function<void(const std::string&)>& say);

  const int signal_fd_;
  const int inotify_fd_;
  int signals_ = 0;
  std::map<std::string, Child> children_;
};

}  // namespace pagoda::cli
