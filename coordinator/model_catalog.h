// The models that the coordinator has opened: headers and sizes for placement, bytes for workers that have none, the text
// side for routers. By reference and by digest. Thread-safe; opening blocks on the disk, so callers are gRPC's threads or the
// start of the process, never an engine.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "checkpoint/byte_source.h"
#include "checkpoint/checkpoint.h"
#include "common/mutex.h"
#include "common/status.h"
#include "coordinator/cluster_state.h"

namespace pagoda::coordinator {

class CatalogModel {
 public:
  const checkpoint::Checkpoint& checkpoint() const { return *checkpoint_; }
  const std::string& digest() const { return checkpoint_->digest(); }
  const std::shared_ptr<const ModelSizes>& sizes() const { return sizes_; }
  // kNotFound when the model has no such file.
  absl::StatusOr<std::shared_ptr<checkpoint::ByteSource>> OpenFile(const std::string& name) const;

 private:
  friend class ModelCatalog;
  std::string folder_;
  std::unique_ptr<checkpoint::Checkpoint> checkpoint_;
  std::shared_ptr<const ModelSizes> sizes_;
};

class ModelCatalog {
 public:
  // Turns a reference as deployed (a path, hf://..., pypi://...) into a local path.
  using Resolver = std::function<absl::StatusOr<std::string>(const std::string& reference)>;
  explicit ModelCatalog(Resolver resolver) : resolver_(std::move(resolver)) {}

  absl::StatusOr<std::shared_ptr<const CatalogModel>> Open(const std::string& reference);
  // kNotFound when no model of that digest was opened.
  absl::StatusOr<std::shared_ptr<const CatalogModel>> Find(const std::string& digest) const;

 private:
  const Resolver resolver_;
  mutable Mutex mutex_;
  std::map<std::string, std::shared_ptr<const CatalogModel>> by_digest_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace pagoda::coordinator
