#include "coordinator/model_catalog.h"

#include <filesystem>

namespace pagoda::coordinator {

absl::StatusOr<std::shared_ptr<checkpoint::ByteSource>> CatalogModel::OpenFile(const std::string& name) const {
  for (const checkpoint::ModelFile& file : checkpoint_->files()) {
    if (file.name == name) return checkpoint::OpenFile((std::filesystem::path(folder_) / name).string());
  }
  return absl::NotFoundError(absl::StrCat("the model has no file '", name, "'"));
}

absl::StatusOr<std::shared_ptr<const CatalogModel>> ModelCatalog::Open(const std::string& reference) {
  PAGODA_ASSIGN_OR_RETURN(const std::string path, resolver_(reference));
  auto model = std::make_shared<CatalogModel>();
  PAGODA_ASSIGN_OR_RETURN(model->checkpoint_, checkpoint::Checkpoint::Open(path));
  std::error_code error;
  const bool folder = std::filesystem::is_directory(path, error);
  model->folder_ = folder ? path : std::filesystem::path(path).parent_path().string();
  PAGODA_ASSIGN_OR_RETURN(ModelSizes sizes, MeasureModel(*model->checkpoint_));
  model->sizes_ = std::make_shared<const ModelSizes>(std::move(sizes));
  MutexLock lock(&mutex_);
  by_digest_[model->digest()] = model;
  return model;
}

absl::StatusOr<std::shared_ptr<const CatalogModel>> ModelCatalog::Find(const std::string& digest) const {
  MutexLock lock(&mutex_);
  const auto found = by_digest_.find(digest);
  if (found == by_digest_.end()) {
    return absl::NotFoundError(absl::StrCat("no model of digest ", digest, " is deployed here"));
  }
  return found->second;
}

}  // namespace pagoda::coordinator
