// `pagoda bench`: sends load and reports what the clients saw.
#include <sys/resource.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>

#include "cli/bench_load.h"
#include "cli/command.h"
#include "cli/terminal.h"
#include "common/clock.h"

namespace pagoda::cli {
namespace {

double CpuSeconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& time) { return static_cast<double>(time.tv_sec) + time.tv_usec * 1e-6; };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

absl::Status Print(const BenchReport& report, const BenchOptions& options) {
  if (options.output != "-") std::cout << ToText(report);
  if (options.output.empty()) return absl::OkStatus();
  const std::string json = ToJson(report, options).dump(2) + "\n";
  if (options.output == "-") {
    std::cout << json;
    return absl::OkStatus();
  }
  std::ofstream file(options.output);
  if (!(file << json)) return absl::UnavailableError("cannot write " + options.output);
  return absl::OkStatus();
}

// Before the load: a report that cannot be written would be minutes of work lost.
absl::Status CheckOutput(const std::string& path) {
  if (path.empty() || path == "-") return absl::OkStatus();
  std::ofstream file(path, std::ios::app);
  return file ? absl::OkStatus() : absl::UnavailableError(absl::StrCat("cannot write --output ", path, ": ", std::strerror(errno)));
}

absl::StatusOr<BenchReport> Bench(BenchOptions& options) {
  PAGODA_RETURN_IF_ERROR(CheckOutput(options.output));
  PAGODA_RETURN_IF_ERROR(ReadBenchFiles(options));
  PAGODA_ASSIGN_OR_RETURN(const std::vector<PlannedRequest> plan, PlanRequests(options));
  const bool grpc = !options.grpc.empty();
  if (options.model.empty()) {
    PAGODA_ASSIGN_OR_RETURN(options.model, grpc ? FirstModelOverGrpc(options) : FirstModelOverHttp(options));
  }
  if (options.output != "-") {
    std::cout << "sending " << plan.size() << " requests to " << options.model << " at "
              << (grpc ? options.grpc : options.url) << std::endl;
  }
  const double cpu_before = CpuSeconds();
  const MonotonicNs begin = NowNs();
  PAGODA_ASSIGN_OR_RETURN(const std::vector<RequestRecord> records,
                          grpc ? LoadOverGrpc(options, plan) : LoadOverHttp(options, plan));
  const double duration_s = static_cast<double>(NowNs() - begin) / kNsPerSecond;
  return MakeReport(options, records, duration_s, CpuSeconds() - cpu_before);
}

}  // namespace

int RunBench(int argc, const char* const* argv) {
  CLI::App app("Sends load to a router, open or closed loop, and reports latencies, throughput and goodput. Exits with 1 "
               "when a request failed.",
               "pagoda bench");
  BenchOptions options;
  AddBenchFlags(app, options);
  AddConfigFile(app);
  int exit_status = 0;
  if (!ParseOrExit(app, argc, argv, exit_status)) return exit_status;
  const auto report = Bench(options);
  if (!report.ok()) return Fail(report.status());
  if (const absl::Status printed = Print(*report, options); !printed.ok()) return Fail(printed);
  return report->failed == 0 ? kExitOk : kExitFailed;
}

}  // namespace pagoda::cli
