#include "coordinator/services/blob_service.h"

#include "common/limits.h"
#include "coordinator/services/chunk_writer.h"

namespace pagoda::coordinator {

namespace wire = ::pagoda::internal::v1;

grpc::ServerUnaryReactor* BlobService::ListFiles(grpc::CallbackServerContext* context, const wire::ListFilesRequest* request,
                                                 wire::ListFilesResponse* response) {
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  const auto model = catalog_.Find(request->model_digest());
  if (!model.ok()) {
    reactor->Finish(ToGrpc(model.status()));
    return reactor;
  }
  for (const checkpoint::ModelFile& file : (*model)->checkpoint().files()) {
    auto* added = response->add_files();
    added->set_name(file.name);
    added->set_size(file.size);
  }
  reactor->Finish(grpc::Status::OK);
  return reactor;
}

grpc::ServerWriteReactor<wire::ReadRangeChunk>* BlobService::ReadRange(grpc::CallbackServerContext*,
                                                                       const wire::ReadRangeRequest* request) {
  const auto fail = [](const absl::Status& status) {
    return ChunkWriter<wire::ReadRangeChunk>::Start(
        [status](wire::ReadRangeChunk&) -> absl::StatusOr<bool> { return status; });
  };
  const auto model = catalog_.Find(request->model_digest());
  if (!model.ok()) return fail(model.status());
  const auto source = (*model)->OpenFile(request->file());
  if (!source.ok()) return fail(source.status());
  const uint64_t size = (*source)->size();
  if (request->offset() > size || request->length() > size - request->offset()) {
    return fail(absl::OutOfRangeError(absl::StrCat("bytes ", request->offset(), " + ", request->length(), " of '",
                                                   request->file(), "', which has ", size)));
  }
  return ChunkWriter<wire::ReadRangeChunk>::Start(
      [source = *source, offset = request->offset(), left = request->length()](
          wire::ReadRangeChunk& chunk) mutable -> absl::StatusOr<bool> {
        if (left == 0) return false;
        const uint64_t length = std::min<uint64_t>(limits::kBlobChunkBytes, left);
        std::string* data = chunk.mutable_data();
        data->resize(length);
        PAGODA_RETURN_IF_ERROR(
            source->Read(offset, std::as_writable_bytes(std::span(data->data(), static_cast<size_t>(length)))));
        offset += length;
        left -= length;
        return true;
      });
}

}  // namespace pagoda::coordinator
