#include <sys/random.h>

#include "common/ids.h"

namespace pagoda {

RequestId RequestId::Random() {
  RequestId id;
  size_t filled = 0;
  while (filled < sizeof(id)) {
    const ssize_t got = getrandom(reinterpret_cast<char*>(&id) + filled, sizeof(id) - filled, 0);
    if (got > 0) filled += static_cast<size_t>(got);
  }
  return id;
}

absl::StatusOr<RequestId> RequestId::Parse(std::string_view text) {
  RequestId id;
  if (text.size() != 32 || !HexDecode64(text.substr(0, 16), id.high) ||
      !HexDecode64(text.substr(16), id.low)) {
    return absl::InvalidArgumentError("a request id is 32 hexadecimal digits");
  }
  return id;
}

}  // namespace pagoda
