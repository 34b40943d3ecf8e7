// pagoda.internal.v1.WorkerControl: one stream per worker.
#pragma once

#include "coordinator/coordinator.h"
#include "pagoda/internal/v1/worker.grpc.pb.h"

namespace pagoda::coordinator {

class WorkerControlService final : public ::pagoda::internal::v1::WorkerControl::CallbackService {
 public:
  explicit WorkerControlService(Coordinator& coordinator) : coordinator_(coordinator) {}
  grpc::ServerBidiReactor<::pagoda::internal::v1::WorkerMessage, ::pagoda::internal::v1::WorkerCommand>* Attach(
      grpc::CallbackServerContext* context) override;

 private:
  Coordinator& coordinator_;
};

}  // namespace pagoda::coordinator
