// What a refused request tells its client, as an absl::Status with a few payloads: the field at
// fault, a short code of OpenAI's kind, how long to wait. Front ends turn it into an HTTP error
// body or a gRPC status.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "common/status.h"

namespace pagoda::router {

// kInvalidArgument about one field: "<param>: <message>".
absl::Status InvalidField(std::string_view param, std::string_view message);
absl::Status ModelNotFound(std::string_view model);

absl::Status WithCode(absl::Status status, std::string_view code);
absl::Status WithParam(absl::Status status, std::string_view param);
absl::Status WithRetryAfter(absl::Status status, int64_t retry_after_ms);

std::optional<std::string> CodeOf(const absl::Status& status);
std::optional<std::string> ParamOf(const absl::Status& status);
std::optional<int64_t> RetryAfterMsOf(const absl::Status& status);

// 400 for kInvalidArgument, 429 for kResourceExhausted, 503 for kUnavailable, ... (ecosystem
// conventions of gRPC gateways).
int HttpStatusOf(const absl::Status& status);

// Of a model that is served, by nothing that takes work at this moment.
absl::Status NoPipelineError();
// Of a stream whose model was replaced under its name.
absl::Status ModelChangedError(std::string_view model);

}  // namespace pagoda::router
