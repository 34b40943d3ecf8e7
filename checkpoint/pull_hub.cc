// hf://: the files of one revision, into a folder named by its commit.
#include <algorithm>
#include <filesystem>

#include "checkpoint/hub_download.h"
#include "checkpoint/path_names.h"
#include "checkpoint/pull_sources.h"
#include "checkpoint/strict_json.h"

namespace pagoda::checkpoint {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMaxListBytes = 64u << 20;
constexpr std::string_view kSmallFiles[] = {"config.json",
                                            "tokenizer.json",
                                            "tokenizer_config.json",
                                            "special_tokens_map.json",
                                            "generation_config.json",
                                            "chat_template.jinja"};

struct Listing {
  std::string commit;
  std::vector<std::string> files;  // at the top; others are of no use here
};

absl::StatusOr<Listing> ParseListing(const std::string& text) {
  PAGODA_ASSIGN_OR_RETURN(const Json json, ParseJsonObject(text, "the hub's list of files"));
  JsonSettings settings(json, "the hub's list of files");
  Listing listing;
  listing.commit = settings.String("sha", "");
  const Json* siblings = settings.Find("siblings");
  if (!IsPathComponent(listing.commit) || listing.commit[0] == '.' || siblings == nullptr ||
      !siblings->is_array()) {
    return absl::InvalidArgumentError(
        "the hub's list of files has no sha or no siblings; is this a model hub?");
  }
  for (const Json& sibling : *siblings) {
    const auto name = sibling.is_object() ? sibling.find("rfilename") : sibling.end();
    if (!sibling.is_object() || name == sibling.end() || !name->is_string()) continue;
    if (IsPathComponent(name->get<std::string>()))
      listing.files.push_back(name->get<std::string>());
  }
  return listing;
}

// What of a repository makes the model: its weights in safetensors with the small files, or its one
// GGUF file.
absl::StatusOr<std::vector<std::string>> Choose(const Listing& listing,
                                                const ModelReference& reference) {
  const auto has = [&](std::string_view name) {
    return std::find(listing.files.begin(), listing.files.end(), name) != listing.files.end();
  };
  const std::string repository = absl::StrCat(reference.organisation, "/", reference.name);
  if (!reference.file.empty()) {
    if (has(reference.file)) return std::vector<std::string>{reference.file};
    return absl::NotFoundError(absl::StrCat(repository, " has no file ", reference.file));
  }
  std::vector<std::string> chosen;
  std::vector<std::string> ggufs;
  const bool single = has("model.safetensors");
  const bool sharded = has("model.safetensors.index.json");
  for (const std::string& file : listing.files) {
    const bool small =
        std::find(std::begin(kSmallFiles), std::end(kSmallFiles), file) != std::end(kSmallFiles);
    const bool weights = single
                             ? file == "model.safetensors"
                             : file == "model.safetensors.index.json" ||
                                   (file.starts_with("model-") && file.ends_with(".safetensors"));
    if (small || weights) chosen.push_back(file);
    if (file.ends_with(".gguf")) ggufs.push_back(file);
  }
  if ((single || sharded) && has("config.json")) return chosen;
  if (ggufs.size() == 1) return ggufs;
  std::string names;
  for (const std::string& name : ggufs) absl::StrAppend(&names, names.empty() ? "" : ", ", name);
  return absl::NotFoundError(
      ggufs.empty()
          ? absl::StrCat(repository, " has neither config.json with safetensors nor a .gguf file")
          : absl::StrCat(repository, " has several .gguf files; name one as hf://", repository,
                         "/FILE: ", names));
}

// All at once when nothing is there yet; else one by one, config.json last, which is what makes a
// folder a model.
absl::Status MoveInto(const std::string& staging, const std::string& target,
                      std::vector<std::string> files) {
  std::error_code error;
  if (!fs::exists(target, error)) return ReplaceFolder(staging, target);
  std::sort(files.begin(), files.end(), [](const std::string& a, const std::string& b) {
    return (a == "config.json") < (b == "config.json");
  });
  for (const std::string& file : files) {
    fs::rename(staging + "/" + file, target + "/" + file, error);
    if (error)
      return absl::UnavailableError(
          absl::StrCat("cannot move ", file, " to ", target, ": ", error.message()));
  }
  fs::remove_all(staging, error);
  return absl::OkStatus();
}

absl::Status DownloadAll(const HubClient& hub, const std::string& prefix,
                         const std::vector<std::string>& files, const std::string& staging,
                         const PullOptions& options) {
  PAGODA_RETURN_IF_ERROR(MakeFolders(staging));
  for (size_t i = 0; i < files.size(); ++i) {
    const std::string path = absl::StrCat(staging, "/", files[i]);
    std::error_code error;
    if (fs::exists(path, error)) continue;  // whole and verified, from a pull that was stopped
    const auto progress = [&](uint64_t done, uint64_t total) {
      if (!options.progress) return;
      options.progress(
          {files[i], done, total, static_cast<int>(i) + 1, static_cast<int>(files.size())});
    };
    const absl::Status status = hub.Download(prefix + files[i], path, progress);
    if (!status.ok()) return Annotate(status, absl::StrCat("downloading ", files[i]));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::string> PullFromHub(const ModelReference& reference, const std::string& folder,
                                        const PullOptions& options) {
  PAGODA_ASSIGN_OR_RETURN(const HubClient hub, HubClient::Make(options));
  const std::string repository = absl::StrCat("/", reference.organisation, "/", reference.name);
  PAGODA_ASSIGN_OR_RETURN(
      const std::string text,
      hub.GetText(absl::StrCat("/api/models", repository, "/revision/", reference.revision),
                  kMaxListBytes));
  PAGODA_ASSIGN_OR_RETURN(const Listing listing, ParseListing(text));
  PAGODA_ASSIGN_OR_RETURN(std::vector<std::string> files, Choose(listing, reference));
  const std::string target = absl::StrCat(folder, "/", listing.commit);
  const std::string staging = target + ".partial";
  std::error_code error;
  std::vector<std::string> missing = files;
  std::erase_if(missing, [&](const std::string& file) {
    return fs::exists(absl::StrCat(target, "/", file), error);
  });
  if (!missing.empty()) {
    PAGODA_RETURN_IF_ERROR(DownloadAll(hub,
                                       absl::StrCat(repository, "/resolve/", listing.commit, "/"),
                                       missing, staging, options));
    PAGODA_RETURN_IF_ERROR(MoveInto(staging, target, missing));
  }
  PAGODA_RETURN_IF_ERROR(MakeFolders(folder + "/refs"));
  PAGODA_RETURN_IF_ERROR(
      ReplaceFile(absl::StrCat(folder, "/refs/", reference.revision), listing.commit + "\n"));
  if (!reference.file.empty()) return absl::StrCat(target, "/", reference.file);
  return ModelIn(target);
}

}  // namespace pagoda::checkpoint
