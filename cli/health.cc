// `pagoda health URL`: whether a process answers, for health checks in images that have no curl.
#include <iostream>

#include "cli/command.h"
#include "cli/http_client.h"
#include "common/config.h"

namespace pagoda::cli {

int RunHealth(int argc, const char* const* argv) {
  CLI::App app("Exits with 0 when URL is answered with 200, with 1 when it is not.", "pagoda health");
  std::string url;
  std::string authority;
  std::string server_name;
  int timeout_ms = 5000;
  app.add_option("url", url, "such as https://localhost:8000/livez")->required();
  app.add_option("--ssl-ca-certs", authority, kAuthorityHelp);
  app.add_option("--ssl-server-name", server_name, kServerNameHelp);
  app.add_option("--timeout-ms", timeout_ms, "how long to wait")->check(CLI::Range(1, 3'600'000))->capture_default_str();
  int exit_status = 0;
  if (!ParseOrExit(app, argc, argv, exit_status)) return exit_status;
  const auto server = ParseServer(url);
  if (!server.ok()) return Fail(server.status());
  const size_t scheme = url.find("://");
  const size_t path = url.find('/', scheme == std::string::npos ? 0 : scheme + 3);
  const auto answer = HttpCall({.server = *server,
                                .target = path == std::string::npos ? "/" : url.substr(path),
                                .timeout_ms = timeout_ms,
                                .authority = AuthorityFor(url, authority),
                                .server_name = server_name});
  if (!answer.ok()) return Fail(answer.status());
  if (answer->status == 200) return kExitOk;
  return Fail(absl::UnavailableError(absl::StrCat(url, " was answered with ", answer->status)));
}

}  // namespace pagoda::cli
