#include "security/epoch_tokens.h"

#include <openssl/hmac.h>
#include <openssl/rand.h>

#include "common/status.h"

namespace pagoda::security {

EpochTokens::EpochTokens() { PAGODA_CHECK(RAND_bytes(key_.data(), key_.size()) == 1, "the machine gives no random bytes"); }

std::string EpochTokens::Of(Epoch epoch) const {
  const uint64_t value = epoch.value();
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned size = 0;
  HMAC(EVP_sha256(), key_.data(), static_cast<int>(key_.size()), reinterpret_cast<const unsigned char*>(&value), sizeof(value),
       digest, &size);
  return std::string(reinterpret_cast<const char*>(digest), 16);
}

}  // namespace pagoda::security
