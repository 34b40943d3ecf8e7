#include "checkpoint/byte_source.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

namespace pagoda::checkpoint {
namespace {

// Asking the kernel to read ahead pays from about here on.
constexpr uint64_t kReadAheadBytes = 1u << 20;

std::string ErrnoText(int error) {
  char buffer[128];
  return strerror_r(error, buffer, sizeof(buffer));
}

// Map() gives pages of the file: the file must not be cut while a model is served from it (the
// kernel would end the process). The cache folder only ever renames whole files into place, so that
// holds there.
class MappedFile final : public ByteSource {
 public:
  MappedFile(std::string path, int descriptor, uint64_t size, void* base)
      : path_(std::move(path)), descriptor_(descriptor), size_(size), base_(base) {}
  ~MappedFile() override {
    if (base_ != nullptr) munmap(base_, size_);
    close(descriptor_);
  }
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  uint64_t size() const override { return size_; }
  std::string name() const override { return path_; }

  absl::Status Read(uint64_t offset, std::span<std::byte> out) const override {
    if (offset > size_ || out.size() > size_ - offset) return PastTheEnd(offset, out.size());
    while (!out.empty()) {
      const ssize_t count = pread(descriptor_, out.data(), out.size(), static_cast<off_t>(offset));
      if (count < 0 && errno == EINTR) continue;
      if (count < 0) {
        return absl::UnavailableError(absl::StrCat("cannot read ", path_, ": ", ErrnoText(errno)));
      }
      if (count == 0) return PastTheEnd(offset, out.size());
      out = out.subspan(static_cast<size_t>(count));
      offset += static_cast<uint64_t>(count);
    }
    return absl::OkStatus();
  }

  const std::byte* Map(uint64_t offset, uint64_t length) const override {
    if (base_ == nullptr || offset > size_ || length > size_ - offset) return nullptr;
    const std::byte* data = static_cast<const std::byte*>(base_) + offset;
    if (length >= kReadAheadBytes) {
      const uint64_t page = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
      const uint64_t begin = offset / page * page;
      madvise(static_cast<std::byte*>(base_) + begin, offset + length - begin, MADV_WILLNEED);
    }
    return data;
  }

  void Release(uint64_t offset, uint64_t length) const override {
    if (base_ == nullptr || offset > size_ || length > size_ - offset) return;
    // Whole pages only: others may be reading what lies beside.
    const uint64_t page = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
    const uint64_t begin = (offset + page - 1) / page * page, end = (offset + length) / page * page;
    if (begin < end) madvise(static_cast<std::byte*>(base_) + begin, end - begin, MADV_DONTNEED);
  }

 private:
  absl::Status PastTheEnd(uint64_t offset, uint64_t count) const {
    return absl::OutOfRangeError(absl::StrCat(path_, " has ", size_, " bytes; ", count,
                                              " at offset ", offset, " go past its end"));
  }

  const std::string path_;
  const int descriptor_;
  const uint64_t size_;
  void* const base_;
};

}  // namespace

absl::StatusOr<std::shared_ptr<ByteSource>> OpenFile(const std::string& path) {
  const int descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) {
    const std::string message = absl::StrCat("cannot open ", path, ": ", ErrnoText(errno));
    return errno == ENOENT ? absl::NotFoundError(message) : absl::PermissionDeniedError(message);
  }
  struct stat info = {};
  if (fstat(descriptor, &info) != 0 || !S_ISREG(info.st_mode)) {
    close(descriptor);
    return absl::InvalidArgumentError(absl::StrCat(path, " is not a regular file"));
  }
  const uint64_t size = static_cast<uint64_t>(info.st_size);
  void* base = nullptr;
  if (size > 0) {
    base = mmap(nullptr, size, PROT_READ, MAP_SHARED, descriptor, 0);
    if (base == MAP_FAILED) base = nullptr;  // Read() still works
  }
  return std::make_shared<MappedFile>(path, descriptor, size, base);
}

}  // namespace pagoda::checkpoint
