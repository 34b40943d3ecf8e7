// Sends planned requests, one thread for all of them, and records what happened to each.
#pragma once

#include <vector>

#include "cli/bench_options.h"
#include "cli/bench_report.h"

namespace pagoda::cli {

// Asks the server for its first model when none is named.
absl::StatusOr<std::string> FirstModelOverHttp(const BenchOptions& options);
absl::StatusOr<std::string> FirstModelOverGrpc(const BenchOptions& options);

// Block until every request ended. A request's own failure is in its record.
absl::StatusOr<std::vector<RequestRecord>> LoadOverHttp(const BenchOptions& options,
                                                        const std::vector<PlannedRequest>& plan);
absl::StatusOr<std::vector<RequestRecord>> LoadOverGrpc(const BenchOptions& options,
                                                        const std::vector<PlannedRequest>& plan);

// Open loop: all at their times. Closed loop: as many as may run at once.
inline int MostAtOnce(const BenchOptions& options) {
  if (options.concurrency > 0) return options.concurrency;
  return options.request_rate > 0 ? options.requests : 1;
}

}  // namespace pagoda::cli
