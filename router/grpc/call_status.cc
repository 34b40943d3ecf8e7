#include "router/grpc/call_status.h"

#include "pagoda/internal/v1/status_details.pb.h"
#include "router/request_status.h"

namespace pagoda::router {
namespace {

void AddDetail(const google::protobuf::Message& detail, const char* name, internal::v1::StatusDetails& details) {
  google::protobuf::Any* any = details.add_details();
  any->set_type_url(std::string("type.googleapis.com/google.rpc.") + name);
  detail.SerializeToString(any->mutable_value());
}

}  // namespace

grpc::Status ToGrpc(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  internal::v1::StatusDetails details;
  details.set_code(static_cast<int>(status.code()));
  details.set_message(std::string(status.message()));
  if (const auto retry_ms = RetryAfterMsOf(status)) {
    internal::v1::RetryInfo retry;
    retry.mutable_retry_delay()->set_seconds(*retry_ms / 1000);
    retry.mutable_retry_delay()->set_nanos(static_cast<int>(*retry_ms % 1000 * 1'000'000));
    AddDetail(retry, "RetryInfo", details);
  }
  if (const auto field = ParamOf(status); field && absl::IsInvalidArgument(status)) {
    internal::v1::BadRequest bad;
    auto* violation = bad.add_field_violations();
    violation->set_field(*field);
    violation->set_description(std::string(status.message()));
    AddDetail(bad, "BadRequest", details);
  }
  return grpc::Status(static_cast<grpc::StatusCode>(status.code()), std::string(status.message()),
                      details.details().empty() ? std::string() : details.SerializeAsString());
}

void AddRetryTrailers(const absl::Status& status, grpc::CallbackServerContext* context) {
  const auto retry_ms = RetryAfterMsOf(status);
  if (!retry_ms) return;
  for (const char* name : {"retry-after-ms", "grpc-retry-pushback-ms"})
    context->AddTrailingMetadata(name, std::to_string(*retry_ms));
}

int CountedCode(const absl::Status& status, bool client_deadline) {
  return client_deadline && absl::IsDeadlineExceeded(status) ? 499 : HttpStatusOf(status);
}

}  // namespace pagoda::router
