#include "worker/comm/packet_seal.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>

#include <cstring>
#include <string>

#include "absl/strings/str_cat.h"

namespace pagoda::worker {
namespace {

constexpr int kNonceBytes = 12;

unsigned char* Bytes(std::byte* p) { return reinterpret_cast<unsigned char*>(p); }
const unsigned char* Bytes(const std::byte* p) { return reinterpret_cast<const unsigned char*>(p); }

}  // namespace

void PacketSeal::Free::operator()(evp_cipher_ctx_st* context) const { EVP_CIPHER_CTX_free(context); }

PacketSeal::PacketSeal(const LinkKey& key, Epoch epoch, PeerId from, PeerId to) : context_(EVP_CIPHER_CTX_new()) {
  const std::string name = absl::StrCat("pagoda data plane, epoch ", epoch.value(), ", ", from.stage, "/", from.rank, " to ", to.stage,
                                        "/", to.rank);
  unsigned size = 0;
  const unsigned char* made = HMAC(EVP_sha256(), key.data(), static_cast<int>(key.size()),
                                   reinterpret_cast<const unsigned char*>(name.data()), name.size(), key_.data(), &size);
  PAGODA_CHECK(made != nullptr && size == key_.size() && context_ != nullptr, "no HMAC-SHA256 in OpenSSL");
  PAGODA_CHECK(RAND_bytes(reinterpret_cast<unsigned char*>(&salt_), sizeof(salt_)) == 1, "the machine gives no random bytes");
}

PacketSeal::~PacketSeal() { OPENSSL_cleanse(key_.data(), key_.size()); }

void PacketSeal::Seal(PacketHeader& header, std::span<const std::byte> plain, std::byte* sealed) {
  header.salt = salt_;
  header.number = ++packets_;
  std::array<std::byte, sizeof(header.proof)> proof = {};
  PAGODA_CHECK(Run(header, plain, sealed, /*sealing=*/true, proof.data()), "AES-256-GCM does not seal");
  header.proof = proof;
}

bool PacketSeal::Open(const PacketHeader& header, std::span<const std::byte> sealed, std::byte* plain) {
  if (header.number <= packets_) return false;
  std::array<std::byte, sizeof(header.proof)> proof = header.proof;
  if (!Run(header, sealed, plain, /*sealing=*/false, proof.data())) return false;
  packets_ = header.number;
  return true;
}

bool PacketSeal::IsProven(const PacketHeader& header) {
  std::array<std::byte, sizeof(header.proof)> proof = header.proof;
  return Run(header, {}, nullptr, /*sealing=*/false, proof.data());
}

bool PacketSeal::Run(const PacketHeader& header, std::span<const std::byte> in, std::byte* out, bool sealing, std::byte* proof) {
  EVP_CIPHER_CTX* context = context_.get();
  unsigned char nonce[kNonceBytes] = {};
  static_assert(sizeof(header.salt) + sizeof(header.number) == kNonceBytes);
  std::memcpy(nonce, &header.salt, sizeof(header.salt));
  std::memcpy(nonce + sizeof(header.salt), &header.number, sizeof(header.number));
  PacketHeader covered = header;
  covered.proof = {};
  // OpenSSL's lengths are ints; a packet's are far below.
  const int size = static_cast<int>(in.size());
  int done = 0, rest = 0;
  std::byte none;
  if (EVP_CipherInit_ex(context, EVP_aes_256_gcm(), nullptr, key_.data(), nonce, sealing ? 1 : 0) != 1) return false;
  if (EVP_CipherUpdate(context, nullptr, &done, reinterpret_cast<const unsigned char*>(&covered), sizeof(covered)) != 1) return false;
  if (size > 0 && (EVP_CipherUpdate(context, Bytes(out), &done, Bytes(in.data()), size) != 1 || done != size)) return false;
  if (!sealing && EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_GCM_SET_TAG, sizeof(header.proof), proof) != 1) return false;
  if (EVP_CipherFinal_ex(context, Bytes(&none), &rest) != 1) return false;
  return !sealing || EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_GCM_GET_TAG, sizeof(header.proof), proof) == 1;
}

}  // namespace pagoda::worker
