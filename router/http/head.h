// The head of an HTTP/1.1 request before a parser sees it: what different parsers are known to read
// differently is refused here. Pure.
#pragma once

#include <string>
#include <string_view>

#include "router/http/server.h"

namespace pagoda::router::http {

struct HeadVerdict {
  int status = 0;  // 0: go on; else the status to refuse with
  std::string_view code;
  std::string message;
};

// Of the bytes received so far, before the blank line was found: `head` has no "\r\n\r\n" in it.
HeadVerdict CheckPartialHead(std::string_view head, const Limits& limits);
// Of a whole head, "\r\n\r\n" included.
HeadVerdict CheckHead(std::string_view head, const Limits& limits);

// Whether a Host header names something that public DNS could hold: with a dot in it, and no address. A web page whose name
// was made to point at this machine (DNS rebinding) sends such a one.
bool IsPublicName(std::string_view host);

bool EqualsIgnoringCase(std::string_view a, std::string_view b);

}  // namespace pagoda::router::http
