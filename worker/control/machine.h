// What this process may use of its machine (cgroup quota, memory), and how quick it is: measured once, in some tens of
// milliseconds, for the coordinator's placement.
#pragma once

#include <cstdint>

#include "kernels/backend.h"

namespace pagoda::worker {

int AvailableThreads();         // of the affinity mask and the cgroup's CPU quota, at least 1
int64_t AvailableMemoryBytes(); // free for this process, of the machine and the cgroup

struct MachineRates {
  double memory_bandwidth = 0;  // bytes/s that `threads` threads read
  double compute_rate = 0;      // multiply-adds/s of 8-bit products through the backend
};
MachineRates MeasureRates(kernels::Backend& backend, int threads);

}  // namespace pagoda::worker
