// The one log line of a request that ended, the same for both front ends: the event "request".
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace pagoda::router {

// Of a request, as far as it is known when it ends. No prompt and no answer is ever in it.
struct RequestLog {
  std::string request_id;
  std::string_view method;  // of HTTP, or "GRPC"
  std::string_view path;
  int status = 0;           // of HTTP; for gRPC what its code maps to
  std::string_view code;    // of gRPC, "" for HTTP
  double seconds = 0;
  double first_token_seconds = -1;  // -1: there was none
  std::string_view model;
  std::string tenant;  // of the API key; empty without one
  std::string key_id;  // its public name, never the key
  int64_t prompt_tokens = 0;
  int64_t output_tokens = 0;
};

// What a client chose is cut to a bounded length.
void LogRequest(const RequestLog& request);

}  // namespace pagoda::router
