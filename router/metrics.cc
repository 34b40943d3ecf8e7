#include "router/metrics.h"

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>
#include <unistd.h>

#include <array>
#include <ctime>
#include <map>
#include <mutex>
#include <set>

#include "absl/container/flat_hash_map.h"
#include "common/limits.h"
#include "common/metrics.h"
#include "security/certificate_age.h"

namespace pagoda::router {
namespace {

using prometheus::Counter;
using prometheus::Family;
using prometheus::Gauge;
using prometheus::Histogram;

constexpr std::array kEndpoints = {"/v1/completions", "/v1/chat/completions", "/v1/models",
                                   "/tokenize",       "/detokenize",          "grpc.Generate",
                                   "grpc.Tokenize",   "grpc.Detokenize",      "other"};
constexpr std::array kCodes = {200, 400, 401, 403, 404, 405, 408, 413, 415, 421,
                               429, 431, 499, 500, 501, 503, 504};
constexpr std::array kRejectReasons = {"unauthorized", "quota", "tls", "invalid",    "too_large",   "queue_full",
                                       "overloaded", "no_pipeline", "not_found",
                                       "draining",   "connections", "deadline", "quarantined", "model_changed"};
constexpr std::array kCutReasons = {"client_gone", "client_deadline", "slow_reader", "shutdown", "handed_over"};
constexpr std::array kRetryReasons = {"coordinator_lost", "pipeline_lost", "refused", "gap", "resumed"};

Counter* Find(const std::map<std::string, Counter*, std::less<>>& counters, std::string_view name) {
  const auto found = counters.find(name);
  return found == counters.end() ? nullptr : found->second;
}

template <typename Builder>
auto& RegisterFamily(prometheus::Registry& registry, Builder builder, const char* name,
                     const char* help) {
  return builder.Name(name).Help(help).Register(registry);
}

}  // namespace

struct Metrics::State {
  prometheus::Registry registry;

  std::map<std::string, Counter*, std::less<>> ByReason(const char* name, const char* help,
                                                        const auto& reasons) {
    auto& family = RegisterFamily(registry, prometheus::BuildCounter(), name, help);
    std::map<std::string, Counter*, std::less<>> counters;
    for (const char* reason : reasons) counters[reason] = &family.Add({{"reason", reason}});
    return counters;
  }
  Histogram& HistogramOf(const char* name, const char* help, const std::vector<double>& bounds) {
    return RegisterFamily(registry, prometheus::BuildHistogram(), name, help).Add({}, bounds);
  }
  Counter& CounterOf(const char* name, const char* help) {
    return RegisterFamily(registry, prometheus::BuildCounter(), name, help).Add({});
  }
  Gauge& GaugeOf(const char* name, const char* help) {
    return RegisterFamily(registry, prometheus::BuildGauge(), name, help).Add({});
  }

  absl::flat_hash_map<std::pair<std::string, int>, Counter*> requests;
  std::map<std::string, Histogram*, std::less<>> request_seconds;
  std::map<std::string, Counter*, std::less<>> rejected, cuts, retries;

  Family<Histogram>& first_token =
      RegisterFamily(registry, prometheus::BuildHistogram(), "pagoda_router_time_to_first_token_seconds",
                     "From the receipt of a request to its first token, by model.");
  Family<Histogram>& inter_token =
      RegisterFamily(registry, prometheus::BuildHistogram(), "pagoda_router_inter_token_latency_seconds",
                     "Between news of one request, divided by their tokens, by model.");
  Histogram& prompt_sizes =
      HistogramOf("pagoda_router_request_prompt_tokens", "Prompt tokens of a request.",
                  TokenCountBuckets(limits::kMaxPromptTokens));
  Histogram& output_sizes =
      HistogramOf("pagoda_router_request_output_tokens", "Output tokens of a request, all choices.",
                  TokenCountBuckets(limits::kMaxTotalNewTokens));
  Counter& prompt_tokens =
      CounterOf("pagoda_router_prompt_tokens_total", "Prompt tokens accepted.");
  Counter& cached_tokens = CounterOf("pagoda_router_cached_prompt_tokens_total",
                                     "Prompt tokens that a prefix cache held already.");
  Counter& output_tokens =
      CounterOf("pagoda_router_output_tokens_total", "Tokens received from pipelines.");
  Counter& profile_changes =
      CounterOf("pagoda_router_profile_changes_total",
                "Streams that went on at a pipeline of other numerics (profile, KV type or activation bits), since none of theirs was left.");
  Counter& circuits =
      CounterOf("pagoda_router_circuits_opened_total",
                "Times that a pipeline failed so often in a row that it got no work for a while.");
  Gauge& in_flight =
      GaugeOf("pagoda_router_requests_in_flight", "Generations accepted and not ended.");
  Gauge& connections = GaugeOf("pagoda_router_connections", "Open HTTP connections.");
  Gauge& coordinators =
      GaugeOf("pagoda_router_coordinators_attached", "Coordinators whose stream is up.");
  Gauge& start_time =
      GaugeOf("pagoda_router_start_time_seconds", "Unix time of the start of this process.");

  Family<Gauge>& pipelines =
      RegisterFamily(registry, prometheus::BuildGauge(), "pagoda_router_pipelines_ready",
                     "Pipelines of a model that take work.");
  Family<Gauge>& running =
      RegisterFamily(registry, prometheus::BuildGauge(), "vllm:num_requests_running",
                     "Alias for gateways: requests running, all pipelines of the model.");
  Family<Gauge>& waiting =
      RegisterFamily(registry, prometheus::BuildGauge(), "vllm:num_requests_waiting",
                     "Alias for gateways: requests waiting, all pipelines of the model.");
  Family<Gauge>& cache_use =
      RegisterFamily(registry, prometheus::BuildGauge(), "vllm:kv_cache_usage_perc",
                     "Alias for gateways: share of KV blocks in use, 0 to 1.");
  Family<Gauge>& cache_config =
      RegisterFamily(registry, prometheus::BuildGauge(), "vllm:cache_config_info",
                     "Alias for gateways: block size and number of KV blocks as labels, always 1.");
  Family<Gauge>& lora =
      RegisterFamily(registry, prometheus::BuildGauge(), "vllm:lora_requests_info",
                     "Alias for gateways: LoRA adapters; none are served.");

  TenantMetrics tenants{registry};
  std::unique_ptr<security::CertificateAge> certificates;

  std::mutex cluster_mutex;
  struct ModelGauges {
    Gauge *pipelines, *running, *waiting, *cache_use, *lora;
    Histogram *first_token, *inter_token;
    Gauge* cache_config = nullptr;
    std::pair<int, int64_t> config{-1, -1};
  };
  void Remove(const ModelGauges& gauges) {
    pipelines.Remove(gauges.pipelines);
    running.Remove(gauges.running);
    waiting.Remove(gauges.waiting);
    cache_use.Remove(gauges.cache_use);
    first_token.Remove(gauges.first_token);
    inter_token.Remove(gauges.inter_token);
    lora.Remove(gauges.lora);
    if (gauges.cache_config != nullptr) cache_config.Remove(gauges.cache_config);
  }
  std::map<std::string, ModelGauges, std::less<>> models;  // guarded by cluster_mutex
};

Metrics::Metrics() : state_(std::make_unique<State>()) {
  State& s = *state_;
  auto& requests = RegisterFamily(
      s.registry, prometheus::BuildCounter(), "pagoda_router_requests_total",
      "Requests ended, by endpoint and HTTP code (or the code that a gRPC status maps to).");
  auto& seconds = RegisterFamily(s.registry, prometheus::BuildHistogram(),
                                 "pagoda_router_request_duration_seconds",
                                 "From the receipt of a request to its end.");
  for (const char* endpoint : kEndpoints) {
    for (int code : kCodes) {
      s.requests[{endpoint, code}] =
          &requests.Add({{"endpoint", endpoint}, {"code", std::to_string(code)}});
    }
    s.request_seconds[endpoint] = &seconds.Add({{"endpoint", endpoint}}, kRequestSecondsBuckets);
  }
  s.rejected =
      s.ByReason("pagoda_router_rejected_total", "Requests refused, by reason.", kRejectReasons);
  s.cuts = s.ByReason("pagoda_router_streams_cut_total", "Generations cut short, by reason.",
                      kCutReasons);
  s.retries = s.ByReason("pagoda_router_retries_total", "Submissions after the first, by reason.",
                         kRetryReasons);
  s.start_time.SetToCurrentTime();
}

Metrics::~Metrics() = default;

void Metrics::RequestEnded(std::string_view endpoint, int code, double seconds) {
  if (endpoint != "other") live_.Ended(code);
  auto duration = state_->request_seconds.find(endpoint);
  if (duration == state_->request_seconds.end()) duration = state_->request_seconds.find("other");
  duration->second->Observe(seconds);
  auto found = state_->requests.find(std::pair(duration->first, code));
  if (found == state_->requests.end())
    found = state_->requests.find(std::pair(duration->first, 500));
  found->second->Increment();
}

void Metrics::Rejected(std::string_view reason) {
  live_.Rejected();
  if (Counter* counter = Find(state_->rejected, reason)) counter->Increment();
}
void Metrics::StreamCut(std::string_view reason) {
  if (Counter* counter = Find(state_->cuts, reason)) counter->Increment();
}
void Metrics::Retried(std::string_view reason) {
  live_.Retried();
  if (Counter* counter = Find(state_->retries, reason)) counter->Increment();
}
void Metrics::FirstToken(std::string_view model, double seconds) {
  live_.FirstToken(seconds);
  std::lock_guard lock(state_->cluster_mutex);
  const auto found = state_->models.find(model);
  if (found != state_->models.end()) found->second.first_token->Observe(seconds);
}
void Metrics::InterToken(std::string_view model, double seconds) {
  live_.InterToken(seconds);
  std::lock_guard lock(state_->cluster_mutex);
  const auto found = state_->models.find(model);
  if (found != state_->models.end()) found->second.inter_token->Observe(seconds);
}
void Metrics::PromptTokens(int64_t tokens) {
  state_->prompt_tokens.Increment(static_cast<double>(tokens));
  live_.Prompt(tokens);
}
void Metrics::OutputTokens(int64_t tokens) {
  state_->output_tokens.Increment(static_cast<double>(tokens));
  live_.Output(tokens);
}
void Metrics::Tokens(int64_t prompt, int64_t cached, int64_t output) {
  state_->prompt_sizes.Observe(static_cast<double>(prompt));
  state_->output_sizes.Observe(static_cast<double>(output));
  state_->cached_tokens.Increment(static_cast<double>(cached));
}
void Metrics::CircuitOpened() { state_->circuits.Increment(); }
void Metrics::ProfileChanged() { state_->profile_changes.Increment(); }
void Metrics::SetInFlight(int64_t requests) {
  state_->in_flight.Set(static_cast<double>(requests));
  live_.SetInFlight(requests);
}
void Metrics::SetConnections(int64_t count) { state_->connections.Set(static_cast<double>(count)); }
void Metrics::SetCoordinators(int64_t attached) {
  state_->coordinators.Set(static_cast<double>(attached));
}

void Metrics::SetCluster(const ClusterView& view, bool whole) {
  struct Sum {
    int ready = 0, running = 0, waiting = 0, block_tokens = 0;
    int64_t blocks = 0, used = 0;
  };
  std::map<std::string, Sum> sums;
  for (const PipelineView& pipeline : view.pipelines) {
    Sum& sum = sums[pipeline.model];
    sum.ready += pipeline.ready;
    sum.running += pipeline.running;
    sum.waiting += pipeline.waiting;
    sum.blocks += pipeline.blocks_total;
    sum.used += pipeline.blocks_used;
    sum.block_tokens = pipeline.block_tokens;
  }
  State& s = *state_;
  std::lock_guard lock(s.cluster_mutex);
  for (auto place = s.models.begin(); place != s.models.end();) {
    if (whole && !sums.contains(place->first)) {
      s.Remove(place->second);
      place = s.models.erase(place);
    } else {
      sums.try_emplace((place++)->first);
    }
  }
  for (const auto& [name, sum] : sums) {
    const std::map<std::string, std::string> labels{{"model_name", name}, {"engine", "0"}};
    auto [place, added] = s.models.try_emplace(name);
    State::ModelGauges& gauges = place->second;
    if (added) {
      gauges.pipelines = &s.pipelines.Add({{"model_name", name}});
      gauges.running = &s.running.Add(labels);
      gauges.waiting = &s.waiting.Add(labels);
      gauges.cache_use = &s.cache_use.Add(labels);
      gauges.first_token = &s.first_token.Add({{"model_name", name}}, kTimeToFirstTokenBuckets);
      gauges.inter_token = &s.inter_token.Add({{"model_name", name}}, kInterTokenBuckets);
      gauges.lora = &s.lora.Add({{"max_lora", "0"},
                                 {"waiting_lora_adapters", ""},
                                 {"running_lora_adapters", ""},
                                 {"engine", "0"},
                                 {"model_name", name}});
    }
    gauges.pipelines->Set(sum.ready);
    gauges.running->Set(sum.running);
    gauges.waiting->Set(sum.waiting);
    gauges.cache_use->Set(
        sum.blocks > 0 ? static_cast<double>(sum.used) / static_cast<double>(sum.blocks) : 0);
    const std::pair<int, int64_t> config{sum.block_tokens, sum.blocks};
    if (gauges.config != config) {
      if (gauges.cache_config != nullptr) s.cache_config.Remove(gauges.cache_config);
      gauges.cache_config = &s.cache_config.Add({{"block_size", std::to_string(config.first)},
                                                 {"num_gpu_blocks", std::to_string(config.second)},
                                                 {"engine", "0"},
                                                 {"model_name", name}});
      gauges.cache_config->Set(1);
      gauges.config = config;
    }
  }
}

TenantMetrics& Metrics::tenants() { return state_->tenants; }

std::function<void(std::string_view, int64_t)> Metrics::span_counter() { return SpanCounter(state_->registry, "pagoda_router"); }

void Metrics::WatchCertificates(const std::string& cluster, const std::string& clients) {
  state_->certificates = std::make_unique<security::CertificateAge>(
      state_->registry, std::vector<security::CertificateAge::File>{{"cluster", cluster}, {"clients", clients}});
  state_->certificates->Refresh(std::time(nullptr));
}

std::string Metrics::Expose() const {
  if (state_->certificates != nullptr) state_->certificates->Refresh(std::time(nullptr));
  return ExposeMetrics(state_->registry);
}

}  // namespace pagoda::router
