#include "router/request_status.h"

#include "absl/strings/cord.h"
#include "absl/strings/numbers.h"

namespace pagoda::router {
namespace {

constexpr char kParamUrl[] = "pagoda/param";
constexpr char kCodeUrl[] = "pagoda/code";
constexpr char kRetryUrl[] = "pagoda/retry-after-ms";
constexpr int64_t kRetryAfterMs = 1000;  // told to clients, where nothing better is known

std::optional<std::string> Payload(const absl::Status& status, const char* url) {
  const auto payload = status.GetPayload(url);
  if (!payload.has_value()) return std::nullopt;
  return std::string(*payload);
}

absl::Status With(absl::Status status, const char* url, std::string_view value) {
  status.SetPayload(url, absl::Cord(AsAbsl(value)));
  return status;
}

}  // namespace

absl::Status InvalidField(std::string_view param, std::string_view message) {
  return WithParam(
      absl::InvalidArgumentError(absl::StrCat("'", AsAbsl(param), "' ", AsAbsl(message))), param);
}

absl::Status ModelNotFound(std::string_view model) {
  return WithCode(WithParam(absl::NotFoundError(
                                absl::StrCat("the model '", AsAbsl(model), "' is not served here")),
                            "model"),
                  "model_not_found");
}

absl::Status WithCode(absl::Status status, std::string_view code) {
  return With(std::move(status), kCodeUrl, code);
}
absl::Status WithParam(absl::Status status, std::string_view param) {
  return With(std::move(status), kParamUrl, param);
}
absl::Status WithRetryAfter(absl::Status status, int64_t retry_after_ms) {
  return With(std::move(status), kRetryUrl, std::to_string(retry_after_ms));
}

std::optional<std::string> CodeOf(const absl::Status& status) { return Payload(status, kCodeUrl); }
std::optional<std::string> ParamOf(const absl::Status& status) {
  return Payload(status, kParamUrl);
}

std::optional<int64_t> RetryAfterMsOf(const absl::Status& status) {
  const auto text = Payload(status, kRetryUrl);
  int64_t value = 0;
  if (!text || !absl::SimpleAtoi(*text, &value)) return std::nullopt;
  return value;
}

int HttpStatusOf(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kOk:
      return 200;
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kOutOfRange:
      return 400;
    case absl::StatusCode::kUnauthenticated:
      return 401;
    case absl::StatusCode::kPermissionDenied:
      return 403;
    case absl::StatusCode::kNotFound:
      return 404;
    case absl::StatusCode::kAlreadyExists:
      return 409;
    case absl::StatusCode::kResourceExhausted:
      return 429;
    case absl::StatusCode::kCancelled:
      return 499;
    case absl::StatusCode::kUnimplemented:
      return 501;
    case absl::StatusCode::kUnavailable:
      return 503;
    case absl::StatusCode::kDeadlineExceeded:
      return 504;
    default:
      return 500;
  }
}

absl::Status NoPipelineError() {
  return WithCode(WithRetryAfter(absl::UnavailableError("no pipeline of this model takes work now"), kRetryAfterMs), "loading");
}

absl::Status ModelChangedError(std::string_view model) {
  return WithCode(WithRetryAfter(absl::UnavailableError(absl::StrCat(
                                     "the model that this stream began with is not served any more: another one was deployed as '",
                                     AsAbsl(model), "'; ask again")),
                                 kRetryAfterMs),
                  "model_changed");
}

}  // namespace pagoda::router
