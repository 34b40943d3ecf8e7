// A small HTTP/1.1 client for the commands: one request at a time, with a deadline.
// Thread rule: calls block the calling thread; no state is shared.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <string_view>

#include "common/config.h"
#include "common/status.h"

namespace pagoda::cli {

struct HttpRequest {
  HostPort server = {};
  std::string method = "GET";
  std::string target = "/";
  std::string body = {};  // JSON when not empty
  std::map<std::string, std::string> headers = {};
  int timeout_ms = 10'000;  // for connecting and between any two pieces of the answer
  std::string authority = {};  // https: a file of certificates, or "system"; empty: plain http
  std::string server_name = {};  // https: what the certificate must be for; empty: the server's host
};

struct HttpResponse {
  int status = 0;
  std::string body;
};

// kUnavailable when nothing answers; any HTTP status is a response.
absl::StatusOr<HttpResponse> HttpCall(const HttpRequest& request);

// As HttpCall, but a 200 answer's body goes piece by piece to `on_body`, which returns false to stop reading (the
// connection is then closed: the server sees a cancel). Another status comes back with its body.
absl::StatusOr<HttpResponse> HttpStream(const HttpRequest& request,
                                        const std::function<bool(std::string_view)>& on_body);

// Splits a stream of server-sent events: Feed gets bytes as they come and calls `on_data` with each event's data.
class SseSplitter {
 public:
  explicit SseSplitter(std::function<void(std::string_view)> on_data) : on_data_(std::move(on_data)) {}
  void Feed(std::string_view bytes);

 private:
  void Line(std::string_view line);
  std::function<void(std::string_view)> on_data_;
  std::string partial_;
  std::string data_;
};

// "http://host:port", "https://host:port", "host:port" or "host" (port 80, or 443).
absl::StatusOr<HostPort> ParseServer(const std::string& text);
// HttpRequest::authority for such a text: empty unless it is https; `file` empty: the machine's own authorities.
std::string AuthorityFor(const std::string& url, const std::string& file);

}  // namespace pagoda::cli
