// What goes before the bytes of every packet between two ranks. Sent as it lies in memory: ranks of
// one pipeline are the same build on little-endian machines, which `magic` guards.
//
// Nothing is folded into fewer bits, so no step wraps and no epoch is mistaken for another.
#pragma once

#include <cstdint>
#include <type_traits>

#include "common/limits.h"
#include "worker/comm/transport.h"

namespace pagoda::worker {

inline constexpr uint32_t kPacketMagic = 0x33434450;  // "PDC3"; changes with the layout below

enum class PacketKind : uint8_t { kHello, kHelloAnswer, kReady, kData };

struct PacketHeader {
  uint32_t magic = kPacketMagic;
  PacketKind kind = PacketKind::kData;
  Channel channel = Channel::kHello;
  uint8_t stage = 0;  // of the sender
  uint8_t rank = 0;   // of the sender
  uint64_t epoch = 0;
  uint64_t step = 0;
  uint64_t message_bytes = 0;  // of all packets of the message
  uint64_t offset = 0;         // of this packet's bytes in it
  uint32_t sequence = 0;
  uint32_t salt = 0;     // of a sealed packet: random, of this life of the link
  uint64_t number = 0;   // of a sealed packet, among all from its sender on this link; from 1
  LinkToken proof = {};  // the epoch's token, or the seal (packet_seal.h)
};

static_assert(std::is_trivially_copyable_v<PacketHeader> && sizeof(PacketHeader) == 72);
static_assert(limits::kMaxStages <= 256 && limits::kMaxTensorParallel <= 256,
              "stage and rank fit in a byte");
// The largest message is the hidden states of one step in f32.
inline constexpr uint64_t kMaxMessageBytes =
    uint64_t{limits::kMaxStepRows} * uint64_t{limits::kMaxHidden} * sizeof(float);

inline PeerId SenderOf(const PacketHeader& header) {
  return {.stage = header.stage, .rank = header.rank};
}
inline MessageTag TagOf(const PacketHeader& header) {
  return {.channel = header.channel, .step = header.step, .sequence = header.sequence};
}
// In a time that does not depend on where they differ.
inline bool SameToken(const LinkToken& a, const LinkToken& b) {
  unsigned difference = 0;
  for (size_t i = 0; i < a.size(); ++i) difference |= static_cast<unsigned>(a[i] ^ b[i]);
  return difference == 0;
}
inline bool SameTag(const MessageTag& a, const MessageTag& b) {
  return a.channel == b.channel && a.step == b.step && a.sequence == b.sequence;
}

}  // namespace pagoda::worker
