#include "router/access/quota.h"

#include <gtest/gtest.h>

#include <memory>
#include <random>

#include "router/access/gate.h"

namespace pagoda::router {
namespace {

constexpr MonotonicNs kSecond = kNsPerSecond;

TEST(PriorityTest, BelowZeroIsForWhoLooksAfterTheClusterWhereThereAreKeys) {
  security::ApiKey tenant;
  tenant.scopes = {security::Scope::kInference};
  security::ApiKey admin;
  admin.scopes = {security::Scope::kInference, security::Scope::kAdmin};
  const Caller of_tenant{std::make_shared<const security::ApiKey>(tenant)}, of_admin{std::make_shared<const security::ApiKey>(admin)};
  EXPECT_TRUE(absl::IsPermissionDenied(CheckPriority(of_tenant, -1)));
  EXPECT_TRUE(CheckPriority(of_tenant, 0).ok());
  EXPECT_TRUE(CheckPriority(of_tenant, 7).ok());
  EXPECT_TRUE(CheckPriority(of_admin, -1).ok());
  EXPECT_TRUE(CheckPriority(Caller{}, -1).ok()) << "no keys, no tenants";
}

TEST(BucketTest, AMinutesWorthAtOnceThenOneByOne) {
  Bucket bucket(60, 0);
  for (int i = 0; i < 60; ++i) EXPECT_TRUE(bucket.TryTake(1, 0)) << i;
  EXPECT_FALSE(bucket.TryTake(1, 0));
  EXPECT_EQ(bucket.MsUntil(1, 0), 1000);
  EXPECT_FALSE(bucket.TryTake(1, kSecond - 1'000'000));
  EXPECT_TRUE(bucket.TryTake(1, kSecond));
  EXPECT_FALSE(bucket.TryTake(1, kSecond));
  EXPECT_EQ(bucket.Remaining(100 * kSecond), 60) << "never more than a minute's worth";
}

TEST(BucketTest, WhatWasNotUsedComesBackAndWhatWasTooMuchIsOwed) {
  Bucket bucket(600, 0);
  EXPECT_TRUE(bucket.TryTake(600, 0));
  bucket.Return(500, 0);
  EXPECT_EQ(bucket.Remaining(0), 500);
  bucket.Return(-700, 0);
  EXPECT_EQ(bucket.Remaining(0), 0);
  EXPECT_EQ(bucket.MsUntil(1, 0), 20'100) << "201 tokens at 10 a second";
  EXPECT_FALSE(bucket.TryTake(1, 20 * kSecond));
  EXPECT_TRUE(bucket.TryTake(1, 21 * kSecond));
  bucket.Return(1'000'000, 21 * kSecond);
  EXPECT_EQ(bucket.Remaining(21 * kSecond), 600);
}

TEST(BucketTest, WhatIsLargerThanTheBucketNeedsAFullOne) {
  Bucket bucket(100, 0);
  EXPECT_TRUE(bucket.TryTake(5000, 0));
  EXPECT_FALSE(bucket.TryTake(5000, 59 * kSecond));
  EXPECT_TRUE(bucket.TryTake(5000, 60 * kSecond));
}

TEST(BucketTest, NoQuota) {
  Bucket bucket(0, 0);
  EXPECT_TRUE(bucket.TryTake(1'000'000'000, 0));
  bucket.Return(-1'000'000'000, 0);
  EXPECT_TRUE(bucket.TryTake(1'000'000'000, 0));
  EXPECT_EQ(bucket.MsUntil(1, 0), 0);
}

TEST(BucketTest, AClockThatGoesBackAddsNothing) {
  Bucket bucket(60, 100 * kSecond);
  EXPECT_TRUE(bucket.TryTake(60, 100 * kSecond));
  EXPECT_FALSE(bucket.TryTake(1, 50 * kSecond));
  EXPECT_FALSE(bucket.TryTake(1, 100 * kSecond));
}

TEST(BucketTest, AChangedQuotaCountsFromNowOn) {
  Bucket bucket(60, 0);
  EXPECT_TRUE(bucket.TryTake(60, 0));
  bucket.SetRate(600, 0);
  EXPECT_FALSE(bucket.TryTake(1, 0)) << "a larger quota is no gift";
  EXPECT_TRUE(bucket.TryTake(10, kSecond));
  bucket.SetRate(5, 60 * kSecond);
  EXPECT_EQ(bucket.Remaining(60 * kSecond), 5);
  bucket.SetRate(0, 60 * kSecond);
  EXPECT_TRUE(bucket.TryTake(1000, 60 * kSecond));
}

// Whatever is asked for and when, no minute lets through more than the bucket and its refill.
TEST(BucketTest, NoScheduleBeatsTheQuota) {
  for (unsigned seed = 0; seed < 200; ++seed) {
    std::mt19937 random(seed);
    const int64_t quota = 1 + static_cast<int64_t>(random() % 1000);
    Bucket bucket(quota, 0);
    MonotonicNs now = 0;
    double taken = 0;
    for (int i = 0; i < 500; ++i) {
      now += static_cast<MonotonicNs>(random() % 1'000'000'000);
      const auto amount = static_cast<int64_t>(random() % static_cast<unsigned>(quota)) + 1;
      if (bucket.TryTake(amount, now)) taken += static_cast<double>(amount);
      if (random() % 4 == 0) {
        const auto back = static_cast<int64_t>(random() % 3);
        if (taken >= static_cast<double>(back)) {
          bucket.Return(back, now);
          taken -= static_cast<double>(back);
        }
      }
    }
    const double allowed = static_cast<double>(quota) * (1.0 + static_cast<double>(now) / (60.0 * kNsPerSecond));
    EXPECT_LE(taken, allowed + 1e-3) << "seed " << seed;
  }
}

}  // namespace
}  // namespace pagoda::router
