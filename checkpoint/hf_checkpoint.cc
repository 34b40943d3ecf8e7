// A Hugging Face folder to an OpenedModel: config.json, one or more safetensors files, and what
// text/ wants.
#include <algorithm>
#include <filesystem>
#include <map>
#include <set>

#include "checkpoint/hf_config.h"
#include "checkpoint/opened_model.h"
#include "checkpoint/path_names.h"
#include "checkpoint/safetensors.h"
#include "checkpoint/strict_json.h"
#include "common/limits.h"

namespace pagoda::checkpoint {
namespace {

constexpr std::string_view kConfig = "config.json";
constexpr std::string_view kSingle = "model.safetensors";
constexpr std::string_view kIndex = "model.safetensors.index.json";
constexpr std::string_view kTextFiles[] = {kConfig,
                                           "tokenizer.json",
                                           "tokenizer_config.json",
                                           "special_tokens_map.json",
                                           "generation_config.json",
                                           "chat_template.jinja"};

bool IsSafetensors(std::string_view name) { return name.ends_with(".safetensors"); }

// tensor -> file, as the index says. File names are one path component each.
absl::StatusOr<std::map<std::string, std::string>> ParseIndex(std::string_view text) {
  PAGODA_ASSIGN_OR_RETURN(const Json json, ParseJsonObject(text, kIndex));
  const auto weights = json.find("weight_map");
  if (weights == json.end() || !weights->is_object() || weights->empty()) {
    return absl::InvalidArgumentError(absl::StrCat(AsAbsl(kIndex), " has no weight_map"));
  }
  std::map<std::string, std::string> map;
  for (const auto& [tensor, file] : weights->items()) {
    if (!file.is_string() || !IsPathComponent(file.get<std::string>()) ||
        !IsSafetensors(file.get<std::string>())) {
      return absl::InvalidArgumentError(
          absl::StrCat(AsAbsl(kIndex), ": the file of tensor ", tensor,
                       " is not the plain name of a .safetensors file in this folder"));
    }
    map.emplace(tensor, file.get<std::string>());
  }
  return map;
}

absl::StatusOr<Checkpoint::RemoteFile> OpenIn(const std::string& folder, const std::string& name) {
  PAGODA_ASSIGN_OR_RETURN(std::shared_ptr<ByteSource> source,
                          OpenFile(absl::StrCat(folder, "/", name)));
  return Checkpoint::RemoteFile{name, std::move(source)};
}

absl::Status NoWeights(const std::string& where) {
  return absl::NotFoundError(
      absl::StrCat(where, " has neither ", AsAbsl(kSingle), " nor ", AsAbsl(kIndex),
                   "; convert other formats (pytorch_model.bin) to safetensors first"));
}

using SourcesByName = std::map<std::string, std::shared_ptr<ByteSource>>;

void AddFile(std::string name, const std::shared_ptr<ByteSource>& source, uint64_t header_bytes,
             OpenedModel& model) {
  model.files.push_back({std::move(name), source->size()});
  model.sources.push_back(source);
  model.header_bytes.push_back(header_bytes);
}

absl::Status AddSmallFiles(const SourcesByName& sources, OpenedModel& model) {
  for (const std::string_view name : kTextFiles) {
    const auto found = sources.find(std::string(name));
    if (found == sources.end()) continue;
    PAGODA_ASSIGN_OR_RETURN(std::string text,
                            ReadWhole(*found->second, limits::kMaxModelTextFileBytes));
    model.bundle.push_back({std::string(name), std::move(text)});
    AddFile(std::string(name), found->second, found->second->size(), model);
  }
  return absl::OkStatus();
}

absl::Status AddShard(const std::string& name, const SourcesByName& sources, OpenedModel& model) {
  const auto found = sources.find(name);
  if (found == sources.end())
    return absl::NotFoundError(absl::StrCat("the model's file ", name, " is missing"));
  absl::StatusOr<SafetensorsHeader> header =
      ReadSafetensorsHeader(*found->second, static_cast<int>(model.files.size()));
  if (!header.ok()) return Annotate(header.status(), name);
  for (TensorInfo& tensor : header->tensors) model.tensors.push_back(std::move(tensor));
  AddFile(name, found->second, header->header_bytes, model);
  return absl::OkStatus();
}

// A tensor counts only in the file where the index has it. (A required one that is nowhere is found
// out later, by role.)
void KeepIndexed(const std::map<std::string, std::string>& index, OpenedModel& model) {
  std::erase_if(model.tensors, [&](const TensorInfo& tensor) {
    const auto found = index.find(tensor.name);
    return found == index.end() ||
           found->second != model.files[static_cast<size_t>(tensor.file)].name;
  });
}

absl::Status AddShards(const SourcesByName& sources, OpenedModel& model) {
  if (sources.contains(std::string(kSingle))) return AddShard(std::string(kSingle), sources, model);
  const auto found = sources.find(std::string(kIndex));
  if (found == sources.end()) return NoWeights("the model");
  PAGODA_ASSIGN_OR_RETURN(const std::string text,
                          ReadWhole(*found->second, limits::kMaxModelTextFileBytes));
  PAGODA_ASSIGN_OR_RETURN(const auto index, ParseIndex(text));
  AddFile(std::string(kIndex), found->second, found->second->size(), model);
  std::set<std::string> names;
  for (const auto& [tensor, file] : index) names.insert(file);
  if (names.size() > static_cast<size_t>(limits::kMaxModelFiles)) {
    return absl::InvalidArgumentError(absl::StrCat("the model is in ", names.size(),
                                                   " files; at most ", limits::kMaxModelFiles,
                                                   " are allowed"));
  }
  for (const std::string& name : names) PAGODA_RETURN_IF_ERROR(AddShard(name, sources, model));
  KeepIndexed(index, model);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::vector<Checkpoint::RemoteFile>> ListHuggingFaceFolder(
    const std::string& folder) {
  std::vector<Checkpoint::RemoteFile> files;
  std::set<std::string> names;
  const auto exists = [&folder](std::string_view name) {
    std::error_code error;
    return std::filesystem::exists(std::filesystem::path(folder) / name, error);
  };
  for (const std::string_view name : kTextFiles) {
    if (exists(name)) names.emplace(name);
  }
  if (!names.contains(std::string(kConfig))) {
    return absl::NotFoundError(
        absl::StrCat(folder, " has no config.json: it is no Hugging Face model folder"));
  }
  if (exists(kSingle)) {
    names.emplace(kSingle);
  } else if (exists(kIndex)) {
    names.emplace(kIndex);
    PAGODA_ASSIGN_OR_RETURN(const Checkpoint::RemoteFile index,
                            OpenIn(folder, std::string(kIndex)));
    PAGODA_ASSIGN_OR_RETURN(const std::string text,
                            ReadWhole(*index.source, limits::kMaxModelTextFileBytes));
    PAGODA_ASSIGN_OR_RETURN(const auto map, ParseIndex(text));
    for (const auto& [tensor, file] : map) names.insert(file);
  } else {
    return NoWeights(folder);
  }
  for (const std::string& name : names) {
    PAGODA_ASSIGN_OR_RETURN(Checkpoint::RemoteFile file, OpenIn(folder, name));
    files.push_back(std::move(file));
  }
  return files;
}

absl::StatusOr<OpenedModel> OpenHuggingFace(std::vector<Checkpoint::RemoteFile> files) {
  SourcesByName sources;
  for (Checkpoint::RemoteFile& file : files) sources.emplace(file.name, std::move(file.source));
  OpenedModel model;
  model.naming = TensorNaming::kHuggingFace;
  PAGODA_RETURN_IF_ERROR(AddSmallFiles(sources, model));
  if (model.bundle.empty() || model.bundle[0].name != kConfig) {
    return absl::NotFoundError("the model has no config.json");
  }
  PAGODA_ASSIGN_OR_RETURN(model.spec, SpecFromConfigJson(model.bundle[0].bytes));
  PAGODA_RETURN_IF_ERROR(AddShards(sources, model));
  return model;
}

}  // namespace pagoda::checkpoint
