// What this machine offers, as this process may use it: the cgroup's quota, not the host's size.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "cli/cluster_options.h"

namespace pagoda::cli {

MachineSize MeasureMachine();

// Of the cgroup (v2 or v1); empty when there is no limit.
std::optional<double> CgroupProcessors();
std::optional<int64_t> CgroupMemoryLimit();
// One "Name: N kB" value of /proc/meminfo, in bytes; 0 when it is not there.
int64_t MemInfoBytes(const std::string& name);

std::string ReadTextFile(const std::string& path);  // empty when unreadable

}  // namespace pagoda::cli
