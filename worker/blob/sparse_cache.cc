#include "worker/blob/sparse_cache.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <limits>

namespace pagoda::worker {
namespace {

// One read from a peer asks for at most that many chunks.
constexpr uint64_t kChunksPerFetch = 4;

absl::Status Failed(std::string_view doing, const std::string& path) {
  const int error = errno;
  const std::string text = absl::StrCat("cannot ", AsAbsl(doing), " ", path, ": ", strerror(error));
  return error == ENOSPC ? absl::ResourceExhaustedError(text) : absl::UnavailableError(text);
}

// First line of the ".have" file; a byte 0 or 1 for each chunk follows.
std::string Header(const std::string& identity, uint64_t size) {
  return absl::StrCat("pagoda sparse 1 ", SparseCache::kChunkBytes, " ", size, " ", identity, "\n");
}

}  // namespace

absl::StatusOr<std::unique_ptr<SparseCache>> SparseCache::Open(const std::string& path,
                                                               const std::string& identity,
                                                               uint64_t size) {
  std::unique_ptr<SparseCache> cache(new SparseCache());
  PAGODA_RETURN_IF_ERROR(cache->Start(path, identity, size));
  return cache;
}

absl::Status SparseCache::Start(const std::string& path, const std::string& identity,
                                uint64_t size) {
  if (size > static_cast<uint64_t>(std::numeric_limits<off_t>::max()) / 2) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": ", size, " bytes are more than any file has"));
  }
  path_ = path;
  size_ = size;
  const std::string have_path = path + ".have";
  data_ = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (data_ < 0) return Failed("open", path);
  have_ = open(have_path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (have_ < 0) return Failed("open", have_path);

  const std::string header = Header(identity, size);
  const uint64_t chunks = (size + kChunkBytes - 1) / kChunkBytes;
  have_offset_ = header.size();
  states_.assign(chunks, kMissing);
  std::string known(header.size() + chunks, '\0');
  struct stat data_stat = {};
  if (fstat(data_, &data_stat) != 0) return Failed("look at", path);
  const bool same =
      static_cast<uint64_t>(data_stat.st_size) == size &&
      pread(have_, known.data(), known.size(), 0) == static_cast<ssize_t>(known.size()) &&
      known.starts_with(header);
  if (same) {
    for (uint64_t i = 0; i < chunks; ++i)
      states_[i] = known[header.size() + i] == kPresent ? kPresent : kMissing;
  } else {
    known = header + std::string(chunks, '\0');
    if (ftruncate(have_, 0) != 0 || ftruncate(data_, static_cast<off_t>(size)) != 0)
      return Failed("size", path);
    if (pwrite(have_, known.data(), known.size(), 0) != static_cast<ssize_t>(known.size())) {
      return Failed("write", have_path);
    }
  }
  if (size == 0) return absl::OkStatus();
  void* base = mmap(nullptr, size, PROT_READ, MAP_SHARED, data_, 0);
  if (base == MAP_FAILED) return Failed("map", path);
  base_ = static_cast<std::byte*>(base);
  return absl::OkStatus();
}

SparseCache::~SparseCache() {
  if (base_ != nullptr) munmap(base_, size_);
  if (data_ >= 0) close(data_);
  if (have_ >= 0) close(have_);
}

absl::StatusOr<const std::byte*> SparseCache::Get(uint64_t offset, uint64_t length,
                                                  const Fetch& fetch) {
  PAGODA_CHECK(offset <= size_ && length <= size_ - offset, "past the end of the cached file");
  if (length == 0) return base_ + offset;
  const uint64_t last = (offset + length - 1) / kChunkBytes;
  std::unique_lock lock(mutex_);
  for (uint64_t chunk = offset / kChunkBytes; chunk <= last;) {
    if (states_[chunk] == kPresent) {
      ++chunk;
      continue;
    }
    if (states_[chunk] == kFetching) {  // by another thread; should it fail, we try
      fetched_.wait(lock);
      continue;
    }
    uint64_t end = chunk;
    while (end <= last && end - chunk < kChunksPerFetch && states_[end] == kMissing)
      states_[end++] = kFetching;
    lock.unlock();
    const absl::Status status = FetchRun(chunk, end, fetch);
    lock.lock();
    std::fill(states_.begin() + static_cast<ptrdiff_t>(chunk),
              states_.begin() + static_cast<ptrdiff_t>(end), status.ok() ? kPresent : kMissing);
    fetched_.notify_all();
    PAGODA_RETURN_IF_ERROR(status);
  }
  return base_ + offset;
}

absl::Status SparseCache::FetchRun(uint64_t first, uint64_t end, const Fetch& fetch) {
  const uint64_t begin_byte = first * kChunkBytes;
  const uint64_t end_byte = std::min(end * kChunkBytes, size_);
  std::vector<std::byte> data(end_byte - begin_byte);
  PAGODA_RETURN_IF_ERROR(fetch(begin_byte, data));
  // Not through the map: a full disk is an error here and a signal there.
  for (size_t done = 0; done < data.size();) {
    const ssize_t count = pwrite(data_, data.data() + done, data.size() - done,
                                 static_cast<off_t>(begin_byte + done));
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return Failed("write", path_);
    done += static_cast<size_t>(count);
  }
  const std::string present(end - first, static_cast<char>(kPresent));
  if (pwrite(have_, present.data(), present.size(), static_cast<off_t>(have_offset_ + first)) !=
      static_cast<ssize_t>(present.size())) {
    return Failed("write", path_ + ".have");
  }
  return absl::OkStatus();
}

}  // namespace pagoda::worker
