// One file from a hub into a folder: follows redirects, goes on where it was cut, verifies.
// Internal to this folder.
#pragma once

#include <functional>
#include <string>

#include "checkpoint/http_client.h"
#include "checkpoint/pull.h"

namespace pagoda::checkpoint {

// GET that follows redirects. The token goes to the hub's own origin only. `on_head` sees the
// redirects too.
class HubClient {
 public:
  static absl::StatusOr<HubClient> Make(const PullOptions& options);

  // The whole body; kInvalidArgument above `limit`. Tried again when the connection fails.
  absl::StatusOr<std::string> GetText(const std::string& target, size_t limit) const;
  // `path` appears when all of it is there and right; until then it is `path`.part.
  absl::Status Download(const std::string& target, const std::string& path,
                        const std::function<void(uint64_t done, uint64_t total)>& progress) const;

 private:
  HubClient(const PullOptions& options, Url origin)
      : options_(options), origin_(std::move(origin)) {}

  using Headers = std::vector<std::pair<std::string, std::string>>;
  absl::Status Get(const std::string& target, const Headers& headers,
                   const HttpHeadHandler& on_head, const HttpBodyHandler& on_body) const;
  // Runs `attempt` until it succeeds, fails for good, or fails `attempts` times without
  // `progressed`.
  absl::Status WithRetries(const std::function<absl::Status(bool& progressed)>& attempt) const;

  const PullOptions options_;
  const Url origin_;
};

}  // namespace pagoda::checkpoint
