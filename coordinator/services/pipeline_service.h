// pagoda.internal.v1.Pipeline: one Attach stream per router, and the text side of models.
#pragma once

#include "coordinator/coordinator.h"
#include "pagoda/internal/v1/pipeline.grpc.pb.h"

namespace pagoda::coordinator {

class PipelineService final : public ::pagoda::internal::v1::Pipeline::CallbackService {
 public:
  explicit PipelineService(Coordinator& coordinator) : coordinator_(coordinator) {}
  grpc::ServerBidiReactor<::pagoda::internal::v1::RouterMessage, ::pagoda::internal::v1::CoordinatorMessage>* Attach(
      grpc::CallbackServerContext* context) override;
  grpc::ServerWriteReactor<::pagoda::internal::v1::TextBundleChunk>* GetTextBundle(
      grpc::CallbackServerContext* context, const ::pagoda::internal::v1::TextBundleRequest* request) override;

 private:
  Coordinator& coordinator_;
};

}  // namespace pagoda::coordinator
