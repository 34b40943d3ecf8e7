#include "router/http/head.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace pagoda::router::http {
namespace {

HeadVerdict CheckLineEnds(std::string_view head) {
  for (size_t at = head.find('\n'); at != std::string_view::npos; at = head.find('\n', at + 1)) {
    if (at == 0 || head[at - 1] != '\r')
      return {400, "bad_request", "a line of the header ends without CR"};
    if (at + 1 < head.size() && (head[at + 1] == ' ' || head[at + 1] == '\t')) {
      return {400, "bad_request", "a header is folded over several lines"};
    }
  }
  return {};
}

std::string_view Trimmed(std::string_view text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\t')) text.remove_suffix(1);
  return text;
}

}  // namespace

bool EqualsIgnoringCase(std::string_view a, std::string_view b) {
  return absl::EqualsIgnoreCase(AsAbsl(a), AsAbsl(b));
}

bool IsPublicName(std::string_view host) {
  if (host.starts_with('[')) return false;  // an IPv6 address
  const std::string_view name = host.substr(0, host.find(':'));
  if (name.find('.') == std::string_view::npos || absl::EndsWithIgnoreCase(AsAbsl(name), ".localhost")) return false;
  return name.find_first_not_of("0123456789.") != std::string_view::npos;
}

HeadVerdict CheckPartialHead(std::string_view head, const Limits& limits) {
  if (head.size() > limits.header_bytes) {
    return {431, "header_too_large",
            absl::StrCat("the request header is larger than the limit of ", limits.header_bytes,
                         " bytes")};
  }
  return CheckLineEnds(head);
}

HeadVerdict CheckHead(std::string_view head, const Limits& limits) {
  if (const HeadVerdict verdict = CheckPartialHead(head, limits); verdict.status != 0)
    return verdict;
  int fields = 0, lengths = 0, encodings = 0, hosts = 0, authorizations = 0;
  bool chunked = false;
  const size_t first_end = head.find("\r\n");
  const std::string_view request_line = head.substr(0, first_end);
  size_t at = first_end + 2;
  while (at < head.size()) {
    const size_t end = head.find("\r\n", at);
    const std::string_view line = head.substr(at, end - at);
    at = end + 2;
    if (line.empty()) break;
    if (++fields > limits.header_count) {
      return {431, "too_many_headers",
              absl::StrCat("the request has more headers than the limit of ", limits.header_count,
                           " (and of ", limits.header_bytes, " bytes)")};
    }
    const size_t colon = line.find(':');
    if (colon == std::string_view::npos || colon == 0)
      return {400, "bad_request", "a header line has no name"};
    const std::string_view name = line.substr(0, colon);
    const std::string_view value = Trimmed(line.substr(colon + 1));
    if (EqualsIgnoringCase(name, "host")) ++hosts;
    if (EqualsIgnoringCase(name, "authorization")) ++authorizations;
    if (EqualsIgnoringCase(name, "content-length")) {
      ++lengths;
      if (value.empty() || value.size() > 18 ||
          value.find_first_not_of("0123456789") != std::string_view::npos) {
        return {400, "bad_request", "Content-Length is not a number"};
      }
    }
    if (EqualsIgnoringCase(name, "transfer-encoding")) {
      ++encodings;
      chunked = EqualsIgnoringCase(value, "chunked");
    }
  }
  if (lengths > 1) return {400, "bad_request", "Content-Length is given more than once"};
  if (lengths > 0 && encodings > 0) {
    return {400, "bad_request", "Content-Length and Transfer-Encoding are given together"};
  }
  if (encodings > 1 || (encodings == 1 && !chunked)) {
    return {400, "bad_request", "the only Transfer-Encoding taken is chunked"};
  }
  const bool http11 = request_line.ends_with("HTTP/1.1");
  if (hosts > 1 || (http11 && hosts == 0))
    return {400, "bad_request", "a request needs one Host header"};
  // A proxy before this router may have looked at the other one.
  if (authorizations > 1) return {400, "bad_request", "Authorization is given more than once"};
  if (!http11 && encodings > 0) return {400, "bad_request", "Transfer-Encoding needs HTTP/1.1"};
  return {};
}

}  // namespace pagoda::router::http
