// A model's file read from other processes that have it, over the Blob service: only the ranges
// asked for, from the first peer that answers, and from the next when it does not. With a cache
// path each chunk is fetched once, also over restarts.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "checkpoint/byte_source.h"
#include "security/cluster_tls.h"

namespace pagoda::worker {

struct PeerSourceOptions {
  std::vector<std::string> addresses;  // host:port of Blob services, tried in this order
  std::string model_digest;
  absl::Duration timeout = absl::Seconds(10);  // of one call; a call reads at most 4 MiB
  // Where to keep what was read (a file per model file, named after it); empty: nowhere, and Map()
  // gives nothing.
  std::string cache_folder = {};
  security::SharedTls tls = nullptr;  // null: plain
};

struct PeerFile {
  std::string name;
  uint64_t size = 0;
};

// kUnavailable when no peer answers, kNotFound when all that do lack the model.
absl::StatusOr<std::vector<PeerFile>> ListPeerFiles(const PeerSourceOptions& options);

// `file` as listed. Safe from several threads. Map() fetches what is missing, and gives nullptr
// when that fails (Read then says why).
absl::StatusOr<std::shared_ptr<checkpoint::ByteSource>> OpenPeerFile(
    const PeerSourceOptions& options, const PeerFile& file);

}  // namespace pagoda::worker
