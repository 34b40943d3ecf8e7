// Checks of this machine.
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <sys/timex.h>
#include <uct/api/uct.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <set>
#include <sstream>

#include "cli/doctor.h"
#include "cli/local_cluster.h"
#include "cli/machine.h"
#include "cli/terminal.h"

namespace pagoda::cli {
namespace {

std::string CpuInfo(const std::string& key) {
  std::istringstream text(ReadTextFile("/proc/cpuinfo"));
  for (std::string line; std::getline(text, line);) {
    if (line.starts_with(key)) {
      const size_t colon = line.find(": ");
      return colon == std::string::npos ? "" : line.substr(colon + 2);
    }
  }
  return "unknown";
}

}  // namespace

Finding CheckProcessor() {
  std::istringstream flags_text(CpuInfo("flags"));
  const std::set<std::string> flags{std::istream_iterator<std::string>(flags_text), {}};
  const auto has = [&](const char* name) { return flags.count(name) > 0; };
  Finding finding{.subject = "cpu", .text = CpuInfo("model name") + ":"};
  if (has("amx_int8")) finding.text += " amx";
  if (has("avx512f") && has("avx512bw") && has("avx512vl")) finding.text += has("avx512_vnni") ? " avx512+vnni" : " avx512";
  if (has("avx2") && has("fma") && has("f16c")) {
    finding.text += " avx2";
  } else {
    finding.verdict = Verdict::kWarning;
    finding.text += " no avx2";
    finding.advice = "the scalar kernels work, but are many times slower; use a machine with AVX2 or better";
  }
  return finding;
}

Finding CheckProcessorQuota() {
  const double online = static_cast<double>(sysconf(_SC_NPROCESSORS_ONLN));
  const MachineSize machine = MeasureMachine();
  Finding finding{.subject = "processors"};
  char text[96];
  std::snprintf(text, sizeof(text), "%.3g of %.0f for this process", machine.processors, online);
  finding.text = text;
  if (machine.processors < 1) {
    finding.verdict = Verdict::kProblem;
    finding.advice = "the cgroup's quota is below one processor; raise cpu.max (Kubernetes: resources.limits.cpu)";
  } else if (machine.processors < online) {
    finding.verdict = Verdict::kNote;
    finding.advice = "workers use the quota, not the host's count";
  }
  return finding;
}

Finding CheckMemory() {
  constexpr int64_t kLittle = 1ll << 30;
  const MachineSize machine = MeasureMachine();
  Finding finding{.subject = "memory",
                  .text = absl::StrCat(HumanBytes(static_cast<double>(machine.available_bytes)), " available of ",
                                       HumanBytes(static_cast<double>(MemInfoBytes("MemTotal"))))};
  if (machine.available_bytes < kLittle) {
    finding.verdict = Verdict::kProblem;
    finding.advice = "less than 1 GiB is free; end something, or choose a smaller model or --kv-cache-memory-bytes";
  }
  return finding;
}

Finding CheckHugePages() {
  const std::string mode = ReadTextFile("/sys/kernel/mm/transparent_hugepage/enabled");
  const size_t open = mode.find('[');
  const size_t close = mode.find(']');
  Finding finding{.subject = "huge pages"};
  if (open == std::string::npos || close == std::string::npos) {
    finding.verdict = Verdict::kNote;
    finding.text = "transparent huge pages: unknown";
    return finding;
  }
  const std::string chosen = mode.substr(open + 1, close - open - 1);
  finding.text = "transparent huge pages: " + chosen;
  if (chosen == "never") {
    finding.verdict = Verdict::kNote;
    finding.advice = "weights are read a little faster with: echo madvise > /sys/kernel/mm/transparent_hugepage/enabled";
  }
  return finding;
}

Finding CheckSharedMemory() {
  constexpr double kEnough = 64 << 20;
  struct statvfs file_system {};
  Finding finding{.subject = "/dev/shm"};
  if (statvfs("/dev/shm", &file_system) != 0) {
    finding.verdict = Verdict::kWarning;
    finding.text = "is not there";
    finding.advice = "workers of one host fall back to TCP; mount a tmpfs at /dev/shm";
    return finding;
  }
  const double free_bytes = static_cast<double>(file_system.f_bavail) * static_cast<double>(file_system.f_frsize);
  finding.text = HumanBytes(free_bytes) + " free";
  if (free_bytes < kEnough) {
    finding.verdict = Verdict::kProblem;
    finding.advice = "workers of one host need about 64 MiB there; containers: --shm-size=1g";
  }
  return finding;
}

Finding CheckFileLimit() {
  constexpr rlim_t kEnough = 4096;
  rlimit limit{};
  getrlimit(RLIMIT_NOFILE, &limit);
  Finding finding{.subject = "open files", .text = absl::StrCat("limit ", limit.rlim_cur)};
  if (limit.rlim_cur < kEnough) {
    finding.verdict = Verdict::kWarning;
    finding.advice = "a router with many clients needs more: ulimit -n 65536";
  }
  return finding;
}

Finding CheckLockedMemoryLimit() {
  rlimit limit{};
  getrlimit(RLIMIT_MEMLOCK, &limit);
  const bool unlimited = limit.rlim_cur == RLIM_INFINITY;
  Finding finding{.subject = "locked memory",
                  .text = unlimited ? "unlimited" : "limit " + HumanBytes(static_cast<double>(limit.rlim_cur))};
  if (!unlimited && std::filesystem::exists("/dev/infiniband")) {
    finding.verdict = Verdict::kWarning;
    finding.advice = "RDMA devices are here and need locked memory: ulimit -l unlimited";
  }
  return finding;
}

Finding CheckClock() {
  timex state{};
  const int result = adjtimex(&state);
  Finding finding{.subject = "clock", .text = "synchronised"};
  if (result == TIME_ERROR || (state.status & STA_UNSYNC) != 0) {
    finding.verdict = Verdict::kNote;
    finding.text = "not synchronised";
    finding.advice = "logs of several hosts will not line up, certificates may seem expired; run an NTP client";
  }
  return finding;
}

Finding CheckModelCache(const std::string& cache_dir) {
  const char* home = std::getenv("HOME");
  const std::string folder = cache_dir.empty() ? absl::StrCat(home != nullptr ? home : "", "/.cache/pagoda") : cache_dir;
  Finding finding{.subject = "model cache", .text = folder};
  std::string existing = folder;
  while (!existing.empty() && !std::filesystem::exists(existing)) {
    existing = std::filesystem::path(existing).parent_path().string();
  }
  if (existing.empty() || access(existing.c_str(), W_OK) != 0) {
    finding.verdict = Verdict::kProblem;
    finding.text += ": cannot be written";
    finding.advice = "give another folder with --cache-dir, or the right to write there";
    return finding;
  }
  std::error_code error;
  const auto space = std::filesystem::space(existing, error);
  if (error) return finding;
  finding.text += absl::StrCat(": ", HumanBytes(static_cast<double>(space.available)), " free");
  if (space.available < (1ull << 30)) {
    finding.verdict = Verdict::kWarning;
    finding.advice = "less than 1 GiB is free; models may not fit";
  }
  return finding;
}

std::vector<Finding> CheckPorts() {
  std::vector<Finding> findings;
  const std::pair<int, const char*> ports[] = {{8000, "router, HTTP"}, {8001, "router, gRPC"}, {7070, "coordinator"}};
  for (const auto& [port, user] : ports) {
    Finding finding{.subject = absl::StrCat("port ", port), .text = absl::StrCat("free (", user, ")")};
    if (!CheckPortFree({"127.0.0.1", port}, "").ok()) {
      finding.verdict = Verdict::kNote;
      finding.text = absl::StrCat("taken (", user, ")");
      finding.advice = "something listens there already; a cluster of its own needs another --port";
    }
    findings.push_back(std::move(finding));
  }
  return findings;
}

namespace {

// Transport name -> its devices, of one UCX component.
void AddResources(uct_component_h component, std::map<std::string, std::set<std::string>>& transports) {
  uct_component_attr_t attributes{};
  attributes.field_mask = UCT_COMPONENT_ATTR_FIELD_NAME | UCT_COMPONENT_ATTR_FIELD_MD_RESOURCE_COUNT;
  if (uct_component_query(component, &attributes) != UCS_OK) return;
  std::vector<uct_md_resource_desc_t> domains(attributes.md_resource_count);
  attributes.field_mask = UCT_COMPONENT_ATTR_FIELD_MD_RESOURCES;
  attributes.md_resources = domains.data();
  if (uct_component_query(component, &attributes) != UCS_OK) return;
  for (const uct_md_resource_desc_t& domain : domains) {
    uct_md_config_t* config = nullptr;
    if (uct_md_config_read(component, nullptr, nullptr, &config) != UCS_OK) continue;
    uct_md_h opened = nullptr;
    if (uct_md_open(component, domain.md_name, config, &opened) == UCS_OK) {
      uct_tl_resource_desc_t* resources = nullptr;
      unsigned count = 0;
      if (uct_md_query_tl_resources(opened, &resources, &count) == UCS_OK) {
        for (unsigned i = 0; i < count; ++i) transports[resources[i].tl_name].insert(resources[i].dev_name);
        uct_release_tl_resource_list(resources);
      }
      uct_md_close(opened);
    }
    uct_config_release(config);
  }
}

}  // namespace

std::vector<Finding> CheckTransports() {
  std::map<std::string, std::set<std::string>> transports;
  uct_component_h* components = nullptr;
  unsigned count = 0;
  if (uct_query_components(&components, &count) == UCS_OK) {
    for (unsigned i = 0; i < count; ++i) AddResources(components[i], transports);
    uct_release_component_list(components);
  }
  std::vector<Finding> findings;
  for (const auto& [transport, devices] : transports) {
    std::string text;
    for (const std::string& device : devices) absl::StrAppend(&text, text.empty() ? "" : " ", device);
    findings.push_back({.subject = "ucx " + transport, .text = text});
  }
  if (transports.count("tcp") == 0) {
    findings.push_back({Verdict::kProblem, "ucx tcp", "no network device",
                        "workers on different hosts cannot reach each other; is there an interface that is up?"});
  }
  if (transports.count("posix") + transports.count("sysv") == 0) {
    findings.push_back({Verdict::kWarning, "ucx shared memory", "not usable",
                        "workers of one host fall back to TCP; look at /dev/shm and the IPC namespace"});
  }
  return findings;
}

}  // namespace pagoda::cli
