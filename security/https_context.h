// The certificate that an HTTPS server shows, out of two files that may change while it runs: connections that begin later
// use the new ones. What cannot be read (half written, of another key) leaves the last good pair in use and a line in the
// log. Thread rule: one thread.
#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "common/clock.h"
#include "common/status.h"

struct ssl_ctx_st;  // SSL_CTX

namespace pagoda::security {

class HttpsContext {
 public:
  // `client_authority`: a file of certificates of which one must have signed the client's; empty: clients need none.
  static absl::StatusOr<std::unique_ptr<HttpsContext>> Load(std::string certificate, std::string key,
                                                            std::string client_authority);

  // Looks at the files again when a second has passed since the last look.
  std::shared_ptr<ssl_ctx_st> Current(MonotonicNs now);

 private:
  HttpsContext() = default;
  absl::StatusOr<std::shared_ptr<ssl_ctx_st>> Read() const;
  std::filesystem::file_time_type NewestChange() const;

  std::string certificate_;
  std::string key_;
  std::string client_authority_;
  std::shared_ptr<ssl_ctx_st> current_;
  std::filesystem::file_time_type read_change_;  // of the files as they were last read
  MonotonicNs looked_ns_ = 0;
};

}  // namespace pagoda::security
