#include "common/metrics.h"

#include <gtest/gtest.h>
#include <netdb.h>
#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>

namespace pagoda {
namespace {

std::shared_ptr<prometheus::Registry> Sample() {
  auto registry = std::make_shared<prometheus::Registry>();
  prometheus::BuildCounter().Name("pagoda_requests_total").Help("Requests.").Register(*registry)
      .Add({{"model", "a \"quoted\"\nname"}}).Increment(3);
  prometheus::BuildGauge().Name("pagoda_queue_requests").Help("Waiting.").Register(*registry).Add({}).Set(0.25);
  auto& histogram = prometheus::BuildHistogram().Name("pagoda_step_seconds").Help("Steps.").Register(*registry)
      .Add({}, prometheus::Histogram::BucketBoundaries{0.001, 1, 10});
  histogram.Observe(0.5);
  histogram.Observe(100);
  return registry;
}

TEST(MetricsTest, BoundsAreDecimalLikeThoseOfOtherExporters) {
  const std::string text = ExposeMetrics(*Sample());
  for (const char* line : {"le=\"0.001\"} 0", "le=\"1.0\"} 1", "le=\"10.0\"} 1", "le=\"+Inf\"} 2",
                           "pagoda_step_seconds_count 2", "pagoda_queue_requests 0.25",
                           "# TYPE pagoda_requests_total counter"}) {
    EXPECT_NE(text.find(line), std::string::npos) << line << "\nin\n" << text;
  }
  EXPECT_EQ(text.find("le=\"1\""), std::string::npos);
  EXPECT_NE(text.find("model=\"a \\\"quoted\\\"\\nname\""), std::string::npos) << text;
}

TEST(MetricsTest, BucketsAscend) {
  for (const auto* buckets :
       {&kTimeToFirstTokenBuckets, &kInterTokenBuckets, &kRequestSecondsBuckets, &kStepSecondsBuckets}) {
    EXPECT_GE(buckets->size(), 5u);
    EXPECT_TRUE(std::is_sorted(buckets->begin(), buckets->end()));
    EXPECT_EQ(std::adjacent_find(buckets->begin(), buckets->end()), buckets->end());
  }
  EXPECT_EQ(TokenCountBuckets(20), (std::vector<double>{1, 2, 5, 10, 20}));
}

TEST(MetricsTest, PromtoolFindsNothing) {
  if (std::system("command -v promtool >/dev/null") != 0) GTEST_SKIP() << "promtool is not installed";
  const std::string path = testing::TempDir() + "metrics_test_" + std::to_string(getpid());
  std::ofstream(path) << ExposeMetrics(*Sample());
  EXPECT_EQ(std::system(("promtool check metrics < " + path).c_str()), 0);
  std::remove(path.c_str());
}

}  // namespace
}  // namespace pagoda
