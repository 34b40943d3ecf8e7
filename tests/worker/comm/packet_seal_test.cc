// A sealed packet opens once, for the rank it was sealed for, and only as it was.
#include "worker/comm/packet_seal.h"

#include <cstring>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/worker/comm/ranks.h"

namespace pagoda::worker {
namespace {

constexpr PeerId kA{.stage = 0, .rank = 1}, kB{.stage = 1, .rank = 0};

LinkKey Key(char letter) {
  LinkKey key;
  key.fill(static_cast<std::byte>(letter));
  return key;
}

struct Sealed {
  PacketHeader header;
  std::vector<std::byte> bytes;
};
Sealed SealWith(PacketSeal& seal, const std::vector<std::byte>& plain) {
  Sealed sealed{.header = {.step = 7, .message_bytes = plain.size()}, .bytes = std::vector<std::byte>(plain.size())};
  seal.Seal(sealed.header, plain, sealed.bytes.data());
  return sealed;
}
bool Opens(PacketSeal&& seal, const Sealed& sealed) {
  std::vector<std::byte> plain(sealed.bytes.size());
  return seal.Open(sealed.header, sealed.bytes, plain.data());
}

TEST(PacketSealTest, OpensWhatItsPeerSealedInOrderAndOnce) {
  PacketSeal from(Key('k'), Epoch(3), kA, kB), to(Key('k'), Epoch(3), kA, kB);
  std::vector<Sealed> sent;
  for (const size_t size : {0, 1, 16, 2304, 65536}) {
    const std::vector<std::byte> plain = Pattern(size, size);
    sent.push_back(SealWith(from, plain));
    if (size > 16) {
      EXPECT_NE(sent.back().bytes, plain);
    }
    std::vector<std::byte> opened(size);
    ASSERT_TRUE(to.Open(sent.back().header, sent.back().bytes, opened.data())) << size;
    EXPECT_EQ(opened, plain);
  }
  std::vector<std::byte> scratch(65536);
  for (const Sealed& again : sent) EXPECT_FALSE(to.Open(again.header, again.bytes, scratch.data()));
  EXPECT_TRUE(to.IsProven(sent[0].header)) << "a hello may be asked about at any time";
}

TEST(PacketSealTest, AnyOtherByteIsRefused) {
  PacketSeal from(Key('k'), Epoch(3), kA, kB);
  const Sealed sealed = SealWith(from, Pattern(100, 1));
  ASSERT_TRUE(Opens(PacketSeal(Key('k'), Epoch(3), kA, kB), sealed));
  for (size_t i = 0; i < sizeof(PacketHeader); ++i) {
    Sealed changed = sealed;
    reinterpret_cast<unsigned char*>(&changed.header)[i] ^= 1;
    EXPECT_FALSE(Opens(PacketSeal(Key('k'), Epoch(3), kA, kB), changed)) << "byte " << i << " of the header";
  }
  for (size_t i = 0; i < sealed.bytes.size(); ++i) {
    Sealed changed = sealed;
    changed.bytes[i] ^= std::byte{1};
    EXPECT_FALSE(Opens(PacketSeal(Key('k'), Epoch(3), kA, kB), changed)) << "byte " << i;
  }
}

TEST(PacketSealTest, AnotherKeyEpochOrDirectionDoesNotOpenIt) {
  PacketSeal from(Key('k'), Epoch(3), kA, kB);
  const Sealed sealed = SealWith(from, Pattern(100, 1));
  EXPECT_FALSE(Opens(PacketSeal(Key('l'), Epoch(3), kA, kB), sealed));
  EXPECT_FALSE(Opens(PacketSeal(Key('k'), Epoch(4), kA, kB), sealed));
  EXPECT_FALSE(Opens(PacketSeal(Key('k'), Epoch(3), kB, kA), sealed));
}

}  // namespace
}  // namespace pagoda::worker
