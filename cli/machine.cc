#include "cli/machine.h"

#include <sched.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <limits>
#include <sstream>

namespace pagoda::cli {

std::string ReadTextFile(const std::string& path) {
  std::ifstream file(path);
  return std::string((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
}

std::optional<double> CgroupProcessors() {
  std::istringstream v2(ReadTextFile("/sys/fs/cgroup/cpu.max"));
  std::string quota;
  double period = 0;
  if (v2 >> quota >> period) {
    if (quota == "max" || period <= 0) return std::nullopt;
    return std::stod(quota) / period;
  }
  std::istringstream v1(ReadTextFile("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"));
  std::istringstream v1_period(ReadTextFile("/sys/fs/cgroup/cpu/cpu.cfs_period_us"));
  double v1_quota = 0;
  if (v1 >> v1_quota && v1_period >> period && v1_quota > 0 && period > 0) return v1_quota / period;
  return std::nullopt;
}

std::optional<int64_t> CgroupMemoryLimit() {
  for (const char* path : {"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"}) {
    std::istringstream text(ReadTextFile(path));
    int64_t limit = 0;
    if (text >> limit && limit > 0 && limit < std::numeric_limits<int64_t>::max() / 2) return limit;
  }
  return std::nullopt;
}

int64_t MemInfoBytes(const std::string& name) {
  std::ifstream file("/proc/meminfo");
  std::string key;
  int64_t kilobytes = 0;
  while (file >> key >> kilobytes) {
    if (key == name + ":") return kilobytes * 1024;
    file.ignore(std::numeric_limits<std::streamsize>::max(), '\n');
  }
  return 0;
}

MachineSize MeasureMachine() {
  MachineSize machine;
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) == 0) machine.processors = CPU_COUNT(&set);
  if (const auto quota = CgroupProcessors()) machine.processors = std::min(machine.processors, *quota);
  machine.available_bytes = MemInfoBytes("MemAvailable");
  if (const auto limit = CgroupMemoryLimit()) machine.available_bytes = std::min(machine.available_bytes, *limit);
  return machine;
}

}  // namespace pagoda::cli
