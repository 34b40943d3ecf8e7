// Encrypts and proves the packets of one direction of one link (AES-256-GCM, NIST SP 800-38D). The key is of the epoch and the
// two ranks alone: HMAC-SHA256, under the epoch's key, of their names. Salt and number of a packet are its nonce; its header is in the
// clear and covered by the proof. Of one thread.
#pragma once

#include <array>
#include <cstddef>
#include <memory>
#include <span>

#include "worker/comm/packet.h"

struct evp_cipher_ctx_st;

namespace pagoda::worker {

class PacketSeal {
 public:
  PacketSeal(const LinkKey& key, Epoch epoch, PeerId from, PeerId to);
  ~PacketSeal();
  PacketSeal(const PacketSeal&) = delete;
  PacketSeal& operator=(const PacketSeal&) = delete;

  // Numbers the packet, writes plain.size() bytes to `sealed` and the proof into the header.
  void Seal(PacketHeader& header, std::span<const std::byte> plain, std::byte* sealed);
  // Writes sealed.size() bytes to `plain`. False: not as its sender sealed it, or not after what was opened last (a link's packets
  // come in order: this one was recorded and sent again); then what is in `plain` means nothing.
  bool Open(const PacketHeader& header, std::span<const std::byte> sealed, std::byte* plain);
  // Of a packet without bytes, whatever came before it.
  bool IsProven(const PacketHeader& header);

 private:
  struct Free {
    void operator()(evp_cipher_ctx_st* context) const;
  };
  bool Run(const PacketHeader& header, std::span<const std::byte> in, std::byte* out, bool sealing, std::byte* proof);

  std::array<unsigned char, 32> key_;
  std::unique_ptr<evp_cipher_ctx_st, Free> context_;
  uint32_t salt_ = 0;
  uint64_t packets_ = 0;  // sealed, or the last one opened
};

}  // namespace pagoda::worker
