// The token (16 bytes) and the key (32) of each epoch's data plane: nobody can guess them, and they are the same whenever the same
// process is asked for the same epoch. (HMAC-SHA256 of purpose and epoch under a random key that never leaves the process.)
// Immutable; any thread.
#pragma once

#include <array>
#include <string>
#include <string_view>

#include "common/ids.h"

namespace pagoda::security {

class EpochTokens {
 public:
  EpochTokens();
  std::string TokenOf(Epoch epoch) const { return Derive("token", epoch).substr(0, 16); }
  std::string KeyOf(Epoch epoch) const { return Derive("key", epoch); }

 private:
  std::string Derive(std::string_view purpose, Epoch epoch) const;
  std::array<unsigned char, 32> key_;
};

}  // namespace pagoda::security
