// A real etcd of one member for tests, in a folder of its own, on free ports of 127.0.0.1. Can be killed, stopped, restarted.
#pragma once

#include <arpa/inet.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/ids.h"

namespace pagoda::coordinator::testing {

inline int FreePort() {
  const int socket_fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(address);
  bind(socket_fd, reinterpret_cast<sockaddr*>(&address), size);
  getsockname(socket_fd, reinterpret_cast<sockaddr*>(&address), &size);
  close(socket_fd);
  return ntohs(address.sin_port);
}

class EtcdProcess {
 public:
  static bool Installed() { return std::system("etcd --version >/dev/null 2>&1") == 0; }

  explicit EtcdProcess(bool tls = false) : tls_(tls), port_(FreePort()), peer_port_(FreePort()) {
    folder_ = std::filesystem::temp_directory_path() / ("pagoda_etcd_" + RequestId::Random().ToString());
    std::filesystem::create_directories(folder_);
    if (tls_) MakeCertificates();
    Start();
  }
  ~EtcdProcess() {
    Kill();
    std::filesystem::remove_all(folder_);
  }

  void Start() {
    const std::string client = absl::StrCat(tls_ ? "https" : "http", "://127.0.0.1:", port_);
    const std::string peer = absl::StrCat("http://127.0.0.1:", peer_port_);
    std::vector<std::string> words = {"etcd", "--name", "t", "--data-dir", (folder_ / "data").string(),
                                      "--listen-client-urls", client, "--advertise-client-urls", client,
                                      "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
                                      "--initial-cluster", "t=" + peer, "--logger", "zap"};
    if (tls_) {
      for (const std::string& word : {std::string("--cert-file"), File("server.crt"), std::string("--key-file"), File("server.key"),
                                      std::string("--client-cert-auth"), std::string("--trusted-ca-file"), File("ca.crt")}) {
        words.push_back(word);
      }
    }
    const std::string log = File("log");
    pid_ = fork();
    if (pid_ != 0) return;
    const int out = open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0644);
    dup2(out, 1);
    dup2(out, 2);
    std::vector<char*> arguments;
    for (std::string& word : words) arguments.push_back(word.data());
    arguments.push_back(nullptr);
    execvp("etcd", arguments.data());
    _exit(127);
  }
  void Kill() {
    if (pid_ <= 0) return;
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
    pid_ = -1;
  }
  std::string endpoint() const { return absl::StrCat("127.0.0.1:", port_); }
  std::string File(const std::string& name) const { return (folder_ / name).string(); }

 private:
  void MakeCertificates() {
    const std::string script = absl::StrCat(
        "cd '", folder_.string(), "' && ",
        "openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.crt -subj /CN=test-ca -days 2 2>/dev/null && ",
        "printf 'subjectAltName=IP:127.0.0.1\\nextendedKeyUsage=serverAuth,clientAuth\\n' > ext && ",
        "for who in server client; do openssl req -newkey rsa:2048 -nodes -keyout $who.key -out $who.csr -subj /CN=$who 2>/dev/null && ",
        "openssl x509 -req -in $who.csr -CA ca.crt -CAkey ca.key -CAcreateserial -out $who.crt -days 2 -extfile ext 2>/dev/null; done");
    if (std::system(script.c_str()) != 0) std::abort();
  }

  const bool tls_;
  const int port_;
  const int peer_port_;
  std::filesystem::path folder_;
  pid_t pid_ = -1;
};

}  // namespace pagoda::coordinator::testing
