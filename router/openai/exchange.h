// One HTTP exchange of the OpenAI front end: the request, its answer, its id, and what is written
// about it when it ends (metrics, one line of the access log). Event loop's thread.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "router/access/gate.h"
#include "router/http/server.h"
#include "router/metrics.h"

namespace pagoda::router::openai {

// {"error":{"message","type","param","code"}}, all four keys.
std::string ErrorBody(int http_status, std::string_view message, std::string_view param,
                      std::string_view code);
std::string ErrorBody(const absl::Status& status);

// What a client names its request when that is usable in logs and headers (visible ASCII of bounded
// length), else a new id.
std::string RequestIdFrom(std::string_view given);

class Exchange {
 public:
  Exchange(std::shared_ptr<http::Request> request, std::shared_ptr<http::Response> response,
           const char* endpoint, Metrics* metrics, bool access_log);
  ~Exchange();
  Exchange(const Exchange&) = delete;
  Exchange& operator=(const Exchange&) = delete;

  const http::Request& request() const { return *request_; }
  http::Response& response() { return *response_; }
  const std::string& id() const { return id_; }  // of X-Request-Id, given or made
  // The request is gone on with from what another router kept.
  void ReplaceBody(std::string body) { request_->body = std::move(body); }

  void SendJson(std::string body) { Send(200, "application/json", std::move(body)); }
  void Send(int status, std::string_view content_type, std::string body);
  void SendError(const absl::Status& status);
  void Refuse(int status, std::string_view code, std::string_view message, http::Headers more = {});
  void StartEventStream();
  void EndEventStream(int logged_status);
  // The client has gone: nothing is sent.
  void Abandon(int logged_status);

  // Who asks, as the gate found; what is set aside of its quota while this lives; what is left of it.
  Caller caller;
  std::shared_ptr<Gate::Reservation> reservation;
  Gate::Standing standing;

  // Its deadline is the client's (Pagoda-Deadline-Ms): when that passes, it is counted as if the client had left.
  bool client_deadline = false;

  // For the log line.
  int64_t prompt_tokens = 0;
  int64_t output_tokens = 0;
  double first_token_seconds = -1;
  std::string model;
  bool resumable = false;  // and the client is told so

 private:
  void Ended(int status);
  http::Headers CommonHeaders() const;

  const std::shared_ptr<http::Request> request_;
  const std::shared_ptr<http::Response> response_;
  const char* const endpoint_;
  Metrics* const metrics_;
  const bool access_log_;
  std::string id_;
  std::string code_;  // of the error that was sent
  bool ended_ = false;
};

}  // namespace pagoda::router::openai
