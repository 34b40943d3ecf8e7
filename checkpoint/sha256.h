// SHA-256 of a stream of bytes. One thread at a time.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "common/status.h"

namespace pagoda::checkpoint {

class Sha256 {
 public:
  Sha256();
  ~Sha256();
  void Update(std::span<const std::byte> bytes);
  void Update(std::string_view text);
  // Prefixed with its length, so that two fields never run into each other.
  void UpdateField(std::string_view text);
  std::string FinishHex();  // once; 64 lower-case digits

 private:
  struct State;
  std::unique_ptr<State> state_;
};

absl::StatusOr<std::string> Sha256OfFile(const std::string& path);
// What git names a file's content by: SHA-1 over "blob <size>\0" and the bytes.
absl::StatusOr<std::string> GitBlobIdOfFile(const std::string& path);

}  // namespace pagoda::checkpoint
