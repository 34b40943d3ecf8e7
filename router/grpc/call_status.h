// How a refused or ended call looks to a gRPC client: the status with google.rpc.RetryInfo or BadRequest in its details, and
// the trailers `retry-after-ms` and `grpc-retry-pushback-ms` (gRFC A6).
#pragma once

#include <grpcpp/grpcpp.h>

#include "common/status.h"

namespace pagoda::router {

grpc::Status ToGrpc(const absl::Status& status);

// Before the call is finished.
void AddRetryTrailers(const absl::Status& status, grpc::CallbackServerContext* context);

// The HTTP code under which a gRPC call is counted. A deadline that the client set is the client's: 499, as if it had
// hung up; one that this server set is 504.
int CountedCode(const absl::Status& status, bool client_deadline);

}  // namespace pagoda::router
