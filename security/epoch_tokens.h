// The token of each epoch's data plane: 16 bytes that nobody can guess, the same whenever the same process is asked for the
// same epoch. (HMAC-SHA256 of the epoch under a random key that never leaves the process.) Immutable; any thread.
#pragma once

#include <array>
#include <string>

#include "common/ids.h"

namespace pagoda::security {

class EpochTokens {
 public:
  EpochTokens();
  std::string Of(Epoch epoch) const;

 private:
  std::array<unsigned char, 32> key_;
};

}  // namespace pagoda::security
