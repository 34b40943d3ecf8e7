#include "coordinator/prober.h"

#include <fcntl.h>
#include <netdb.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>

#include "common/config.h"

namespace pagoda::coordinator {
namespace {

constexpr size_t kMaxJobs = 1024;
constexpr int kProbeMs = 250;

// 0, or the error of the connect.
int Connect(int socket_fd, const addrinfo& to, int timeout_ms) {
  if (connect(socket_fd, to.ai_addr, to.ai_addrlen) == 0) return 0;
  if (errno != EINPROGRESS) return errno;
  pollfd wait{.fd = socket_fd, .events = POLLOUT, .revents = 0};
  if (poll(&wait, 1, timeout_ms) != 1) return ETIMEDOUT;
  int error = 0;
  socklen_t size = sizeof(error);
  getsockopt(socket_fd, SOL_SOCKET, SO_ERROR, &error, &size);
  return error;
}

}  // namespace

ProbeResult TryConnect(const std::string& address, int timeout_ms) {
  const auto parsed = ParseHostPort(address);
  if (!parsed.ok()) return ProbeResult::kUnreachable;
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  if (getaddrinfo(parsed->host.c_str(), std::to_string(parsed->port).c_str(), &hints, &found) != 0) {
    return ProbeResult::kUnreachable;
  }
  const int socket_fd = socket(found->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  const int error = socket_fd < 0 ? errno : Connect(socket_fd, *found, timeout_ms);
  if (socket_fd >= 0) close(socket_fd);
  freeaddrinfo(found);
  if (error == 0) return ProbeResult::kAnswered;
  return error == ECONNREFUSED ? ProbeResult::kRefused : ProbeResult::kUnreachable;
}

Prober::Prober() : jobs_(kMaxJobs), thread_([this] {
  while (!jobs_.closed()) {
    for (Job& job : jobs_.PopAll(absl::Seconds(10))) {
      if (jobs_.closed()) return;
      job.done(TryConnect(job.address, kProbeMs));
    }
  }
}) {}

void Prober::Probe(std::string address, std::function<void(ProbeResult)> done) {
  (void)jobs_.TryPush(Job{std::move(address), std::move(done)});  // full: the lease decides
}

void Prober::Stop() {
  jobs_.Close();
  if (thread_.joinable()) thread_.join();
}

}  // namespace pagoda::coordinator
