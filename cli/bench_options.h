// What `pagoda bench` sends: how many requests, when, how long.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "common/config.h"
#include "common/status.h"

namespace pagoda::cli {

// "128", "fixed:128", "uniform:64:256", "lognormal:MEAN:SIGMA" (SIGMA of the logarithm), "sharegpt-in", "sharegpt-out"
// (lognormal with the means of ShareGPT conversations, 161 and 338 tokens).
class LengthDistribution {
 public:
  static absl::StatusOr<LengthDistribution> Parse(const std::string& text, int largest);
  int Draw(std::mt19937_64& random) const;

 private:
  enum class Kind { kFixed, kUniform, kLognormal };
  Kind kind_ = Kind::kFixed;
  double first_ = 0;   // value, low, mean
  double second_ = 0;  // -, high, sigma
  int largest_ = 0;
};

struct BenchOptions {
  std::string url;
  std::string grpc;
  std::string model;
  std::string api_key;
  std::string authority;        // of https and of gRPC with TLS: a file
  std::string server_name;      // what the server's certificate is for; empty: its address
  bool grpc_tls = false;
  int requests = 100;
  int concurrency = 0;          // closed loop when above 0
  double request_rate = 0;      // open loop: requests/s
  double burstiness = 1;        // gamma shape of the gaps; 1: Poisson
  std::string input_length = "sharegpt-in";
  std::string output_length = "sharegpt-out";
  int largest_length = 1024;
  int shared_prefix = 0;        // tokens that all prompts begin with
  bool stop_at_eos = false;
  double temperature = 0;
  double top_p = 1;
  int top_k = 0;                // 0: all
  int speculative_tokens = -1;  // num_speculative_tokens of each request; -1: not sent
  std::string prompt_file;      // a text that each request's prompt is; empty: random tokens
  std::string prompt_text;      // its content
  double cancel_fraction = 0;
  int timeout_ms = 600'000;     // of one request: the client gives up
  int deadline_ms = 0;          // of one request, told to the server; 0: none
  uint64_t seed = 1;
  double slo_ttft_ms = 0;       // goodput; 0: not judged
  double slo_itl_ms = 0;        // mean gap of the request
  double slo_e2e_ms = 0;
  std::string output;           // JSON file; "-" is standard output
  int token_id_low = 100;       // prompts are random ids of [low, high)
  int token_id_high = 0;        // 0: a thousand above low
};

void AddBenchFlags(CLI::App& app, BenchOptions& options);

// Fills in what stands in files.
absl::Status ReadBenchFiles(BenchOptions& options);

struct PlannedRequest {
  double start_s = 0;  // open loop: when, from the start of the run
  std::vector<int32_t> prompt;
  int output_tokens = 0;
  int cancel_after = 0;  // tokens; 0: not cancelled
};

// The same options give the same plan.
absl::StatusOr<std::vector<PlannedRequest>> PlanRequests(const BenchOptions& options);

}  // namespace pagoda::cli
