// Serves the bytes of the model files that this process has, by digest, file name and range, to
// workers that do not (proto/pagoda/internal/v1/blob.proto). A request never becomes a path: names
// are looked up among those added.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "checkpoint/byte_source.h"
#include "worker/kv/kv_window.h"

namespace grpc {
class Service;
}

namespace pagoda::worker {

// Which files there are. Safe from any thread.
class BlobCatalog {
 public:
  struct File {
    std::string name;  // within the model; what requests say
    uint64_t size = 0;
  };

  // `path` is a file (a GGUF), listed by its name, or a folder, whose plain visible files are
  // listed. Replaces what was known of this digest. kNotFound when there is nothing to serve.
  absl::Status Add(const std::string& model_digest, const std::string& path);
  void Remove(const std::string& model_digest);

  absl::StatusOr<std::vector<File>> List(const std::string& model_digest) const;
  absl::StatusOr<std::shared_ptr<checkpoint::ByteSource>> Open(const std::string& model_digest,
                                                               const std::string& name) const;

 private:
  using Files = std::map<std::string, std::shared_ptr<checkpoint::ByteSource>>;  // by name

  mutable std::mutex mutex_;
  std::map<std::string, Files> models_;  // guarded by mutex_
};

// The gRPC service over a catalog, for ServerBuilder::RegisterService. Must outlive the server. `kv`: the KV blocks of the epoch
// under way, for ReadKvBlocks; null: there are none.
std::unique_ptr<grpc::Service> MakeBlobService(std::shared_ptr<const BlobCatalog> catalog,
                                               std::shared_ptr<const KvWindow> kv = nullptr);

}  // namespace pagoda::worker
