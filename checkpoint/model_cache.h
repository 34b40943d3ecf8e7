// Where models live on this machine, and how a model is named. Layout under the root (default
// ~/.cache/pagoda):
//   models/<package>/<file>.gguf             of pypi://<package>; beside it `version`, what was
//   pulled models/<org>--<name>/<commit>/<files>    of hf://<org>/<name>;
//   models/<org>--<name>/refs/<revision> holds a commit
// Folders appear whole, by rename; what is unfinished is in a folder whose name ends in ".partial";
// `<folder>.lock` is held by whoever fills one. Every name from outside is one path component of
// [A-Za-z0-9._-]. Thread-safe; several processes may share a root.
#pragma once

#include <string>
#include <string_view>

#include "common/status.h"

namespace pagoda::checkpoint {

struct ModelReference {
  enum class Kind { kLocal, kHub, kPackage };
  Kind kind = Kind::kLocal;
  std::string path;          // kLocal
  std::string organisation;  // kHub
  std::string name;          // kHub, kPackage
  std::string file;          // kHub: one .gguf of many; empty: the folder's model
  std::string revision;  // kHub: "main" unless named; kPackage: version, or empty for the newest
};

// A local path | hf://org/name[/file.gguf][@revision] | pypi://name[==version].
absl::StatusOr<ModelReference> ParseModelReference(std::string_view text);
// ~/.cache/pagoda of this user.
absl::StatusOr<std::string> DefaultCacheFolder();

class ModelCache {
 public:
  explicit ModelCache(std::string root) : root_(std::move(root)) {}

  // The local path that Checkpoint::Open takes. kNotFound when it was never pulled; the message
  // says how.
  absl::StatusOr<std::string> Resolve(std::string_view reference) const;
  absl::StatusOr<std::string> Resolve(const ModelReference& reference) const;

  // models/<org>--<name> or models/<package>.
  std::string FolderOf(const ModelReference& reference) const;

 private:
  const std::string root_;
};

// Used by whoever fills the cache.
absl::Status MakeFolders(const std::string& path);
// Writes beside it, then renames over it.
absl::Status ReplaceFile(const std::string& path, std::string_view bytes);
// `from` becomes `to`; a folder that was at `to` is removed after.
absl::Status ReplaceFolder(const std::string& from, const std::string& to);
// The only .gguf in `folder`, or the folder when there is a config.json; kNotFound otherwise.
absl::StatusOr<std::string> ModelIn(const std::string& folder);

// Keeps other processes from filling the same folder; released by the destructor. Blocks while
// another holds it.
class FolderLock {
 public:
  static absl::StatusOr<FolderLock> Take(const std::string& folder);
  FolderLock(FolderLock&& other) noexcept : descriptor_(other.descriptor_) {
    other.descriptor_ = -1;
  }
  FolderLock& operator=(FolderLock&&) = delete;
  ~FolderLock();

 private:
  explicit FolderLock(int descriptor) : descriptor_(descriptor) {}
  int descriptor_;
};

}  // namespace pagoda::checkpoint
