#include "common/metrics.h"

#include <prometheus/counter.h>

#include <prometheus/text_serializer.h>


namespace pagoda {

const std::vector<double> kTimeToFirstTokenBuckets = {0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1,
                                                      0.25,  0.5,   0.75, 1,    2.5,  5,    7.5,  10,
                                                      20,    40,    80,   160,  640,  2560};
const std::vector<double> kInterTokenBuckets = {0.002, 0.004, 0.006, 0.008, 0.010, 0.015, 0.020, 0.025,
                                                0.030, 0.035, 0.040, 0.060, 0.080, 0.1,   0.2,   0.4,
                                                0.6,   0.8,   1,     2,     4,     6,     8};
const std::vector<double> kRequestSecondsBuckets = {0.3, 0.5, 0.8, 1,  1.5, 2,   2.5, 5,   10,  15,   20,
                                                    30,  40,  50,  60, 120, 240, 480, 960, 1920, 7680};
const std::vector<double> kStepSecondsBuckets = {0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01,
                                                 0.025,  0.05,    0.1,    0.25,  0.5,    1,     2.5, 10};

std::vector<double> TokenCountBuckets(int64_t maximum) {
  std::vector<double> bounds;
  for (int64_t decade = 1; decade <= maximum; decade *= 10) {
    for (int64_t factor : {1, 2, 5}) {
      if (decade * factor <= maximum) bounds.push_back(static_cast<double>(decade * factor));
    }
  }
  return bounds;
}

std::string ExposeMetrics(const prometheus::Registry& registry) {
  const std::string raw = prometheus::TextSerializer().Serialize(registry.Collect());
  // le="1" -> le="1.0": prometheus-cpp prints whole bounds without a point, other exporters with one, and to Prometheus
  // these are two series.
  std::string text;
  text.reserve(raw.size() + raw.size() / 16);
  size_t at = 0;
  while (true) {
    const size_t found = raw.find("le=\"", at);
    if (found == std::string::npos) break;
    const size_t begin = found + 4;
    const size_t end = raw.find('"', begin);
    if (end == std::string::npos) break;
    text.append(raw, at, end - at);
    const bool label_start = found > 0 && (raw[found - 1] == '{' || raw[found - 1] == ',');
    const bool whole = raw.find_first_not_of("0123456789", begin) == end;
    if (label_start && whole) text += ".0";
    at = end;
  }
  text.append(raw, at, std::string::npos);
  return text;
}

std::function<void(std::string_view, int64_t)> SpanCounter(prometheus::Registry& registry, const std::string& prefix) {
  auto& family = prometheus::BuildCounter()
                     .Name(prefix + "_trace_spans_total")
                     .Help("Spans for the trace collector, by what became of them: exported, failed, dropped (queue full).")
                     .Register(registry);
  prometheus::Counter* exported = &family.Add({{"outcome", "exported"}});
  prometheus::Counter* failed = &family.Add({{"outcome", "failed"}});
  prometheus::Counter* dropped = &family.Add({{"outcome", "dropped"}});
  return [=](std::string_view outcome, int64_t spans) {
    prometheus::Counter* counter = outcome == "exported" ? exported : outcome == "failed" ? failed : dropped;
    counter->Increment(static_cast<double>(spans));
  };
}

}  // namespace pagoda
