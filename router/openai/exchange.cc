#include "router/openai/exchange.h"

#include <algorithm>

#include "common/clock.h"
#include "common/ids.h"
#include "common/limits.h"
#include "router/access_log.h"
#include "router/openai/json_output.h"
#include "router/request_status.h"

namespace pagoda::router::openai {
namespace {

std::string_view TypeOf(int http_status) {
  switch (http_status) {
    case 401:
      return "authentication_error";
    case 403:
      return "permission_error";
    case 429:
      return "rate_limit_error";
    case 503:
      return "service_unavailable_error";
    case 504:
      return "timeout_error";
    default:
      return http_status < 500 ? "invalid_request_error" : "server_error";
  }
}

// Of a status without a code of its own.
std::string_view DefaultCode(int http_status) {
  switch (http_status) {
    case 429:
      return "rate_limit_exceeded";
    case 501:
      return "not_implemented";
    case 503:
      return "overloaded";
    case 504:
      return "deadline_exceeded";
    default:
      return http_status >= 500 ? "server_error" : "";
  }
}

}  // namespace

std::string RequestIdFrom(std::string_view given) {
  const bool usable =
      !given.empty() && given.size() <= limits::kMaxRequestIdBytes &&
      std::ranges::all_of(given, [](unsigned char c) { return c > 0x20 && c < 0x7F; });
  return usable ? std::string(given) : RequestId::Random().ToString();
}

std::string ErrorBody(int http_status, std::string_view message, std::string_view param,
                      std::string_view code) {
  std::string body = "{\"error\":{\"message\":";
  AppendString(body, message);
  body += ",\"type\":";
  AppendString(body, TypeOf(http_status));
  body += ",\"param\":";
  if (param.empty())
    body += "null";
  else
    AppendString(body, param);
  body += ",\"code\":";
  if (code.empty())
    body += "null";
  else
    AppendString(body, code);
  body += "}}";
  return body;
}

std::string ErrorBody(const absl::Status& status) {
  const int http_status = HttpStatusOf(status);
  const std::string code = CodeOf(status).value_or(std::string(DefaultCode(http_status)));
  return ErrorBody(http_status, AsStd(status.message()), ParamOf(status).value_or(""), code);
}

Exchange::Exchange(std::shared_ptr<http::Request> request, std::shared_ptr<http::Response> response,
                   const char* endpoint, Metrics* metrics, bool access_log)
    : request_(std::move(request)),
      response_(std::move(response)),
      endpoint_(endpoint),
      metrics_(metrics),
      access_log_(access_log),
      id_(RequestIdFrom(request_->Header("x-request-id"))) {}

Exchange::~Exchange() {
  if (!ended_) Ended(499);
}

// The names are OpenAI's.
http::Headers Exchange::CommonHeaders() const {
  http::Headers headers{{"X-Request-Id", id_}};
  const auto add = [&](const std::string& what, const Gate::Left& left) {
    if (left.limit == 0) return;
    headers.emplace_back("x-ratelimit-limit-" + what, std::to_string(left.limit));
    headers.emplace_back("x-ratelimit-remaining-" + what, std::to_string(left.remaining));
    headers.emplace_back("x-ratelimit-reset-" + what, absl::StrCat(left.reset_ms, "ms"));
  };
  add("requests", standing.requests);
  add("tokens", standing.tokens);
  return headers;
}

void Exchange::Send(int status, std::string_view content_type, std::string body) {
  response_->Send(status, content_type, std::move(body), CommonHeaders());
  Ended(status);
}

void Exchange::Refuse(int status, std::string_view code, std::string_view message, http::Headers more) {
  code_ = code;
  http::Headers headers = CommonHeaders();
  headers.insert(headers.end(), more.begin(), more.end());
  response_->Send(status, "application/json", ErrorBody(status, message, "", code), std::move(headers));
  Ended(status);
}

void Exchange::SendError(const absl::Status& status) {
  const int http_status = HttpStatusOf(status);
  code_ = CodeOf(status).value_or(std::string(DefaultCode(http_status)));
  http::Headers headers = CommonHeaders();
  if (http_status == 401) headers.emplace_back("WWW-Authenticate", "Bearer realm=\"pagoda\"");
  if (const auto retry_ms = RetryAfterMsOf(status)) {
    headers.emplace_back("Retry-After",
                         std::to_string(std::max<int64_t>(1, (*retry_ms + 999) / 1000)));
    headers.emplace_back("retry-after-ms", std::to_string(*retry_ms));
  }
  // The same again would end the same: OpenAI's clients heed this.
  if (absl::IsAborted(status)) headers.emplace_back("x-should-retry", "false");
  response_->Send(http_status, "application/json", ErrorBody(status), std::move(headers));
  Ended(http_status);
}

void Exchange::StartEventStream() {
  http::Headers headers = CommonHeaders();
  headers.emplace_back("Cache-Control", "no-cache");
  headers.emplace_back("X-Accel-Buffering", "no");
  if (resumable) headers.emplace_back("Pagoda-Resumable", "1");
  response_->StartStream(200, "text/event-stream; charset=utf-8", std::move(headers));
}

void Exchange::EndEventStream(int logged_status) {
  response_->EndStream();
  Ended(logged_status);
}

void Exchange::Abandon(int logged_status) { Ended(logged_status); }

void Exchange::Ended(int status) {
  if (ended_) return;
  ended_ = true;
  if (reservation != nullptr) reservation->SetUsed(prompt_tokens + output_tokens);
  reservation.reset();
  const double seconds =
      static_cast<double>(NowNs() - request_->received_ns) / static_cast<double>(kNsPerSecond);
  const int counted = client_deadline && status == 504 ? 499 : status;
  metrics_->RequestEnded(endpoint_, counted, seconds);
  metrics_->tenants().RequestEnded(caller.tenant(), counted);
  if (!access_log_) return;
  LogRequest({.request_id = id_,
              .method = request_->method,
              .path = request_->path,
              .status = status,
              .code = code_,
              .seconds = seconds,
              .first_token_seconds = first_token_seconds,
              .model = model,
              .tenant = caller.tenant(),
              .key_id = caller.key_id(),
              .prompt_tokens = prompt_tokens,
              .output_tokens = output_tokens});
}

}  // namespace pagoda::router::openai
