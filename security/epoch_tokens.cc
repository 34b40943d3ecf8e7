#include "security/epoch_tokens.h"

#include <openssl/hmac.h>
#include <openssl/rand.h>

#include "absl/strings/str_cat.h"
#include "common/status.h"

namespace pagoda::security {

EpochTokens::EpochTokens() { PAGODA_CHECK(RAND_bytes(key_.data(), key_.size()) == 1, "the machine gives no random bytes"); }

std::string EpochTokens::Derive(std::string_view purpose, Epoch epoch) const {
  const std::string name = absl::StrCat(AsAbsl(purpose), " of epoch ", epoch.value());
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned size = 0;
  HMAC(EVP_sha256(), key_.data(), static_cast<int>(key_.size()), reinterpret_cast<const unsigned char*>(name.data()),
       name.size(), digest, &size);
  return std::string(reinterpret_cast<const char*>(digest), size);
}

}  // namespace pagoda::security
