#include "cli/supervisor.h"

#include <poll.h>
#include <signal.h>
#include <sys/inotify.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "common/pulse.h"

namespace pagoda::cli {
namespace {

constexpr int kTailLines = 20;
constexpr int64_t kFirstPauseNs = 500 * kNsPerMs;
constexpr int64_t kLongestPauseNs = 30 * kNsPerSecond;
constexpr int64_t kHealthyNs = 60 * kNsPerSecond;  // one that lived this long starts with the first pause again

}  // namespace

absl::StatusOr<std::unique_ptr<Supervisor>> Supervisor::Create(const std::string& ready_folder) {
  std::error_code error;
  std::filesystem::create_directories(ready_folder, error);
  if (error) return absl::UnavailableError(absl::StrCat("cannot make ", ready_folder, ": ", error.message()));
  sigset_t set;
  sigemptyset(&set);
  for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGCHLD}) sigaddset(&set, signal);
  sigprocmask(SIG_BLOCK, &set, nullptr);
  const int signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
  const int inotify_fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
  if (signal_fd < 0 || inotify_fd < 0 ||
      inotify_add_watch(inotify_fd, ready_folder.c_str(), IN_CLOSE_WRITE | IN_MOVED_TO) < 0) {
    return absl::ResourceExhaustedError(absl::StrCat("cannot watch ", ready_folder, ": ", std::strerror(errno)));
  }
  return std::unique_ptr<Supervisor>(new Supervisor(signal_fd, inotify_fd));
}

Supervisor::~Supervisor() {
  for (auto& [name, child] : children_) {
    if (child.pid > 0) {
      kill(child.pid, SIGKILL);
      waitpid(child.pid, nullptr, 0);
    }
  }
  close(signal_fd_);
  close(inotify_fd_);
}

absl::Status Supervisor::Start(ChildSpec spec) {
  const std::string name = spec.name;
  std::filesystem::remove(spec.command.log_path);
  Child& child = children_[name];
  child.spec = std::move(spec);
  return Launch(child);
}

absl::Status Supervisor::Launch(Child& child) {
  std::filesystem::remove(child.spec.ready_file);
  PAGODA_ASSIGN_OR_RETURN(child.pid, StartChild(child.spec.command));
  child.started_ns = NowNs();
  child.restart_at_ns = 0;
  child.was_ready = false;
  child.touched = {};
  child.silent_ms = 0;
  return absl::OkStatus();
}

void Supervisor::ReplaceArguments(const std::string& name, std::vector<std::string> arguments) {
  children_.at(name).spec.command.arguments = std::move(arguments);
}

std::optional<std::string> Supervisor::ReadyText(const std::string& name) const {
  std::ifstream file(children_.at(name).spec.ready_file);
  std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  // A file without its last newline is still being written.
  if (text.empty() || text.back() != '\n') return std::nullopt;
  return text;
}

std::vector<std::string> Supervisor::Reap() {
  std::vector<std::string> ended;
  for (auto& [name, child] : children_) {
    if (child.pid > 0 && waitpid(child.pid, &child.exit_status, WNOHANG) == child.pid) {
      child.pid = -1;
      ended.push_back(name);
    }
  }
  return ended;
}

std::vector<std::string> Supervisor::NextEvents(int timeout_ms) {
  pollfd descriptors[] = {{signal_fd_, POLLIN, 0}, {inotify_fd_, POLLIN, 0}};
  poll(descriptors, 2, timeout_ms);
  signalfd_siginfo info;
  while (read(signal_fd_, &info, sizeof(info)) == sizeof(info)) {
    if (info.ssi_signo != SIGCHLD) ++signals_;
  }
  alignas(inotify_event) char buffer[4096];
  while (read(inotify_fd_, buffer, sizeof(buffer)) > 0) {
  }
  return Reap();
}

std::string Supervisor::Obituary(const Child& child) const {
  const std::string tail = TailOfFile(child.spec.command.log_path, kTailLines);
  return absl::StrCat(child.spec.name, " ", DescribeExit(child.exit_status), ". The end of ",
                      child.spec.command.log_path, ":\n", tail.empty() ? "(it wrote nothing)\n" : tail);
}

absl::Status Supervisor::WaitUntil(const std::function<bool()>& done, int tick_ms) {
  while (signals_ == 0) {
    if (done()) return absl::OkStatus();
    for (const std::string& name : NextEvents(tick_ms)) {
      if (signals_ == 0) return absl::UnavailableError(Obituary(children_.at(name)));
    }
  }
  return absl::CancelledError("stopped by a signal");
}

int Supervisor::MsToNextRestart() const {
  MonotonicNs next = 0;
  for (const auto& [name, child] : children_) {
    if (child.restart_at_ns != 0 && (next == 0 || child.restart_at_ns < next)) next = child.restart_at_ns;
  }
  if (next == 0) return -1;
  return static_cast<int>(std::max<int64_t>(0, (next - NowNs() + kNsPerMs - 1) / kNsPerMs));
}

void Supervisor::RestartDue(const std::function<void(const std::string&)>& say) {
  for (auto& [name, child] : children_) {
    if (child.pid > 0) {
      if (!child.was_ready && child.failures > 0 && ReadyText(name).has_value()) {
        child.was_ready = true;
        say(absl::StrCat(name, " is back"));
      }
      continue;
    }
    if (child.restart_at_ns == 0 || child.restart_at_ns > NowNs()) continue;
    const absl::Status started = Launch(child);
    if (!started.ok()) {
      say(absl::StrCat(name, ": ", started.message()));
      child.restart_at_ns = NowNs() + kLongestPauseNs;
    }
  }
}

void Supervisor::KillSilent(int passed_ms, int silence_ms, const std::function<void(const std::string&)>& say) {
  for (auto& [name, child] : children_) {
    struct stat file = {};
    if (child.pid <= 0 || stat(child.spec.ready_file.c_str(), &file) != 0) continue;  // not ready yet: it may take its time
    const timespec touched = file.st_mtim;
    if (touched.tv_sec != child.touched.tv_sec || touched.tv_nsec != child.touched.tv_nsec) {
      child.touched = touched;
      child.silent_ms = 0;
      continue;
    }
    child.silent_ms += passed_ms;
    if (child.silent_ms < silence_ms) continue;
    say(absl::StrCat(name, " gave no sign of life for ", child.silent_ms / 1000, " s: killing it"));
    child.silent_ms = 0;
    kill(child.pid, SIGKILL);  // ends one that is stopped too
  }
}

void Supervisor::SuperviseUntilStopped(const std::function<void(const std::string&)>& say, int silence_ms) {
  // How often ready files are looked at: often enough to be a quarter late at most.
  const int look_ms = silence_ms > 0 ? std::clamp(silence_ms / 4, 50, kPulseMs) : -1;
  MonotonicNs looked_ns = NowNs();
  while (signals_ == 0) {
    const int restart_ms = MsToNextRestart();
    const int wait_ms = look_ms < 0 || (restart_ms >= 0 && restart_ms < look_ms) ? restart_ms : look_ms;
    const std::vector<std::string> ended = NextEvents(wait_ms);
    const MonotonicNs now = NowNs();
    if (look_ms > 0 && signals_ == 0 && now - looked_ns >= look_ms * kNsPerMs) {
      // One look counts for at most two of them: what went by beyond that, this process did not see.
      KillSilent(static_cast<int>(std::min<int64_t>((now - looked_ns) / kNsPerMs, 2 * look_ms)), silence_ms, say);
      looked_ns = now;
    }
    for (const std::string& name : ended) {
      if (signals_ != 0) return;
      Child& child = children_.at(name);
      if (NowNs() - child.started_ns > kHealthyNs) child.failures = 0;
      const int64_t pause = std::min(kLongestPauseNs, kFirstPauseNs << std::min(child.failures, 10));
      ++child.failures;
      child.restart_at_ns = NowNs() + pause;
      say(absl::StrCat(Obituary(child), "restarting ", name, " in ", pause / kNsPerMs, " ms"));
    }
    RestartDue(say);
  }
}

bool Supervisor::Stop(const std::vector<std::string>& names, int grace_ms) {
  const int signals_at_start = std::max(signals_, 1);
  std::vector<Child*> stopping;
  for (const std::string& name : names) {
    const auto found = children_.find(name);
    if (found == children_.end()) continue;
    found->second.restart_at_ns = 0;
    if (found->second.pid > 0) stopping.push_back(&found->second);
  }
  for (Child* child : stopping) kill(child->pid, SIGTERM);
  const MonotonicNs deadline = NowNs() + grace_ms * kNsPerMs;
  const auto running = [&] {
    return std::any_of(stopping.begin(), stopping.end(), [](const Child* child) { return child->pid > 0; });
  };
  while (running() && NowNs() < deadline && signals_ <= signals_at_start) {
    NextEvents(static_cast<int>(std::max<int64_t>(1, (deadline - NowNs()) / kNsPerMs)));
  }
  bool clean = true;
  for (Child* child : stopping) {
    if (child->pid <= 0) continue;
    clean = false;
    kill(child->pid, SIGKILL);
    waitpid(child->pid, &child->exit_status, 0);
    child->pid = -1;
  }
  return clean;
}

}  // namespace pagoda::cli
