#include "checkpoint/sha256.h"

#include <openssl/evp.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <vector>

#include "checkpoint/byte_source.h"
#include "common/hex.h"

namespace pagoda::checkpoint {

struct Sha256::State {
  EVP_MD_CTX* context = EVP_MD_CTX_new();
  ~State() { EVP_MD_CTX_free(context); }
};

Sha256::Sha256() : state_(std::make_unique<State>()) {
  PAGODA_CHECK(EVP_DigestInit_ex(state_->context, EVP_sha256(), nullptr) == 1);
}

Sha256::~Sha256() = default;

void Sha256::Update(std::span<const std::byte> bytes) {
  PAGODA_CHECK(EVP_DigestUpdate(state_->context, bytes.data(), bytes.size()) == 1);
}

void Sha256::Update(std::string_view text) { Update(std::as_bytes(std::span(text))); }

void Sha256::UpdateField(std::string_view text) {
  const uint64_t length = text.size();
  Update(std::as_bytes(std::span(&length, 1)));
  Update(text);
}

std::string Sha256::FinishHex() {
  std::array<uint8_t, 32> digest = {};
  PAGODA_CHECK(EVP_DigestFinal_ex(state_->context, digest.data(), nullptr) == 1);
  return HexEncode(digest);
}

namespace {

template <typename Sink>
absl::Status FeedFile(const ByteSource& file, Sink sink) {
  std::vector<std::byte> buffer(1u << 20);
  for (uint64_t offset = 0; offset < file.size();) {
    const std::span<std::byte> part =
        std::span(buffer).first(std::min<uint64_t>(buffer.size(), file.size() - offset));
    PAGODA_RETURN_IF_ERROR(file.Read(offset, part));
    sink(part);
    offset += part.size();
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::string> Sha256OfFile(const std::string& path) {
  PAGODA_ASSIGN_OR_RETURN(const std::shared_ptr<ByteSource> file, OpenFile(path));
  Sha256 hash;
  PAGODA_RETURN_IF_ERROR(
      FeedFile(*file, [&](std::span<const std::byte> part) { hash.Update(part); }));
  return hash.FinishHex();
}

absl::StatusOr<std::string> GitBlobIdOfFile(const std::string& path) {
  PAGODA_ASSIGN_OR_RETURN(const std::shared_ptr<ByteSource> file, OpenFile(path));
  const std::unique_ptr<EVP_MD_CTX, void (*)(EVP_MD_CTX*)> context(EVP_MD_CTX_new(),
                                                                   EVP_MD_CTX_free);
  const std::string prefix = absl::StrCat("blob ", file->size());
  PAGODA_CHECK(EVP_DigestInit_ex(context.get(), EVP_sha1(), nullptr) == 1);
  EVP_DigestUpdate(context.get(), prefix.c_str(), prefix.size() + 1);  // with its 0
  PAGODA_RETURN_IF_ERROR(FeedFile(*file, [&](std::span<const std::byte> part) {
    EVP_DigestUpdate(context.get(), part.data(), part.size());
  }));
  std::array<uint8_t, 20> digest = {};
  PAGODA_CHECK(EVP_DigestFinal_ex(context.get(), digest.data(), nullptr) == 1);
  return HexEncode(digest);
}

}  // namespace pagoda::checkpoint
