// pagoda.internal.v1.Blob: the bytes of the models that the coordinator has.
#pragma once

#include "coordinator/model_catalog.h"
#include "pagoda/internal/v1/blob.grpc.pb.h"

namespace pagoda::coordinator {

class BlobService final : public ::pagoda::internal::v1::Blob::CallbackService {
 public:
  explicit BlobService(ModelCatalog& catalog) : catalog_(catalog) {}
  grpc::ServerUnaryReactor* ListFiles(grpc::CallbackServerContext* context,
                                      const ::pagoda::internal::v1::ListFilesRequest* request,
                                      ::pagoda::internal::v1::ListFilesResponse* response) override;
  grpc::ServerWriteReactor<::pagoda::internal::v1::ReadRangeChunk>* ReadRange(
      grpc::CallbackServerContext* context, const ::pagoda::internal::v1::ReadRangeRequest* request) override;

 private:
  ModelCatalog& catalog_;
};

}  // namespace pagoda::coordinator
