// One-way latency and bandwidth of the data plane between two processes, over shared memory and TCP
// loopback, at the sizes of hidden states of a small model: half the round trip of a message and
// its answer.
//
//   comm_latency_bench [--transports LIST] [--packet-bytes N] [--repetitions N] [--spin-us N]
//   [--pin 0|1]
//                      [--set
//   UCX_NAME=VALUE]...
#include <sched.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "worker/comm/ucx_transport.h"

namespace pagoda::worker {
namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kSizes[] = {8, 2304, 8192, 18432, 36864, 73728, 147456, 589824};
constexpr absl::Duration kTimeout = absl::Seconds(20);

struct Settings {
  std::vector<std::string> transports = {"posix,sysv,self", "tcp,self"};
  UcxOptions options;
  int repetitions = 400;
  bool pin = true;
};

void Must(const absl::Status& status) {
  if (status.ok()) return;
  std::fprintf(stderr, "%s\n", status.ToString().c_str());
  std::_Exit(1);
}

// Addresses are swapped over a pair of sockets, as the coordinator would.
std::string Swap(int socket, const std::string& mine) {
  const uint32_t size = static_cast<uint32_t>(mine.size());
  uint32_t other_size = 0;
  bool ok = write(socket, &size, sizeof(size)) == sizeof(size) &&
            write(socket, mine.data(), size) == static_cast<ssize_t>(size) &&
            read(socket, &other_size, sizeof(other_size)) == sizeof(other_size);
  std::string other(other_size, '\0');
  for (size_t got = 0; ok && got < other.size();) {
    const ssize_t count = read(socket, other.data() + got, other.size() - got);
    ok = count > 0;
    got += ok ? static_cast<size_t>(count) : 0;
  }
  if (!ok) Must(absl::UnavailableError("the other process is gone"));
  return other;
}

// A core for each side, as far as there are two.
void Pin(int stage) {
  cpu_set_t allowed;
  sched_getaffinity(0, sizeof(allowed), &allowed);
  int skip = stage;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &allowed) || skip-- > 0) continue;
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    sched_setaffinity(0, sizeof(one), &one);
    return;
  }
}

void RunSide(int stage, int socket, const Settings& settings) {
  if (settings.pin) Pin(stage);
  auto made = MakeUcxTransport(settings.options);
  Must(made.status());
  Transport& transport = **made;
  const PeerId self{.stage = stage, .rank = 0};
  const PeerId other{.stage = 1 - stage, .rank = 0};
  Must(transport.Connect(
      Epoch(1), self, {{.peer = other, .address = Swap(socket, transport.address())}}, kTimeout));
  const auto send = [&](uint64_t step, std::span<const std::byte> data) {
    auto transfer =
        transport.Send(other, {.channel = Channel::kHidden, .step = step, .sequence = 0}, data);
    Transfer* const waited = transfer.get();
    Must(transport.Wait({&waited, 1}, kTimeout, nullptr));
  };
  const auto receive = [&](uint64_t step, std::span<std::byte> data) {
    auto transfer =
        transport.Receive(other, {.channel = Channel::kHidden, .step = step, .sequence = 0}, data);
    Transfer* const waited = transfer.get();
    Must(transport.Wait({&waited, 1}, kTimeout, nullptr));
  };
  uint64_t step = 0;
  for (const size_t size : kSizes) {
    std::vector<std::byte> data(size);
    std::vector<double> one_way_us;
    for (int i = 0; i < settings.repetitions; ++i) {
      const auto begin = Clock::now();
      ++step;
      if (stage == 0) send(step, data);
      receive(step, data);
      if (stage == 1) send(step, data);
      one_way_us.push_back(std::chrono::duration<double, std::micro>(Clock::now() - begin).count() /
                           2);
    }
    if (stage != 0) continue;
    std::sort(one_way_us.begin(), one_way_us.end());
    const double median = one_way_us[one_way_us.size() / 2];
    std::printf("%-18s %8zu bytes  p50 %8.2f us  p99 %8.2f us  %8.2f GB/s\n",
                settings.options.transports.c_str(), size, median,
                one_way_us[one_way_us.size() * 99 / 100], static_cast<double>(size) / median / 1e3);
  }
  // So that the last answer is read before the link goes.
  std::byte end{};
  if (stage == 0) send(step + 1, {&end, 1});
  if (stage == 1) receive(step + 1, {&end, 1});
}

void RunPair(const Settings& settings) {
  int sockets[2];
  if (socketpair(AF_UNIX, SOCK_STREAM, 0, sockets) != 0)
    Must(absl::InternalError("socketpair failed"));
  const pid_t child = fork();
  if (child == 0) {
    RunSide(1, sockets[1], settings);
    std::_Exit(0);
  }
  cpu_set_t before;
  sched_getaffinity(0, sizeof(before), &before);
  RunSide(0, sockets[0], settings);
  sched_setaffinity(0, sizeof(before), &before);
  waitpid(child, nullptr, 0);
  close(sockets[0]);
  close(sockets[1]);
}

Settings Parse(int argc, char** argv) {
  Settings settings;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string name = argv[i];
    const std::string value = argv[i + 1];
    if (name == "--transports") {
      settings.transports = {value};
    } else if (name == "--packet-bytes") {
      settings.options.packet_bytes = std::strtoull(value.c_str(), nullptr, 10);
    } else if (name == "--repetitions") {
      settings.repetitions = std::max(1, std::atoi(value.c_str()));
    } else if (name == "--spin-us") {
      settings.options.spin = absl::Microseconds(std::atoi(value.c_str()));
    } else if (name == "--pin") {
      settings.pin = value == "1";
    } else if (name == "--set" && value.find('=') != std::string::npos) {
      settings.options.settings.emplace_back(value.substr(0, value.find('=')),
                                             value.substr(value.find('=') + 1));
    } else {
      Must(absl::InvalidArgumentError(absl::StrCat("what is ", name, "?")));
    }
  }
  return settings;
}

}  // namespace
}  // namespace pagoda::worker

int main(int argc, char** argv) {
  pagoda::worker::Settings settings = pagoda::worker::Parse(argc, argv);
  for (const std::string& transports : settings.transports) {
    settings.options.transports = transports;
    pagoda::worker::RunPair(settings);
    std::fflush(stdout);
  }
  return 0;
}
