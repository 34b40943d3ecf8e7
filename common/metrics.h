// Prometheus metrics of one process: a registry and the text of it (security/status_server.h serves it).
// Names are pagoda_*, linted by promtool in tests; the five vllm: aliases that Kubernetes' inference gateway reads are
// registered by the router with the same registry.
#pragma once

#include <prometheus/registry.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "common/status.h"

namespace pagoda {

// Bucket bounds in seconds, shared so that histograms of the same kind can be added up.
extern const std::vector<double> kTimeToFirstTokenBuckets;
extern const std::vector<double> kInterTokenBuckets;
extern const std::vector<double> kRequestSecondsBuckets;
extern const std::vector<double> kStepSecondsBuckets;
std::vector<double> TokenCountBuckets(int64_t maximum);  // 1,2,5,10,20,50 ... up to maximum

// The exposition text, with bounds printed as `1.0` like every other exporter of these names does.
std::string ExposeMetrics(const prometheus::Registry& registry);

// The counter <prefix>_trace_spans_total by outcome, as what a Tracer counts with. The registry outlives it.
std::function<void(std::string_view outcome, int64_t spans)> SpanCounter(prometheus::Registry& registry,
                                                                         const std::string& prefix);

}  // namespace pagoda
