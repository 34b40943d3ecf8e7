#include "cli/bench_options.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <fstream>
#include <sstream>

#include "absl/strings/str_split.h"
#include "cli/command.h"

namespace pagoda::cli {
namespace {

// Means of the conversations of ShareGPT as benchmarks use them; the spreads give a median of about half the mean.
constexpr double kShareGptInputMean = 161;
constexpr double kShareGptOutputMean = 338;
constexpr double kShareGptSigma = 1.0;

absl::StatusOr<double> ParsePositive(absl::string_view text, const std::string& whole) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || !(value > 0) || value > 1e7) {
    return absl::InvalidArgumentError(absl::StrCat("'", whole, "': '", text, "' is not a positive number"));
  }
  return value;
}

}  // namespace

absl::StatusOr<LengthDistribution> LengthDistribution::Parse(const std::string& text, int largest) {
  LengthDistribution result;
  result.largest_ = largest;
  if (text == "sharegpt-in" || text == "sharegpt-out") {
    result.kind_ = Kind::kLognormal;
    result.first_ = text == "sharegpt-in" ? kShareGptInputMean : kShareGptOutputMean;
    result.second_ = kShareGptSigma;
    return result;
  }
  std::vector<std::string> parts = absl::StrSplit(text, ':');
  if (parts.size() == 1) parts.insert(parts.begin(), "fixed");
  const bool two = parts[0] == "uniform" || parts[0] == "lognormal";
  if ((!two && parts[0] != "fixed") || parts.size() != (two ? 3u : 2u)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "'", text, "' is no length: N, uniform:LOW:HIGH, lognormal:MEAN:SIGMA, sharegpt-in or sharegpt-out"));
  }
  PAGODA_ASSIGN_OR_RETURN(result.first_, ParsePositive(parts[1], text));
  if (two) {
    PAGODA_ASSIGN_OR_RETURN(result.second_, ParsePositive(parts[2], text));
  }
  if (parts[0] != "lognormal" && result.first_ > largest) {
    return absl::InvalidArgumentError(absl::StrCat("'", text, "' is longer than --max-len ", largest));
  }
  result.kind_ = !two ? Kind::kFixed : parts[0] == "uniform" ? Kind::kUniform : Kind::kLognormal;
  if (result.kind_ == Kind::kUniform && result.second_ < result.first_) {
    return absl::InvalidArgumentError(absl::StrCat("'", text, "': the upper end is below the lower"));
  }
  return result;
}

int LengthDistribution::Draw(std::mt19937_64& random) const {
  double value = first_;
  if (kind_ == Kind::kUniform) {
    value = std::floor(std::uniform_real_distribution<double>(first_, second_ + 1)(random));
  } else if (kind_ == Kind::kLognormal) {
    // The mean of a lognormal is exp(mu + sigma^2/2).
    const double mu = std::log(first_) - second_ * second_ / 2;
    value = std::lognormal_distribution<double>(mu, second_)(random);
  }
  return static_cast<int>(std::clamp(std::lround(value), 1l, static_cast<long>(largest_)));
}

void AddBenchFlags(CLI::App& app, BenchOptions& options) {
  options.url = std::string("http://") + kDefaultHttp;
  app.add_option("--url", options.url, "a router's HTTP address");
  app.add_option("--grpc", options.grpc, "a router's gRPC address, host:port; then it is used instead of HTTP");
  app.add_option("--model", options.model, "default: the first one served");
  app.add_option("--api-key", options.api_key, "sent as a bearer token; better in the environment, where nobody else reads it")->envname("PAGODA_API_KEY");
  app.add_option("--ssl-ca-certs", options.authority, kAuthorityHelp);
  app.add_option("--ssl-server-name", options.server_name, kServerNameHelp);
  app.add_flag("--grpc-tls", options.grpc_tls, "speak TLS to --grpc");
  app.add_option("--num-prompts", options.requests, "requests")->check(CLI::Range(1, 10'000'000));
  app.add_option("--max-concurrency", options.concurrency,
                 "closed loop: that many at a time, each next one when one ends; with --request-rate: an upper bound");
  app.add_option("--request-rate", options.request_rate, "open loop: requests per second, whatever the server does")
      ->check(CLI::NonNegativeNumber);
  app.add_option("--burstiness", options.burstiness, "gamma shape of the gaps of the open loop; 1: Poisson")
      ->check(CLI::PositiveNumber);
  app.add_option("--input-len", options.input_length,
                 "prompt tokens: N, uniform:LOW:HIGH, lognormal:MEAN:SIGMA, sharegpt-in");
  app.add_option("--output-len", options.output_length, "output tokens, the same way; sharegpt-out");
  app.add_option("--max-len", options.largest_length, "longest prompt and longest output")->check(CLI::Range(1, 1 << 20));
  app.add_option("--shared-prefix-len", options.shared_prefix, "tokens that all prompts begin with");
  app.add_flag("--stop-at-eos", options.stop_at_eos, "let the model end; default: exactly the drawn output length");
  app.add_option("--temperature", options.temperature, "0 is greedy");
  app.add_option("--top-p", options.top_p, "of sampling");
  app.add_option("--top-k", options.top_k, "of sampling; 0: all");
  app.add_option("--num-speculative-tokens", options.speculative_tokens,
                 "0: no speculation, 1..15: drafts of at most so many tokens; default: as the server thinks best");
  app.add_option("--prompt-file", options.prompt_file, "the text of every prompt (HTTP only); default: random tokens")
      ->check(CLI::ExistingFile);
  app.add_option("--cancel-fraction", options.cancel_fraction, "share of requests dropped in the middle")
      ->check(CLI::Range(0.0, 1.0));
  app.add_option("--timeout-ms", options.timeout_ms, "of one request: when the client gives up");
  app.add_option("--deadline-ms", options.deadline_ms,
                 "of one request, told to the server, which may refuse what it cannot do in time; 0: none")
      ->check(CLI::Range(0, 3'600'000));
  app.add_option("--seed", options.seed, "of lengths, prompts, gaps and cancels");
  app.add_option("--slo-ttft-ms", options.slo_ttft_ms, "goodput: time to first token at most");
  app.add_option("--slo-itl-ms", options.slo_itl_ms, "goodput: mean time between tokens at most");
  app.add_option("--slo-e2e-ms", options.slo_e2e_ms, "goodput: whole request at most");
  app.add_option("--token-id-low", options.token_id_low, "prompts are random token ids from here");
  app.add_option("--token-id-high", options.token_id_high, "... to below here; default: a thousand above");
  app.add_option("--output", options.output, "write JSON there; - is standard output");
}

absl::Status ReadBenchFiles(BenchOptions& options) {
  if (options.prompt_file.empty()) return absl::OkStatus();
  if (!options.grpc.empty()) return absl::InvalidArgumentError("--prompt-file works over HTTP only");
  std::ifstream file(options.prompt_file);
  std::stringstream text;
  text << file.rdbuf();
  if (!file) return absl::UnavailableError("cannot read " + options.prompt_file);
  options.prompt_text = text.str();
  return absl::OkStatus();
}

absl::StatusOr<std::vector<PlannedRequest>> PlanRequests(const BenchOptions& options) {
  PAGODA_ASSIGN_OR_RETURN(const LengthDistribution input,
                          LengthDistribution::Parse(options.input_length, options.largest_length));
  PAGODA_ASSIGN_OR_RETURN(const LengthDistribution output,
                          LengthDistribution::Parse(options.output_length, options.largest_length));
  const int high = options.token_id_high > 0 ? options.token_id_high : options.token_id_low + 1000;
  if (options.token_id_low < 0 || high <= options.token_id_low) {
    return absl::InvalidArgumentError("--token-id-low and --token-id-high leave no token");
  }
  std::mt19937_64 random(options.seed);
  std::uniform_int_distribution<int32_t> token(options.token_id_low, high - 1);
  std::uniform_real_distribution<double> share(0, 1);
  std::vector<int32_t> prefix(static_cast<size_t>(std::max(options.shared_prefix, 0)));
  for (int32_t& id : prefix) id = token(random);
  std::vector<PlannedRequest> plan(static_cast<size_t>(options.requests));
  double now_s = 0;
  for (PlannedRequest& request : plan) {
    request.prompt = prefix;
    for (int left = input.Draw(random); left > 0; --left) request.prompt.push_back(token(random));
    request.output_tokens = output.Draw(random);
    if (share(random) < options.cancel_fraction) {
      request.cancel_after = std::max(1, static_cast<int>(request.output_tokens * share(random)));
    }
    request.start_s = now_s;
    if (options.request_rate > 0) {
      // Mean gap 1/rate whatever the shape.
      std::gamma_distribution<double> gap(options.burstiness, 1 / (options.request_rate * options.burstiness));
      now_s += gap(random);
    }
  }
  return plan;
}

}  // namespace pagoda::cli
