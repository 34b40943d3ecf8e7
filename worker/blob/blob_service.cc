#include "worker/blob/blob_service.h"

#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <filesystem>

#include "common/limits.h"
#include "pagoda/internal/v1/blob.grpc.pb.h"

namespace pagoda::worker {
namespace {

namespace filesystem = std::filesystem;
namespace v1 = ::pagoda::internal::v1;

absl::StatusOr<std::vector<filesystem::path>> PlainFiles(const std::string& path) {
  std::error_code error;
  if (filesystem::is_regular_file(path, error)) return std::vector<filesystem::path>{path};
  std::vector<filesystem::path> files;
  for (filesystem::directory_iterator entry(path, error), end; !error && entry != end;
       entry.increment(error)) {
    std::error_code ignored;
    const bool hidden = entry->path().filename().string().starts_with('.');
    if (!hidden && entry->is_regular_file(ignored)) files.push_back(entry->path());
    if (files.size() > static_cast<size_t>(limits::kMaxModelFiles)) {
      return absl::ResourceExhaustedError(
          absl::StrCat(path, " holds over ", limits::kMaxModelFiles, " files"));
    }
  }
  if (error) return absl::NotFoundError(absl::StrCat("cannot list ", path, ": ", error.message()));
  return files;
}

grpc::Status ToGrpc(const absl::Status& status) {
  // The codes of both are the same numbers.
  return {static_cast<grpc::StatusCode>(status.code()), std::string(AsStd(status.message()))};
}

class BlobService final : public v1::Blob::Service {
 public:
  BlobService(std::shared_ptr<const BlobCatalog> catalog, std::shared_ptr<const KvWindow> kv)
      : catalog_(std::move(catalog)), kv_(std::move(kv)) {}

  grpc::Status ListFiles(grpc::ServerContext*, const v1::ListFilesRequest* request,
                         v1::ListFilesResponse* response) override {
    const auto files = catalog_->List(request->model_digest());
    if (!files.ok()) return ToGrpc(files.status());
    for (const BlobCatalog::File& file : *files) {
      v1::BlobFile* listed = response->add_files();
      listed->set_name(file.name);
      listed->set_size(file.size);
    }
    return grpc::Status::OK;
  }

  grpc::Status ReadRange(grpc::ServerContext* context, const v1::ReadRangeRequest* request,
                         grpc::ServerWriter<v1::ReadRangeChunk>* writer) override {
    const auto source = catalog_->Open(request->model_digest(), request->file());
    if (!source.ok()) return ToGrpc(source.status());
    const uint64_t size = (*source)->size();
    uint64_t offset = request->offset();
    uint64_t left = request->length();
    if (offset > size || left > size - offset) {
      return ToGrpc(
          absl::OutOfRangeError(absl::StrCat(request->file(), " has ", size, " bytes; ", left,
                                             " at offset ", offset, " go past its end")));
    }
    v1::ReadRangeChunk chunk;
    while (left > 0 && !context->IsCancelled()) {
      const size_t count = static_cast<size_t>(std::min<uint64_t>(left, limits::kBlobChunkBytes));
      std::string* data = chunk.mutable_data();
      data->resize(count);
      const absl::Status read =
          (*source)->Read(offset, {reinterpret_cast<std::byte*>(data->data()), count});
      if (!read.ok()) return ToGrpc(read);
      if (!writer->Write(chunk)) break;  // the reader is gone
      offset += count;
      left -= count;
    }
    return left == 0 ? grpc::Status::OK
                     : grpc::Status(grpc::StatusCode::CANCELLED, "the reader is gone");
  }

  grpc::Status ReadKvBlocks(grpc::ServerContext* context, const v1::ReadKvBlocksRequest* request,
                            grpc::ServerWriter<v1::ReadKvBlocksChunk>* writer) override {
    if (kv_ == nullptr) return {grpc::StatusCode::UNIMPLEMENTED, "no KV blocks here"};
    const Epoch epoch(request->epoch());
    const absl::Status known = kv_->Check(epoch, std::as_bytes(std::span(request->link_token())),
                                          {.shard_digest = request->shard_digest(),
                                           .kv_cache_type = request->kv_cache_type(),
                                           .block_tokens = request->block_tokens(),
                                           .block_bytes = request->block_bytes()});
    if (!known.ok()) return ToGrpc(known);
    std::vector<std::byte> block(request->block_bytes());
    v1::ReadKvBlocksChunk chunk;
    for (const int32_t id : request->blocks()) {
      if (const absl::Status read = kv_->Read(epoch, id, block); !read.ok()) return ToGrpc(read);
      for (size_t offset = 0; offset < block.size(); offset += limits::kBlobChunkBytes) {
        const size_t count = std::min(block.size() - offset, limits::kBlobChunkBytes);
        chunk.set_data(block.data() + offset, count);
        if (context->IsCancelled() || !writer->Write(chunk)) return {grpc::StatusCode::CANCELLED, "the reader is gone"};
      }
    }
    return grpc::Status::OK;
  }

 private:
  const std::shared_ptr<const BlobCatalog> catalog_;
  const std::shared_ptr<const KvWindow> kv_;
};

}  // namespace

absl::Status BlobCatalog::Add(const std::string& model_digest, const std::string& path) {
  PAGODA_ASSIGN_OR_RETURN(const std::vector<filesystem::path> paths, PlainFiles(path));
  Files files;
  for (const filesystem::path& file : paths) {
    PAGODA_ASSIGN_OR_RETURN(files[file.filename().string()], checkpoint::OpenFile(file.string()));
  }
  if (files.empty()) return absl::NotFoundError(absl::StrCat(path, " holds no files to serve"));
  std::lock_guard lock(mutex_);
  models_[model_digest] = std::move(files);
  return absl::OkStatus();
}

void BlobCatalog::Remove(const std::string& model_digest) {
  std::lock_guard lock(mutex_);
  models_.erase(model_digest);
}

absl::StatusOr<std::vector<BlobCatalog::File>> BlobCatalog::List(
    const std::string& model_digest) const {
  std::lock_guard lock(mutex_);
  const auto model = models_.find(model_digest);
  if (model == models_.end())
    return absl::NotFoundError(absl::StrCat("no model with digest ", model_digest, " here"));
  std::vector<File> files;
  for (const auto& [name, source] : model->second)
    files.push_back({.name = name, .size = source->size()});
  return files;
}

absl::StatusOr<std::shared_ptr<checkpoint::ByteSource>> BlobCatalog::Open(
    const std::string& model_digest, const std::string& name) const {
  std::lock_guard lock(mutex_);
  const auto model = models_.find(model_digest);
  if (model == models_.end())
    return absl::NotFoundError(absl::StrCat("no model with digest ", model_digest, " here"));
  const auto file = model->second.find(name);
  if (file == model->second.end())
    return absl::NotFoundError(absl::StrCat("the model has no file of that name"));
  return file->second;
}

std::unique_ptr<grpc::Service> MakeBlobService(std::shared_ptr<const BlobCatalog> catalog, std::shared_ptr<const KvWindow> kv) {
  return std::make_unique<BlobService>(std::move(catalog), std::move(kv));
}

}  // namespace pagoda::worker
