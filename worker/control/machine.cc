#include "worker/control/machine.h"

#include <sched.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "common/clock.h"
#include "common/status.h"

namespace pagoda::worker {
namespace {

constexpr int64_t kProbeBytesPerThread = 32 << 20;
constexpr int kProbeRows = 64;
constexpr int64_t kProbeMatrix = 512;
constexpr int64_t kProbeNs = 20 * kNsPerMs;

// The first word(s) of a small file; empty when it is not there.
std::string FirstLine(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

int64_t NumberOr(const std::string& text, int64_t otherwise) {
  if (text.empty() || text[0] < '0' || text[0] > '9') return otherwise;
  return std::strtoll(text.c_str(), nullptr, 10);
}

double QuotaCpus() {
  const std::string line = FirstLine("/sys/fs/cgroup/cpu.max");  // "max 100000" or "200000 100000"
  const size_t space = line.find(' ');
  if (space != std::string::npos) {
    const int64_t quota = NumberOr(line.substr(0, space), -1);
    const int64_t period = NumberOr(line.substr(space + 1), 100000);
    return quota > 0 && period > 0 ? static_cast<double>(quota) / static_cast<double>(period) : 0;
  }
  const int64_t quota = NumberOr(FirstLine("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"), -1);
  const int64_t period = NumberOr(FirstLine("/sys/fs/cgroup/cpu/cpu.cfs_period_us"), 100000);
  return quota > 0 && period > 0 ? static_cast<double>(quota) / static_cast<double>(period) : 0;
}

int64_t MachineAvailable() {
  std::ifstream file("/proc/meminfo");
  std::string key;
  int64_t kib = 0;
  std::string unit;
  while (file >> key >> kib) {
    std::getline(file, unit);
    if (key == "MemAvailable:") return kib * 1024;
  }
  return int64_t{1} << 30;
}

double MeasureBandwidth(int threads) {
  std::vector<std::vector<uint64_t>> buffers(static_cast<size_t>(threads));
  std::vector<uint64_t> sums(static_cast<size_t>(threads));
  const auto read = [&](size_t i) {
    uint64_t lanes[8] = {};
    for (size_t at = 0; at + 8 <= buffers[i].size(); at += 8) {
      for (size_t lane = 0; lane < 8; ++lane) lanes[lane] += buffers[i][at + lane];
    }
    for (const uint64_t lane : lanes) sums[i] += lane;
  };
  const auto on_all = [&](auto&& body) {
    std::vector<std::thread> team;
    for (size_t i = 1; i < buffers.size(); ++i) team.emplace_back([&body, i] { body(i); });
    body(size_t{0});
    for (std::thread& thread : team) thread.join();
  };
  on_all([&](size_t i) { buffers[i].assign(kProbeBytesPerThread / sizeof(uint64_t), i + 1); });
  const MonotonicNs begin = NowNs();
  on_all(read);
  const double seconds = static_cast<double>(std::max<MonotonicNs>(NowNs() - begin, 1)) / kNsPerSecond;
  volatile uint64_t keep = sums[0];
  (void)keep;
  return static_cast<double>(threads) * kProbeBytesPerThread / seconds;
}

// What a device's memory moves (bytes read and written) when rows are copied within it.
absl::StatusOr<double> MeasureDeviceBandwidth(kernels::Backend& backend) {
  constexpr int64_t kRows = 4096, kColumns = 4096;
  PAGODA_ASSIGN_OR_RETURN(const auto from, backend.NewBuffer(kRows * kColumns * sizeof(float)));
  PAGODA_ASSIGN_OR_RETURN(const auto to, backend.NewBuffer(kRows * kColumns * sizeof(float)));
  const kernels::Backend::CopyRowsParams copy{.from = static_cast<const float*>(from->data()),
                                              .from_stride = kColumns,
                                              .to = static_cast<float*>(to->data()),
                                              .to_stride = kColumns,
                                              .rows = kRows,
                                              .columns = kColumns};
  PAGODA_RETURN_IF_ERROR(backend.CopyRows(copy));
  PAGODA_RETURN_IF_ERROR(backend.Synchronize());
  constexpr int kCopies = 20;
  const MonotonicNs begin = NowNs();
  for (int i = 0; i < kCopies; ++i) PAGODA_RETURN_IF_ERROR(backend.CopyRows(copy));
  PAGODA_RETURN_IF_ERROR(backend.Synchronize());
  return 2.0 * kCopies * kRows * kColumns * sizeof(float) * kNsPerSecond / static_cast<double>(std::max<MonotonicNs>(NowNs() - begin, 1));
}

absl::StatusOr<double> MeasureCompute(kernels::Backend& backend) {
  constexpr int64_t kBlockBytes = 34;  // Q8_0: an f16 scale and 32 bytes
  const std::vector<std::byte> rows(kProbeMatrix * kProbeMatrix / 32 * kBlockBytes);
  const kernels::MatrixRows part{.format = kernels::WeightFormat::kQ8_0, .rows = kProbeMatrix, .columns = kProbeMatrix,
                                 .data = rows.data()};
  kernels::PackOptions options;
  PAGODA_ASSIGN_OR_RETURN(const auto matrix, backend.Pack({&part, 1}, options));
  PAGODA_ASSIGN_OR_RETURN(const auto in, backend.NewBuffer(kProbeRows * kProbeMatrix * sizeof(float)));
  PAGODA_ASSIGN_OR_RETURN(const auto out, backend.NewBuffer(kProbeRows * kProbeMatrix * sizeof(float)));
  PAGODA_ASSIGN_OR_RETURN(const auto input, backend.NewActivation(kProbeRows, kProbeMatrix, {.int8 = true}));
  PAGODA_RETURN_IF_ERROR(backend.Quantize({.data = static_cast<float*>(in->data()), .rows = kProbeRows,
                                           .columns = kProbeMatrix, .stride = kProbeMatrix}, *input));
  const kernels::Backend::MatMulParams product{.matrix = matrix.get(), .input = input.get(), .rows = kProbeRows,
                                               .out = static_cast<float*>(out->data()), .row_stride = kProbeMatrix,
                                               .plane_stride = 0};
  PAGODA_RETURN_IF_ERROR(backend.MatMul(product));
  const MonotonicNs begin = NowNs();
  int64_t products = 0;
  do {
    PAGODA_RETURN_IF_ERROR(backend.MatMul(product));
    PAGODA_RETURN_IF_ERROR(backend.Synchronize());
    ++products;
  } while (NowNs() - begin < kProbeNs);
  return static_cast<double>(products) * kProbeRows * kProbeMatrix * kProbeMatrix * kNsPerSecond /
         static_cast<double>(NowNs() - begin);
}

}  // namespace

int AvailableThreads() {
  int cpus = static_cast<int>(std::thread::hardware_concurrency());
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) == 0) cpus = CPU_COUNT(&set);
  const double quota = QuotaCpus();
  if (quota > 0) cpus = std::min(cpus, static_cast<int>(std::ceil(quota)));
  return std::max(cpus, 1);
}

int64_t AvailableMemoryBytes() {
  int64_t available = MachineAvailable();
  const int64_t limit = NumberOr(FirstLine("/sys/fs/cgroup/memory.max"), -1);
  if (limit > 0) {
    const int64_t used = NumberOr(FirstLine("/sys/fs/cgroup/memory.current"), 0);
    available = std::min(available, std::max<int64_t>(limit - used, 0));
  }
  return available;
}

MachineRates MeasureRates(kernels::Backend& backend, int threads) {
  return {.memory_bandwidth = backend.host_memory() ? MeasureBandwidth(threads) : MeasureDeviceBandwidth(backend).value_or(0), .compute_rate = MeasureCompute(backend).value_or(0)};
}

}  // namespace pagoda::worker
