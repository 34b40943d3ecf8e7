// What coordinators know of a stream whose client came back. Value type.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/ids.h"

namespace pagoda::router {

struct FoundPart {
  int part = 0;  // which prompt of the client's request
  RequestId request;
  uint32_t attempt = 0;
  std::string router_state;
  std::vector<std::vector<TokenId>> choices;  // output tokens so far
  int cached_tokens = 0;
  std::string model_digest;  // of the pipeline that it ran on last; empty: not told
  std::string numerics;
};

struct FoundStream {
  bool asked = false;            // a coordinator was there to be asked
  std::vector<FoundPart> parts;  // by part; empty: nobody knows it
};

}  // namespace pagoda::router
