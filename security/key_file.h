// A file of API keys that may change while a process runs: keys as they were last read well, and the check of a header
// against them. Without a file everything is admitted. Thread rule: any thread.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <string_view>

#include "absl/base/thread_annotations.h"
#include "common/mutex.h"
#include "security/key_ring.h"

namespace pagoda::security {

class KeyFile {
 public:
  // Empty path: open. Nothing is read before Reload.
  explicit KeyFile(std::string path) : path_(std::move(path)) {}

  bool open() const { return path_.empty(); }
  // On an error the keys stay as they were.
  absl::Status Reload();
  // Reload if the file was changed since it was last read (a mounted secret changes without a word). True when it was read.
  bool ReloadIfChanged();

  // Of an Authorization header: the key, or null when this is open. kUnauthenticated: none or no such key;
  // kPermissionDenied: it has not this scope.
  absl::StatusOr<std::shared_ptr<const ApiKey>> Admit(std::string_view authorization, Scope scope) const;
  // Null when open.
  std::shared_ptr<const KeyRing> ring() const;

 private:
  const std::string path_;
  mutable Mutex mutex_;
  std::shared_ptr<const KeyRing> keys_ ABSL_GUARDED_BY(mutex_);
  std::filesystem::file_time_type read_change_ ABSL_GUARDED_BY(mutex_);
  bool missing_ ABSL_GUARDED_BY(mutex_) = false;  // said once
};

}  // namespace pagoda::security
