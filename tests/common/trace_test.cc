// Trace context as W3C writes it, the sampling decision, and a tracer that never holds anybody up.
#include "common/trace.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <condition_variable>
#include <mutex>

#include "common/limits.h"

namespace pagoda {
namespace {

constexpr char kParent[] = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

TEST(TraceparentTest, ReadsAndWritesTheExampleOfTheStandard) {
  const auto parsed = ParseTraceparent(kParent);
  ASSERT_TRUE(parsed.has_value());
  EXPECT_EQ(parsed->context.trace_high, 0x0af7651916cd43ddu);
  EXPECT_EQ(parsed->context.trace_low, 0x8448eb211c80319cu);
  EXPECT_EQ(parsed->context.span, 0xb7ad6b7169203331u);
  EXPECT_TRUE(parsed->sampled);
  EXPECT_EQ(FormatTraceparent(parsed->context), kParent);
  EXPECT_FALSE(ParseTraceparent("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-02")->sampled);
  EXPECT_TRUE(ParseTraceparent(std::string("cc") + (kParent + 2) + "-later").has_value()) << "a later version may have more";
}

TEST(TraceparentTest, WhatIsNotWellFormedIsNone) {
  for (const char* wrong : {"", "00", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
                            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
                            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
                            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
                            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
                            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
                            "00_0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
                            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b716920333g-01"}) {
    EXPECT_FALSE(ParseTraceparent(wrong).has_value()) << wrong;
  }
}

TEST(TracerTest, EndpointsAreChecked) {
  EXPECT_TRUE(Tracer::CheckEndpoint("http://localhost:4318").ok());
  EXPECT_TRUE(Tracer::CheckEndpoint("http://collector/v1/traces").ok());
  for (const char* wrong : {"", "localhost:4318", "grpc://a:1", "http://a:99999", "http://a:1/with space"}) {
    EXPECT_FALSE(Tracer::CheckEndpoint(wrong).ok()) << wrong;
  }
  EXPECT_THAT(std::string(Tracer::CheckEndpoint("https://a:1").message()), testing::HasSubstr("https is not spoken"));
}

// Counts, and a collector that can be held up.
struct Collector {
  std::mutex mutex;
  std::condition_variable changed;
  bool held = false;
  std::vector<std::string> bodies;
  std::atomic<int64_t> exported{0}, dropped{0}, failed{0};
  absl::Status answer;

  Tracer::Options Options(double ratio) {
    return {.endpoint = {},
            .sampling_ratio = ratio,
            .service = "test",
            .instance = {},
            .version = {},
            .count =
                [this](std::string_view outcome, int64_t spans) {
                  (outcome == "exported" ? exported : outcome == "failed" ? failed : dropped) += spans;
                },
            .transport =
                [this](const std::string& body) {
                  std::unique_lock lock(mutex);
                  changed.wait(lock, [this] { return !held; });
                  bodies.push_back(body);
                  return answer;
                }};
  }
  void Hold(bool hold) {
    std::lock_guard lock(mutex);
    held = hold;
    changed.notify_all();
  }
};

TEST(TracerTest, TheCallerDecidesAndElseTheRatio) {
  Collector collector;
  const auto never = *Tracer::Start(collector.Options(0));
  const auto always = *Tracer::Start(collector.Options(1));
  const auto half = *Tracer::Start(collector.Options(0.5));
  uint64_t parent = 0;
  const TraceContext followed = never->Begin(kParent, &parent);
  EXPECT_TRUE(followed.sampled()) << "sampled by the caller, whatever the ratio";
  EXPECT_EQ(parent, 0xb7ad6b7169203331u);
  EXPECT_EQ(followed.trace_low, 0x8448eb211c80319cu);
  EXPECT_NE(followed.span, parent);
  EXPECT_FALSE(always->Begin("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00", &parent).sampled());
  EXPECT_FALSE(never->Begin("", &parent).sampled());
  const TraceContext fresh = always->Begin("garbage", &parent);
  EXPECT_TRUE(fresh.sampled());
  EXPECT_EQ(parent, 0u);
  EXPECT_NE(fresh.trace_low, always->Begin("", &parent).trace_low);
  int sampled = 0;
  for (int i = 0; i < 2000; ++i) sampled += half->Begin("", &parent).sampled();
  EXPECT_NEAR(sampled, 1000, 150);
}

TEST(TracerTest, ACollectorThatHangsCostsSpansAndNoTime) {
  Collector collector;
  collector.Hold(true);
  auto tracer = *Tracer::Start(collector.Options(1));
  const int64_t begun_ns = NowNs();
  const int made = 3 * static_cast<int>(limits::kMaxQueuedSpans);
  for (int i = 0; i < made; ++i) tracer->Record({.self = {1, 2, 3}, .trace_state = {}, .name = "span", .attributes = {}, .error = {}});
  EXPECT_LT(NowNs() - begun_ns, kNsPerSecond);
  EXPECT_GE(collector.dropped.load(), static_cast<int64_t>(limits::kMaxQueuedSpans));
  collector.Hold(false);
  tracer.reset();  // sends what is queued
  EXPECT_EQ(collector.exported.load() + collector.dropped.load(), made) << "every span is accounted for";
  EXPECT_GT(collector.exported.load(), 0);
}

TEST(TracerTest, WhatTheCollectorRefusesIsCounted) {
  Collector collector;
  collector.answer = absl::UnavailableError("no");
  auto tracer = *Tracer::Start(collector.Options(1));
  tracer->Record({.self = {1, 2, 3}, .trace_state = {}, .name = "span", .attributes = {}, .error = {}});
  tracer.reset();
  EXPECT_EQ(collector.failed.load(), 1);
  EXPECT_EQ(collector.exported.load(), 0);
}

}  // namespace
}  // namespace pagoda
