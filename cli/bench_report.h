// What happened to the requests of a load, and what follows: percentiles, throughput, goodput. Pure.
#pragma once

#include <map>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "cli/bench_options.h"

namespace pagoda::cli {

struct RequestRecord {
  double start_s = 0;  // all times from the start of the run; when it was meant to start (open loop) or did (closed)
  double first_token_s = 0;
  double end_s = 0;
  std::vector<float> gaps_s;  // between pieces after the first, each as long as it was waited for
  int prompt_tokens = 0;
  int output_tokens = 0;
  bool cancelled = false;  // on purpose
  std::string error;       // kind; empty: none
};

struct Distribution {
  double mean = 0, p50 = 0, p90 = 0, p99 = 0, max = 0;
};
// Percentiles by linear interpolation between closest ranks; zeros when there are no values.
Distribution Summarise(std::vector<double> values);

struct BenchReport {
  double duration_s = 0;
  int completed = 0;
  int cancelled = 0;
  int failed = 0;
  std::map<std::string, int> errors;
  int64_t input_tokens = 0;
  int64_t output_tokens = 0;
  double requests_per_s = 0;
  double output_tokens_per_s = 0;
  double total_tokens_per_s = 0;
  double goodput_requests_per_s = 0;  // those within every SLO given
  double goodput_tokens_per_s = 0;    // their output
  bool has_slo = false;
  Distribution ttft_ms, itl_ms, tpot_ms, e2e_ms;
  double client_cpu_s = 0;
};

BenchReport MakeReport(const BenchOptions& options, const std::vector<RequestRecord>& records, double duration_s,
                       double client_cpu_s);
nlohmann::json ToJson(const BenchReport& report, const BenchOptions& options);
std::string ToText(const BenchReport& report);

}  // namespace pagoda::cli
