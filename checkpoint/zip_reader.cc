#include "checkpoint/zip_reader.h"

#include <unistd.h>
#include <zlib.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <span>

namespace pagoda::checkpoint {
namespace {

constexpr uint32_t kEndMagic = 0x06054b50, kCentralMagic = 0x02014b50, kLocalMagic = 0x04034b50;
constexpr uint64_t kEndBytes = 22, kCentralBytes = 46, kLocalBytes = 30;
constexpr uint64_t kMaxCommentBytes = 65535;
constexpr uint64_t kMaxCentralBytes = 64u << 20;
constexpr size_t kChunkBytes = 256u << 10;
constexpr uint16_t kStored = 0, kDeflated = 8;
constexpr uint16_t kEncryptedFlag = 1;

absl::Status Malformed(std::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("the zip archive ", AsAbsl(what)));
}

template <typename T>
T Get(const std::string& bytes, size_t offset) {
  T value;
  std::memcpy(&value, bytes.data() + offset, sizeof(value));
  return value;
}

absl::StatusOr<std::string> ReadRange(const ByteSource& archive, uint64_t offset, uint64_t length) {
  if (offset > archive.size() || length > archive.size() - offset) return Malformed("was cut");
  std::string bytes(length, '\0');
  PAGODA_RETURN_IF_ERROR(archive.Read(offset, std::as_writable_bytes(std::span(bytes))));
  return bytes;
}

// The central directory and how many members it says it has.
struct Directory {
  std::string bytes;
  uint16_t count;
};

absl::StatusOr<Directory> ReadDirectory(const ByteSource& archive) {
  const uint64_t tail_bytes = std::min(archive.size(), kEndBytes + kMaxCommentBytes);
  PAGODA_ASSIGN_OR_RETURN(const std::string tail,
                          ReadRange(archive, archive.size() - tail_bytes, tail_bytes));
  for (size_t at = tail.size() < kEndBytes ? 0 : tail.size() - kEndBytes + 1; at-- > 0;) {
    if (Get<uint32_t>(tail, at) != kEndMagic) continue;
    const uint16_t count = Get<uint16_t>(tail, at + 10);
    const uint32_t size = Get<uint32_t>(tail, at + 12);
    const uint32_t offset = Get<uint32_t>(tail, at + 16);
    if (offset == 0xffffffffu || size == 0xffffffffu || count == 0xffffu)
      return Malformed("is zip64, which is not read");
    if (size > kMaxCentralBytes) return Malformed("has a directory that is too large");
    PAGODA_ASSIGN_OR_RETURN(std::string bytes, ReadRange(archive, offset, size));
    return Directory{std::move(bytes), count};
  }
  return Malformed("has no end: it was cut, or it is no zip archive");
}

// Writes what it gets, up to a size, and keeps the CRC.
class MemberFile {
 public:
  MemberFile(const std::string& path, uint64_t size)
      : path_(path), left_(size), file_(std::fopen(path.c_str(), "wbe")) {}
  ~MemberFile() {
    if (file_ != nullptr) std::fclose(file_);
    if (!finished_) std::remove(path_.c_str());
  }
  MemberFile(const MemberFile&) = delete;
  MemberFile& operator=(const MemberFile&) = delete;

  absl::Status Write(std::span<const unsigned char> bytes) {
    if (bytes.size() > left_) return Malformed("has a member that is larger than it says");
    left_ -= bytes.size();
    crc_ = crc32(crc_, bytes.data(), static_cast<uInt>(bytes.size()));
    if (file_ == nullptr || std::fwrite(bytes.data(), 1, bytes.size(), file_) != bytes.size()) {
      return absl::UnavailableError(absl::StrCat("cannot write ", path_, "; is the disk full?"));
    }
    return absl::OkStatus();
  }

  absl::Status Finish(uint32_t crc) {
    if (left_ != 0) return Malformed("has a member that is smaller than it says");
    if (crc_ != crc) return Malformed("has a member whose checksum is wrong");
    bool closed = false;
    if (file_ != nullptr) {
      const bool synced = std::fflush(file_) == 0 && fsync(fileno(file_)) == 0;
      closed = std::fclose(file_) == 0 && synced;
    }
    file_ = nullptr;
    if (!closed)
      return absl::UnavailableError(absl::StrCat("cannot write ", path_, "; is the disk full?"));
    finished_ = true;
    return absl::OkStatus();
  }

 private:
  const std::string path_;
  uint64_t left_;
  std::FILE* file_;
  uLong crc_ = 0;
  bool finished_ = false;
};

class Inflater {
 public:
  Inflater() { ready_ = inflateInit2(&stream_, -MAX_WBITS) == Z_OK; }
  ~Inflater() {
    if (ready_) inflateEnd(&stream_);
  }
  Inflater(const Inflater&) = delete;
  Inflater& operator=(const Inflater&) = delete;

  absl::Status Add(std::span<unsigned char> input, MemberFile& out) {
    if (!ready_) return absl::ResourceExhaustedError("zlib has no memory");
    stream_.next_in = input.data();
    stream_.avail_in = static_cast<uInt>(input.size());
    while (stream_.avail_in > 0 && !ended_) {
      stream_.next_out = buffer_.data();
      stream_.avail_out = static_cast<uInt>(buffer_.size());
      const int result = inflate(&stream_, Z_NO_FLUSH);
      if (result != Z_OK && result != Z_STREAM_END)
        return Malformed("has a member that cannot be inflated");
      ended_ = result == Z_STREAM_END;
      PAGODA_RETURN_IF_ERROR(
          out.Write(std::span(buffer_).first(buffer_.size() - stream_.avail_out)));
    }
    return absl::OkStatus();
  }

  // What the stream still holds when all input was given.
  absl::Status Finish(MemberFile& out) {
    while (!ended_) {
      stream_.next_out = buffer_.data();
      stream_.avail_out = static_cast<uInt>(buffer_.size());
      const int result = inflate(&stream_, Z_FINISH);
      ended_ = result == Z_STREAM_END;
      const size_t count = buffer_.size() - stream_.avail_out;
      if (!ended_ && (count == 0 || (result != Z_OK && result != Z_BUF_ERROR)))
        return Malformed("has a member that was cut");
      PAGODA_RETURN_IF_ERROR(out.Write(std::span(buffer_).first(count)));
    }
    return absl::OkStatus();
  }

 private:
  z_stream stream_ = {};
  std::vector<unsigned char> buffer_ = std::vector<unsigned char>(kChunkBytes);
  bool ready_ = false;
  bool ended_ = false;
};

}  // namespace

absl::StatusOr<std::vector<ZipMember>> ListZip(const ByteSource& archive) {
  PAGODA_ASSIGN_OR_RETURN(const Directory directory, ReadDirectory(archive));
  std::vector<ZipMember> members;
  size_t at = 0;
  for (int i = 0; i < directory.count; ++i) {
    if (directory.bytes.size() - at < kCentralBytes ||
        Get<uint32_t>(directory.bytes, at) != kCentralMagic) {
      return Malformed("has a directory that ends too early");
    }
    const uint16_t flags = Get<uint16_t>(directory.bytes, at + 8);
    ZipMember member;
    member.method = Get<uint16_t>(directory.bytes, at + 10);
    member.crc = Get<uint32_t>(directory.bytes, at + 16);
    member.compressed_bytes = Get<uint32_t>(directory.bytes, at + 20);
    member.bytes = Get<uint32_t>(directory.bytes, at + 24);
    const size_t name_bytes = Get<uint16_t>(directory.bytes, at + 28);
    const size_t extra_bytes = Get<uint16_t>(directory.bytes, at + 30);
    const size_t comment_bytes = Get<uint16_t>(directory.bytes, at + 32);
    member.header_offset = Get<uint32_t>(directory.bytes, at + 42);
    const size_t length = kCentralBytes + name_bytes + extra_bytes + comment_bytes;
    if (directory.bytes.size() - at < length)
      return Malformed("has a directory that ends too early");
    if ((flags & kEncryptedFlag) != 0) return Malformed("is encrypted");
    if (member.bytes == 0xffffffffu || member.compressed_bytes == 0xffffffffu)
      return Malformed("is zip64, which is not read");
    member.name = directory.bytes.substr(at + kCentralBytes, name_bytes);
    members.push_back(std::move(member));
    at += length;
  }
  return members;
}

absl::Status ExtractZipMember(const ByteSource& archive, const ZipMember& member,
                              const std::string& path) {
  PAGODA_ASSIGN_OR_RETURN(const std::string local,
                          ReadRange(archive, member.header_offset, kLocalBytes));
  if (Get<uint32_t>(local, 0) != kLocalMagic) return Malformed("has a member where there is none");
  uint64_t offset =
      member.header_offset + kLocalBytes + Get<uint16_t>(local, 26) + Get<uint16_t>(local, 28);
  if (offset > archive.size() || member.compressed_bytes > archive.size() - offset)
    return Malformed("was cut");
  if (member.method != kStored && member.method != kDeflated) {
    return Malformed(
        absl::StrCat("uses compression method ", member.method, "; stored and deflated are read"));
  }
  MemberFile file(path, member.bytes);
  Inflater inflater;
  std::vector<unsigned char> chunk(kChunkBytes);
  for (uint64_t left = member.compressed_bytes; left > 0;) {
    const std::span<unsigned char> part =
        std::span(chunk).first(std::min<uint64_t>(left, chunk.size()));
    PAGODA_RETURN_IF_ERROR(archive.Read(offset, std::as_writable_bytes(part)));
    PAGODA_RETURN_IF_ERROR(member.method == kStored ? file.Write(part) : inflater.Add(part, file));
    offset += part.size();
    left -= part.size();
  }
  if (member.method == kDeflated) PAGODA_RETURN_IF_ERROR(inflater.Finish(file));
  return file.Finish(member.crc);
}

}  // namespace pagoda::checkpoint
