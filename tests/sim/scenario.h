// A run of the simulated cluster as text: what there is, and what happens to it when. A seed writes one; a failure prints it;
// kept as a file in scenarios/ it becomes a test. One line each:
//   cluster seed=7 stages=2 tensor_parallel=1,2 coordinators=3 routers=2 spares=1 replicas=1 requests=20 blocks=24 replay=1 repeating=50 resumable=50 pace=10 rest=15000
//   at 1500 kill worker-1 for 800          (milliseconds; it starts again after 800)
//   at 1500 drain router-0 for 800         (SIGTERM; it starts again 800 after it has gone)
//   at 1500 pause coordinator-0 for 4000   (SIGSTOP, SIGCONT)
//   at 1500 slow worker-0 by 20 for 3000
//   at 1500 cut 0 1 for 2000               (hosts)
//   at 1500 store down for 3000
//   at 1500 apply 12 for 0                 (another spec of the deployment: activation_bits)
//   at 1500 spoil kv for 0                 (a bug on purpose: see Simulation.WhatIsSpoiledIsFound)
//   at 1500 packets loss=0.01 twice=0.02 for 3000
//   expect epochs >= 2                     (or <=; what is counted: see Cluster::Counts)
// '#' begins a comment.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "absl/status/statusor.h"

namespace pagoda::sim {

std::string RandomScenario(uint64_t seed);

struct ScenarioResult {
  std::string violation;  // empty: all held
  std::string story;      // the last happenings
  std::string summary;
  std::map<std::string, int64_t> counts;  // as the summary has them
};
// kInvalidArgument with the line when the text is not a scenario.
absl::StatusOr<ScenarioResult> RunScenario(const std::string& text);

}  // namespace pagoda::sim
