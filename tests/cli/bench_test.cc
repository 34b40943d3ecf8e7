#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "cli/bench_options.h"
#include "cli/bench_report.h"
#include "nlohmann/json.hpp"

namespace pagoda::cli {
namespace {

double MeanOf(const std::string& text, int largest) {
  const auto lengths = LengthDistribution::Parse(text, largest);
  EXPECT_TRUE(lengths.ok()) << lengths.status();
  std::mt19937_64 random(7);
  double sum = 0;
  constexpr int kDraws = 200'000;
  for (int i = 0; i < kDraws; ++i) sum += lengths->Draw(random);
  return sum / kDraws;
}

TEST(LengthDistributionTest, MeansAreWhatIsAskedFor) {
  EXPECT_EQ(MeanOf("128", 1024), 128);
  EXPECT_EQ(MeanOf("fixed:7", 1024), 7);
  EXPECT_NEAR(MeanOf("uniform:10:20", 1024), 15, 0.1);
  EXPECT_NEAR(MeanOf("lognormal:100:0.5", 1 << 20), 100, 1);
  EXPECT_NEAR(MeanOf("sharegpt-in", 1 << 20), 161, 3);
  EXPECT_NEAR(MeanOf("sharegpt-out", 1 << 20), 338, 6);
}

TEST(LengthDistributionTest, StaysWithinOneAndTheLargest) {
  const auto lengths = *LengthDistribution::Parse("lognormal:100:3", 50);
  std::mt19937_64 random(7);
  for (int i = 0; i < 10'000; ++i) {
    const int length = lengths.Draw(random);
    ASSERT_GE(length, 1);
    ASSERT_LE(length, 50);
  }
  for (const char* wrong : {"", "x", "0", "-3", "uniform:5", "uniform:9:5", "lognormal:5", "fixed:1:2", "uniform:a:b"}) {
    EXPECT_FALSE(LengthDistribution::Parse(wrong, 100).ok()) << wrong;
  }
}

TEST(PlanRequestsTest, TheSameSeedGivesTheSamePlan) {
  BenchOptions options;
  options.requests = 50;
  options.request_rate = 10;
  options.cancel_fraction = 0.3;
  const auto first = *PlanRequests(options);
  const auto again = *PlanRequests(options);
  options.seed = 2;
  const auto other = *PlanRequests(options);
  for (size_t i = 0; i < first.size(); ++i) {
    EXPECT_EQ(first[i].prompt, again[i].prompt);
    EXPECT_EQ(first[i].start_s, again[i].start_s);
    EXPECT_EQ(first[i].cancel_after, again[i].cancel_after);
  }
  EXPECT_NE(first[0].prompt, other[0].prompt);
}

TEST(PlanRequestsTest, RatePrefixAndCancelsAreAsAsked) {
  BenchOptions options;
  options.requests = 20'000;
  options.input_length = "3";
  options.output_length = "10";
  options.shared_prefix = 5;
  options.request_rate = 100;
  options.cancel_fraction = 0.1;
  for (const double burstiness : {0.5, 1.0, 4.0}) {
    options.burstiness = burstiness;
    const auto plan = *PlanRequests(options);
    EXPECT_NEAR(plan.back().start_s, 200, 10) << burstiness;
    const auto cancelled = std::count_if(plan.begin(), plan.end(), [](const auto& r) { return r.cancel_after > 0; });
    EXPECT_NEAR(static_cast<double>(cancelled), 2000, 200);
    for (const PlannedRequest& request : plan) {
      ASSERT_EQ(request.prompt.size(), 8u);
      ASSERT_TRUE(std::equal(request.prompt.begin(), request.prompt.begin() + 5, plan[0].prompt.begin()));
      ASSERT_LE(request.cancel_after, request.output_tokens);
    }
  }
}

TEST(SummariseTest, PercentilesInterpolate) {
  std::vector<double> values(101);
  std::iota(values.begin(), values.end(), 0.0);
  std::reverse(values.begin(), values.end());
  const Distribution distribution = Summarise(values);
  EXPECT_DOUBLE_EQ(distribution.mean, 50);
  EXPECT_DOUBLE_EQ(distribution.p50, 50);
  EXPECT_DOUBLE_EQ(distribution.p90, 90);
  EXPECT_DOUBLE_EQ(distribution.p99, 99);
  EXPECT_DOUBLE_EQ(distribution.max, 100);
  EXPECT_DOUBLE_EQ(Summarise({1, 2}).p50, 1.5);
  EXPECT_EQ(Summarise({}).p99, 0);
}

TEST(MakeReportTest, CountsWhatHappened) {
  BenchOptions options;
  options.slo_ttft_ms = 150;
  std::vector<RequestRecord> records(4);
  records[0] = {.start_s = 0, .first_token_s = 0.1, .end_s = 1.1, .gaps_s = {0.5f, 0.5f}, .prompt_tokens = 10,
                .output_tokens = 3, .cancelled = false, .error = ""};
  records[1] = {.start_s = 0, .first_token_s = 0.2, .end_s = 0.2, .gaps_s = {}, .prompt_tokens = 10,
                .output_tokens = 1, .cancelled = false, .error = ""};
  records[2] = {.start_s = 1, .first_token_s = 1.3, .end_s = 1.4, .gaps_s = {0.1f}, .prompt_tokens = 10,
                .output_tokens = 2, .cancelled = true, .error = ""};
  records[3] = {.start_s = 0, .first_token_s = 0, .end_s = 2, .gaps_s = {}, .prompt_tokens = 10, .output_tokens = 0,
                .cancelled = false, .error = "HTTP 503"};
  const BenchReport report = MakeReport(options, records, 2.0, 0.01);
  EXPECT_EQ(report.completed, 2);
  EXPECT_EQ(report.cancelled, 1);
  EXPECT_EQ(report.failed, 1);
  EXPECT_EQ(report.errors.at("HTTP 503"), 1);
  EXPECT_DOUBLE_EQ(report.output_tokens_per_s, 3);
  EXPECT_DOUBLE_EQ(report.requests_per_s, 1);
  EXPECT_DOUBLE_EQ(report.goodput_requests_per_s, 0.5) << "the second's first token came too late";
  EXPECT_DOUBLE_EQ(report.tpot_ms.mean, 500);
  EXPECT_NEAR(report.ttft_ms.mean, 200, 1e-9);
  const nlohmann::json json = ToJson(report, options);
  EXPECT_EQ(json["errors"]["HTTP 503"], 1);
  EXPECT_DOUBLE_EQ(json["goodput_requests_per_s"], 0.5);
  EXPECT_NE(ToText(report).find("HTTP 503"), std::string::npos);
}

}  // namespace
}  // namespace pagoda::cli
