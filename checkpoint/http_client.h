// One HTTP GET at a time, blocking, over TLS (certificates checked against the system's, or
// `ca_file`). Plain http only to this machine itself. Follows no redirect: the caller decides what
// goes on to another host. Internal to this folder.
#pragma once

#include <cstddef>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/status.h"

namespace pagoda::checkpoint {

struct Url {
  std::string scheme;  // http or https
  std::string host;    // without brackets
  std::string port;
  std::string target;  // path and query, begins with '/'
  std::string Origin() const;
  std::string ToString() const { return Origin() + target; }
};
absl::StatusOr<Url> ParseUrl(std::string_view text);
// What a Location header means, seen from `base`. Never from https to http.
absl::StatusOr<Url> ResolveLocation(const Url& base, std::string_view location);

struct HttpRequest {
  Url url;
  std::vector<std::pair<std::string, std::string>> headers;
  int timeout_ms = 30'000;  // without any byte
  std::string ca_file;      // PEM; empty: the system's
};
struct HttpHead {
  int status = 0;
  std::map<std::string, std::string> headers;         // names in lower case
  std::string Header(const std::string& name) const;  // empty: absent
};

// Called once, before any body; a failure ends the request and is returned.
using HttpHeadHandler = std::function<absl::Status(const HttpHead&)>;
// Called with each part of the body of a 200 or 206; bodies of other answers are not read.
using HttpBodyHandler = std::function<absl::Status(std::span<const std::byte>)>;

// kUnavailable when the connection cannot be made, is cut or stalls.
absl::StatusOr<HttpHead> HttpGet(const HttpRequest& request, const HttpHeadHandler& on_head,
                                 const HttpBodyHandler& on_body);

}  // namespace pagoda::checkpoint
