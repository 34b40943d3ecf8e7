// A rank as a process, driven by lines on standard input; each is answered by one line "ok ..." or
// "CODE message".
//   connect EPOCH STAGE RANK TIMEOUT_MS [STAGE RANK HEX_ADDRESS]...
//   send STAGE RANK CHANNEL STEP SIZE TIMEOUT_MS     receive STAGE RANK CHANNEL STEP SIZE
//   TIMEOUT_MS abort    idle MILLISECONDS (answers the CPU time used in it, microseconds)    quit
// The first line it prints is its address in hex.
#include <sys/resource.h>

#include <iostream>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/escaping.h"
#include "tests/worker/comm/ranks.h"
#include "worker/comm/ucx_transport.h"

namespace pagoda::worker {
namespace {

int64_t CpuMicroseconds() {
  rusage usage = {};
  getrusage(RUSAGE_SELF, &usage);
  const auto of = [](const timeval& time) { return int64_t{time.tv_sec} * 1000000 + time.tv_usec; };
  return of(usage.ru_utime) + of(usage.ru_stime);
}

void Answer(const absl::Status& status, const std::string& more = "") {
  if (status.ok()) {
    std::cout << "ok " << more << std::endl;
  } else {
    std::cout << absl::StatusCodeToString(status.code()) << ' ' << status.message() << std::endl;
  }
}

absl::Status Connect(Transport& transport, const LinkSecret& secret, std::istringstream& line) {
  uint64_t epoch = 0;
  PeerId self;
  int timeout_ms = 0;
  line >> epoch >> self.stage >> self.rank >> timeout_ms;
  std::vector<PeerAddress> peers;
  PeerAddress peer;
  std::string hex;
  while (line >> peer.peer.stage >> peer.peer.rank >> hex) {
    peer.address = absl::HexStringToBytes(hex);
    peers.push_back(peer);
  }
  return transport.Connect(Epoch(epoch), self, peers, absl::Milliseconds(timeout_ms), secret);
}

// What is sent is told by its step and size, so that the receiver can check it.
absl::Status Move(Transport& transport, bool sending, std::istringstream& line) {
  PeerId peer;
  int channel = 0;
  uint64_t step = 0;
  size_t size = 0;
  int timeout_ms = 0;
  line >> peer.stage >> peer.rank >> channel >> step >> size >> timeout_ms;
  const MessageTag tag{.channel = static_cast<Channel>(channel), .step = step, .sequence = 0};
  const std::vector<std::byte> expected = Pattern(size, step);
  std::vector<std::byte> data = sending ? expected : std::vector<std::byte>(size);
  const auto transfer =
      sending ? transport.Send(peer, tag, data) : transport.Receive(peer, tag, data);
  Transfer* const waited = transfer.get();
  PAGODA_RETURN_IF_ERROR(transport.Wait({&waited, 1}, absl::Milliseconds(timeout_ms), nullptr));
  return data == expected ? absl::OkStatus() : absl::DataLossError("other bytes than were sent");
}

int Main(const std::string& transports) {
  UcxOptions options;
  options.transports = transports;
  options.keepalive = absl::Milliseconds(200);
  auto made = MakeUcxTransport(options);
  if (!made.ok()) {
    Answer(made.status());
    return 1;
  }
  Transport& transport = **made;
  std::cout << absl::BytesToHexString(AsAbsl(transport.address())) << std::endl;
  std::string text;
  LinkSecret secret;
  while (std::getline(std::cin, text)) {
    std::istringstream line(text);
    std::string verb;
    line >> verb;
    if (verb == "connect") {
      Answer(Connect(transport, secret, line));
    } else if (verb == "token") {  // one letter, sixteen times: of every connect from now on
      char letter = 0;
      line >> letter;
      secret = {};
      secret.token.fill(static_cast<std::byte>(letter));
      Answer(absl::OkStatus());
    } else if (verb == "key") {  // the same, for sealed packets
      char letter = 0;
      line >> letter;
      secret = {.token = {}, .key = LinkKey()};
      secret.key->fill(static_cast<std::byte>(letter));
      Answer(absl::OkStatus());
    } else if (verb == "send" || verb == "receive") {
      Answer(Move(transport, verb == "send", line));
    } else if (verb == "abort") {
      transport.Abort();
      Answer(absl::OkStatus());
    } else if (verb == "idle") {
      int milliseconds = 0;
      line >> milliseconds;
      const int64_t before = CpuMicroseconds();
      transport.Idle(absl::Milliseconds(milliseconds));
      Answer(absl::OkStatus(), std::to_string(CpuMicroseconds() - before));
    } else if (verb == "quit") {
      break;
    } else {
      Answer(absl::InvalidArgumentError("no such command: " + text));
    }
  }
  return 0;
}

}  // namespace
}  // namespace pagoda::worker

int main(int argc, char** argv) { return pagoda::worker::Main(argc > 1 ? argv[1] : "auto"); }
