// Ids, hexadecimal text, statuses, limits' neighbours: the small values that everything else is made of.
#include <gtest/gtest.h>

#include <set>
#include <unordered_set>

#include "common/hex.h"
#include "common/ids.h"
#include "common/status.h"

namespace pagoda {
namespace {

TEST(HexTest, RoundTripsAndRefusesEverythingElse) {
  uint64_t value = 0;
  for (const uint64_t number : {uint64_t{0}, uint64_t{1}, uint64_t{0xdeadbeef}, ~uint64_t{0}}) {
    ASSERT_TRUE(HexDecode64(HexEncode64(number), value));
    EXPECT_EQ(value, number);
  }
  EXPECT_EQ(HexEncode64(0xab), "00000000000000ab");
  for (const char* wrong : {"", "0", "00000000000000000", "000000000000000g", "0x00000000000000", "               1"}) {
    EXPECT_FALSE(HexDecode64(wrong, value)) << wrong;
  }
  const uint8_t bytes[] = {0x00, 0x0f, 0xff};
  EXPECT_EQ(HexEncode(bytes), "000fff");
}

TEST(RequestIdTest, ParsesWhatItPrints) {
  const RequestId id = RequestId::Random();
  EXPECT_EQ(id.ToString().size(), 32u);
  const auto parsed = RequestId::Parse(id.ToString());
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(*parsed, id);
  EXPECT_NE(RequestId::Random(), id);
  for (const std::string wrong : {"", "12", "zz000000000000000000000000000000", "0000000000000000000000000000000000"}) {
    EXPECT_FALSE(RequestId::Parse(wrong).ok()) << wrong;
  }
}

TEST(StrongIdTest, OrderedAndHashable) {
  EXPECT_LT(BlockId(1), BlockId(2));
  EXPECT_EQ(std::set<StepNumber>({StepNumber(2), StepNumber(1), StepNumber(2)}).size(), 2u);
  EXPECT_EQ(std::unordered_set<SlotId>({SlotId(2), SlotId(1), SlotId(2)}).size(), 2u);
  static_assert(!std::is_convertible_v<BlockId, SlotId>, "an id of one kind is not of another");
  static_assert(!std::is_convertible_v<int, BlockId>);
}

TEST(StatusTest, AnnotateKeepsTheCodeAndPrefixesTheMessage) {
  const absl::Status status = Annotate(absl::NotFoundError("no such file"), "loading shard 3");
  EXPECT_TRUE(absl::IsNotFound(status));
  EXPECT_EQ(status.message(), "loading shard 3: no such file");
  EXPECT_TRUE(Annotate(absl::OkStatus(), "anything").ok());
}

absl::StatusOr<int> Twice(absl::StatusOr<int> value) {
  PAGODA_ASSIGN_OR_RETURN(const int given, value);
  PAGODA_RETURN_IF_ERROR(given < 0 ? absl::OutOfRangeError("negative") : absl::OkStatus());
  return given * 2;
}

TEST(StatusTest, MacrosReturnTheFirstError) {
  EXPECT_EQ(*Twice(4), 8);
  EXPECT_TRUE(absl::IsOutOfRange(Twice(-1).status()));
  EXPECT_TRUE(absl::IsUnavailable(Twice(absl::UnavailableError("x")).status()));
}

TEST(CheckDeathTest, EndsTheProcessWithPlaceAndDetail) {
  EXPECT_DEATH(PAGODA_CHECK(1 + 1 == 3, "arithmetic ", 42), "1 \\+ 1 == 3.*arithmetic 42");
}

}  // namespace
}  // namespace pagoda
