#include "cli/bench_report.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <numeric>

#include "cli/terminal.h"

namespace pagoda::cli {

Distribution Summarise(std::vector<double> values) {
  if (values.empty()) return {};
  std::sort(values.begin(), values.end());
  const auto at = [&](double share) {
    const double rank = share * static_cast<double>(values.size() - 1);
    const size_t below = static_cast<size_t>(rank);
    const size_t above = std::min(below + 1, values.size() - 1);
    return values[below] + (values[above] - values[below]) * (rank - static_cast<double>(below));
  };
  const double sum = std::accumulate(values.begin(), values.end(), 0.0);
  return {sum / static_cast<double>(values.size()), at(0.5), at(0.9), at(0.99), values.back()};
}

namespace {

// Mean time per output token after the first, seconds.
double TimePerToken(const RequestRecord& record) {
  return record.output_tokens > 1 ? (record.end_s - record.first_token_s) / (record.output_tokens - 1) : 0;
}

bool WithinSlo(const BenchOptions& options, const RequestRecord& record) {
  const auto within = [](double limit_ms, double value_s) { return limit_ms <= 0 || value_s * 1000 <= limit_ms; };
  return within(options.slo_ttft_ms, record.first_token_s - record.start_s) &&
         within(options.slo_itl_ms, TimePerToken(record)) && within(options.slo_e2e_ms, record.end_s - record.start_s);
}

}  // namespace

BenchReport MakeReport(const BenchOptions& options, const std::vector<RequestRecord>& records, double duration_s,
                       double client_cpu_s) {
  BenchReport report;
  report.duration_s = duration_s;
  report.client_cpu_s = client_cpu_s;
  report.has_slo = options.slo_ttft_ms > 0 || options.slo_itl_ms > 0 || options.slo_e2e_ms > 0;
  std::vector<double> ttft, itl, tpot, e2e;
  int good = 0;
  int64_t good_tokens = 0;
  for (const RequestRecord& record : records) {
    report.output_tokens += record.output_tokens;
    if (!record.error.empty()) {
      ++report.failed;
      ++report.errors[record.error];
      continue;
    }
    report.input_tokens += record.prompt_tokens;
    ttft.push_back((record.first_token_s - record.start_s) * 1000);
    for (const float gap : record.gaps_s) itl.push_back(static_cast<double>(gap) * 1000);
    if (record.cancelled) {
      ++report.cancelled;
      continue;
    }
    ++report.completed;
    if (record.output_tokens > 1) tpot.push_back(TimePerToken(record) * 1000);
    e2e.push_back((record.end_s - record.start_s) * 1000);
    if (!WithinSlo(options, record)) continue;
    ++good;
    good_tokens += record.output_tokens;
  }
  const double seconds = std::max(duration_s, 1e-9);
  report.requests_per_s = report.completed / seconds;
  report.goodput_requests_per_s = good / seconds;
  report.goodput_tokens_per_s = static_cast<double>(good_tokens) / seconds;
  report.output_tokens_per_s = static_cast<double>(report.output_tokens) / seconds;
  report.total_tokens_per_s = static_cast<double>(report.output_tokens + report.input_tokens) / seconds;
  report.ttft_ms = Summarise(std::move(ttft));
  report.itl_ms = Summarise(std::move(itl));
  report.tpot_ms = Summarise(std::move(tpot));
  report.e2e_ms = Summarise(std::move(e2e));
  return report;
}

namespace {

nlohmann::json ToJson(const Distribution& distribution) {
  return {{"mean", distribution.mean}, {"p50", distribution.p50}, {"p90", distribution.p90},
          {"p99", distribution.p99},   {"max", distribution.max}};
}

}  // namespace

nlohmann::json ToJson(const BenchReport& report, const BenchOptions& options) {
  nlohmann::json json = {
      {"options",
       {{"protocol", options.grpc.empty() ? "http" : "grpc"},
        {"model", options.model},
        {"num_prompts", options.requests},
        {"max_concurrency", options.concurrency},
        {"request_rate", options.request_rate},
        {"burstiness", options.burstiness},
        {"input_len", options.input_length},
        {"output_len", options.output_length},
        {"shared_prefix_len", options.shared_prefix},
        {"cancel_fraction", options.cancel_fraction},
        {"deadline_ms", options.deadline_ms},
        {"temperature", options.temperature},
        {"seed", options.seed}}},
      {"duration_s", report.duration_s},
      {"completed", report.completed},
      {"cancelled", report.cancelled},
      {"failed", report.failed},
      {"errors", report.errors},
      {"input_tokens", report.input_tokens},
      {"output_tokens", report.output_tokens},
      {"requests_per_s", report.requests_per_s},
      {"output_tokens_per_s", report.output_tokens_per_s},
      {"total_tokens_per_s", report.total_tokens_per_s},
      {"ttft_ms", ToJson(report.ttft_ms)},
      {"itl_ms", ToJson(report.itl_ms)},
      {"tpot_ms", ToJson(report.tpot_ms)},
      {"e2e_ms", ToJson(report.e2e_ms)},
      {"client_cpu_s", report.client_cpu_s},
      {"client_cpu_share", report.client_cpu_s / std::max(report.duration_s, 1e-9)}};
  if (report.has_slo) {
    json["goodput_requests_per_s"] = report.goodput_requests_per_s;
    json["goodput_tokens_per_s"] = report.goodput_tokens_per_s;
    json["options"]["slo_ms"] = {{"ttft", options.slo_ttft_ms}, {"itl", options.slo_itl_ms}, {"e2e", options.slo_e2e_ms}};
  }
  return json;
}

std::string ToText(const BenchReport& report) {
  const auto number = [](double value) {
    char text[32];
    std::snprintf(text, sizeof(text), value < 100 ? "%.2f" : "%.1f", value);
    return std::string(text);
  };
  std::vector<std::vector<std::string>> counts = {
      {"duration s", number(report.duration_s)},
      {"completed", std::to_string(report.completed)},
      {"cancelled", std::to_string(report.cancelled)},
      {"failed", std::to_string(report.failed)},
      {"input tokens", std::to_string(report.input_tokens)},
      {"output tokens", std::to_string(report.output_tokens)},
      {"requests/s", number(report.requests_per_s)},
      {"output tokens/s", number(report.output_tokens_per_s)},
      {"total tokens/s", number(report.total_tokens_per_s)}};
  if (report.has_slo) {
    counts.push_back({"goodput requests/s", number(report.goodput_requests_per_s)});
    counts.push_back({"goodput tokens/s", number(report.goodput_tokens_per_s)});
  }
  counts.push_back({"client CPU", number(100 * report.client_cpu_s / std::max(report.duration_s, 1e-9)) + "% of a core"});
  std::vector<std::vector<std::string>> times = {{"ms", "mean", "p50", "p90", "p99", "max"}};
  const std::pair<const char*, const Distribution*> rows[] = {{"time to first token", &report.ttft_ms},
                                                              {"between tokens", &report.itl_ms},
                                                              {"per output token", &report.tpot_ms},
                                                              {"whole request", &report.e2e_ms}};
  for (const auto& [name, d] : rows) {
    times.push_back({name, number(d->mean), number(d->p50), number(d->p90), number(d->p99), number(d->max)});
  }
  std::string text = RenderTable(counts) + "\n" + RenderTable(times);
  for (const auto& [kind, count] : report.errors) absl::StrAppend(&text, "\nerror, ", count, " times: ", kind);
  return text;
}

}  // namespace pagoda::cli
