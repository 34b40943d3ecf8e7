#include "tests/worker/comm/peer_process.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"

namespace pagoda::worker {

PeerProcess::PeerProcess(PeerId id, const std::string& transports, std::vector<std::string> wrapper)
    : id_(id) {
  int input[2];
  int output[2];
  PAGODA_CHECK(pipe2(input, O_CLOEXEC) == 0 && pipe2(output, O_CLOEXEC) == 0);
  wrapper.push_back(COMM_PEER_PATH);
  wrapper.push_back(transports);
  std::vector<char*> arguments;
  for (std::string& argument : wrapper) arguments.push_back(argument.data());
  arguments.push_back(nullptr);
  signal(SIGPIPE, SIG_IGN);
  process_ = fork();
  if (process_ == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    dup2(input[0], STDIN_FILENO);
    dup2(output[1], STDOUT_FILENO);
    execvp(arguments[0], arguments.data());
    _exit(127);
  }
  close(input[0]);
  close(output[1]);
  to_ = input[1];
  from_ = output[0];
  address_ = Hear();
}

PeerProcess::~PeerProcess() {
  Signal(SIGKILL);
  close(to_);
  close(from_);
}

void PeerProcess::Signal(int number) {
  if (process_ < 0) return;
  kill(process_, number);
  // A dead child that nobody has waited for still counts as a process, to UCX too.
  if (number == SIGKILL) waitpid(std::exchange(process_, -1), nullptr, 0);
}

void PeerProcess::Tell(const std::string& line) {
  const std::string text = line + "\n";
  [[maybe_unused]] const ssize_t written = write(to_, text.data(), text.size());
}

std::string PeerProcess::Hear(absl::Duration timeout) {
  const auto deadline = std::chrono::steady_clock::now() + absl::ToChronoMilliseconds(timeout);
  while (true) {
    const size_t end = read_ahead_.find('\n');
    if (end != std::string::npos) {
      std::string line = read_ahead_.substr(0, end);
      read_ahead_.erase(0, end + 1);
      return line;
    }
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
        deadline - std::chrono::steady_clock::now());
    pollfd readable = {.fd = from_, .events = POLLIN, .revents = 0};
    if (left.count() <= 0 || poll(&readable, 1, static_cast<int>(left.count())) <= 0) return "";
    char buffer[4096];
    const ssize_t count = read(from_, buffer, sizeof(buffer));
    if (count <= 0) return "";
    read_ahead_.append(buffer, static_cast<size_t>(count));
  }
}

void PeerProcess::TellConnect(uint64_t epoch, const std::vector<PeerProcess*>& peers,
                              int timeout_ms) {
  std::string line =
      absl::StrCat("connect ", epoch, " ", id_.stage, " ", id_.rank, " ", timeout_ms);
  for (const PeerProcess* peer : peers) {
    absl::StrAppend(&line, " ", peer->id().stage, " ", peer->id().rank, " ", peer->address());
  }
  Tell(line);
}

}  // namespace pagoda::worker
