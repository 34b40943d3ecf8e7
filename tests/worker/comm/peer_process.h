// Drives a comm_peer process (comm_peer.cc) from a test.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "worker/comm/transport.h"

namespace pagoda::worker {

class PeerProcess {
 public:
  // `wrapper` goes before the command: {"ip", "netns", "exec", NAME} and the like.
  PeerProcess(PeerId id, const std::string& transports, std::vector<std::string> wrapper = {});
  ~PeerProcess();  // kills it
  PeerProcess(const PeerProcess&) = delete;
  PeerProcess& operator=(const PeerProcess&) = delete;

  PeerId id() const { return id_; }
  const std::string& address() const { return address_; }  // hex
  void Tell(const std::string& line);
  std::string Hear(absl::Duration timeout = absl::Seconds(20));  // "" when nothing came
  std::string Ask(const std::string& line) {
    Tell(line);
    return Hear();
  }
  void Signal(int number);
  // "connect ..." to all of `peers`.
  void TellConnect(uint64_t epoch, const std::vector<PeerProcess*>& peers, int timeout_ms = 10000);

 private:
  const PeerId id_;
  pid_t process_ = -1;
  int to_ = -1;
  int from_ = -1;
  std::string read_ahead_;
  std::string address_;
};

}  // namespace pagoda::worker
