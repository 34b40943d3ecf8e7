// A file of which only the chunks that were asked for are there, on disk over restarts: the bytes
// in a sparse file, and which of them are there in a small file beside it (".have"). Another
// process may use the same path with the same content: at worst both fetch a chunk. Safe from any
// thread.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "common/limits.h"
#include "common/status.h"

namespace pagoda::worker {

class SparseCache {
 public:
  static constexpr uint64_t kChunkBytes = limits::kBlobChunkBytes;

  // `identity` says whose bytes these are (digest and name): a file of another identity or size is
  // begun anew.
  static absl::StatusOr<std::unique_ptr<SparseCache>> Open(const std::string& path,
                                                           const std::string& identity,
                                                           uint64_t size);
  ~SparseCache();
  SparseCache(const SparseCache&) = delete;
  SparseCache& operator=(const SparseCache&) = delete;

  using Fetch = std::function<absl::Status(uint64_t offset, std::span<std::byte> out)>;
  // The bytes at [offset, offset + length), which must lie inside the file; missing chunks are
  // fetched, each once. They stay mapped while this lives.
  absl::StatusOr<const std::byte*> Get(uint64_t offset, uint64_t length, const Fetch& fetch);

 private:
  enum State : uint8_t { kMissing, kPresent, kFetching };

  SparseCache() = default;
  absl::Status Start(const std::string& path, const std::string& identity, uint64_t size);
  absl::Status FetchRun(uint64_t first, uint64_t end, const Fetch& fetch);

  std::string path_;
  uint64_t size_ = 0;
  int data_ = -1;
  int have_ = -1;
  uint64_t have_offset_ = 0;  // of the first chunk's byte
  std::byte* base_ = nullptr;

  std::mutex mutex_;
  std::condition_variable fetched_;
  std::vector<uint8_t> states_;  // guarded by mutex_
};

}  // namespace pagoda::worker
