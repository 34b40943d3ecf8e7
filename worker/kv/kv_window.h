// The KV cache of the epoch under way as others than the engine may see it: the Blob service reads full blocks for a peer, and what
// fills blocks from a peer writes those that the engine expects. One block at a time, under a lock that ends with the epoch, so
// that nobody holds on to memory that is gone; a block in the engine's use is not in anybody else's (the coordinator sees to
// that: it gives out no block that is expected, and keeps those that are read).
// Thread rule: Open, Close, Expect and Forbid on the engine's thread; the others from any.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "common/ids.h"
#include "common/mutex.h"
#include "common/status.h"
#include "kernels/backend.h"

namespace pagoda::worker {

// What two ranks must have in common before KV goes from one to the other.
struct KvFormat {
  std::string shard_digest;   // model, layers, rank, activation bits, numerics profile
  std::string kv_cache_type;
  int block_tokens = 0;
  uint64_t block_bytes = 0;
  bool operator==(const KvFormat&) const = default;
};

using KvToken = std::array<std::byte, 16>;  // the link token of an epoch

// Blocks to fill from the same rank of another pipeline (worker.proto's FillKv).
struct KvFill {
  uint64_t move = 0;
  Epoch epoch;
  std::string source;  // host:port
  Epoch source_epoch;
  KvToken source_token = {};
  std::vector<int32_t> from;
  std::vector<int32_t> to;
  int timeout_ms = 0;
};
struct KvFilled {
  uint64_t move = 0;
  Epoch epoch;
  std::string error = "";  // with its code; empty: all blocks are there
  int64_t bytes = 0;
  int64_t took_us = 0;
};

class KvWindow {
 public:
  struct Facts {
    Epoch epoch;
    KvToken token = {};
    KvFormat format;
    int blocks = 0;
  };

  // `cache` stays until Close. One that is not movable opens nothing.
  void Open(Facts facts, kernels::KvCache* cache);
  void Close();
  // From now on `move` writes these blocks, which hold nothing; until Forbid, when the last write is over.
  absl::Status Expect(uint64_t move, std::span<const int32_t> blocks);
  void Forbid(uint64_t move);

  std::optional<Facts> facts() const;  // nothing: no epoch is under way
  // Whether who asks knows the epoch and its token, and has the same format: FAILED_PRECONDITION, PERMISSION_DENIED.
  absl::Status Check(Epoch epoch, std::span<const std::byte> token, const KvFormat& format) const;
  // `out` has format.block_bytes. An error when the epoch is over.
  absl::Status Read(Epoch epoch, int32_t block, std::span<std::byte> out) const;
  absl::Status Write(uint64_t move, int32_t block, std::span<const std::byte> in);

 private:
  mutable Mutex mutex_;
  std::optional<Facts> facts_ ABSL_GUARDED_BY(mutex_);
  kernels::KvCache* cache_ ABSL_GUARDED_BY(mutex_) = nullptr;
  std::unordered_map<uint64_t, std::unordered_set<int32_t>> expected_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace pagoda::worker
