#include "cli/chat_session.h"

#include <grpcpp/grpcpp.h>

#include <cstdio>
#include <nlohmann/json.hpp>

#include "cli/http_client.h"
#include "cli/json_text.h"
#include "pagoda/v1/inference.grpc.pb.h"
#include "security/cluster_tls.h"

namespace pagoda::cli {
namespace {

using Json = nlohmann::json;

constexpr int kAnswerTimeoutMs = 120'000;  // between two pieces

absl::Status ErrorOf(const HttpResponse& response) {
  const std::string message = TextAt(Json::parse(response.body, nullptr, false), "/error/message");
  return absl::UnavailableError(
      absl::StrCat("the server answered ", response.status, ": ", message.empty() ? response.body : message));
}

class HttpSession : public ChatSession {
 public:
  HttpSession(const ChatOptions& options, HostPort server)
      : ChatSession(options), server_(std::move(server)), authority_(AuthorityFor(options.url, options.authority)) {
    if (!options.api_key.empty()) headers_["Authorization"] = "Bearer " + options.api_key;
  }

  absl::Status ChooseModel() override {
    PAGODA_ASSIGN_OR_RETURN(const HttpResponse response,
                            HttpCall({.server = server_, .target = "/v1/models", .headers = headers_, .authority = authority_}));
    if (response.status != 200) return ErrorOf(response);
    options_.model = TextAt(Json::parse(response.body, nullptr, false), "/data/0/id");
    return options_.model.empty() ? absl::NotFoundError("the server serves no model yet") : absl::OkStatus();
  }

 private:
  std::string Body() const {
    Json body = {{"model", options_.model}, {"stream", true}};
    if (options_.max_tokens) body["max_tokens"] = *options_.max_tokens;
    body["stream_options"] = {{"include_usage", true}};
    if (options_.temperature) body["temperature"] = *options_.temperature;
    if (options_.top_p) body["top_p"] = *options_.top_p;
    if (options_.seed) body["seed"] = *options_.seed;
    for (const Message& message : messages_) {
      body["messages"].push_back({{"role", message.role}, {"content", message.content}});
    }
    return body.dump(-1, ' ', false, Json::error_handler_t::replace);
  }

  absl::Status Stream(const OnText& on_text) override {
    bool wanted = true;
    bool done = false;
    absl::Status failure;
    SseSplitter events([&](std::string_view data) {
      if (data == "[DONE]") {
        done = true;
        return;
      }
      const Json event = Json::parse(data, nullptr, false);
      if (!event.is_object()) return;
      if (event.contains("error")) failure = absl::InternalError(event["error"].dump());
      prompt_tokens_ = IntegerAt(event, "/usage/prompt_tokens", prompt_tokens_);
      output_tokens_ = IntegerAt(event, "/usage/completion_tokens", output_tokens_);
      const std::string text = TextAt(event, "/choices/0/delta/content");
      if (!text.empty()) wanted = on_text(text) && wanted;
    });
    HttpRequest request{.server = server_, .method = "POST", .target = "/v1/chat/completions", .body = Body(),
                        .headers = headers_, .timeout_ms = kAnswerTimeoutMs, .authority = authority_};
    PAGODA_ASSIGN_OR_RETURN(const HttpResponse response, HttpStream(request, [&](std::string_view bytes) {
                              events.Feed(bytes);
                              return wanted && !done;
                            }));
    if (response.status != 200) return ErrorOf(response);
    return failure;
  }

  const HostPort server_;
  const std::string authority_;
  std::map<std::string, std::string> headers_;
};

class GrpcSession : public ChatSession {
 public:
  explicit GrpcSession(const ChatOptions& options)
      : ChatSession(options),
        stub_(v1::Inference::NewStub(grpc::CreateChannel(options.grpc, security::PublicChannelCredentials(
                  !options.grpc_tls ? "" : options.authority.empty() ? "system" : options.authority)))) {}

  absl::Status ChooseModel() override {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(10));
    v1::ListModelsResponse response;
    if (!options_.api_key.empty()) context.AddMetadata("authorization", "Bearer " + options_.api_key);
    const grpc::Status status = stub_->ListModels(&context, {}, &response);
    if (!status.ok()) return absl::UnavailableError(absl::StrCat(options_.grpc, ": ", status.error_message()));
    if (response.models().empty()) return absl::NotFoundError("the server serves no model yet");
    options_.model = response.models(0).name();
    return absl::OkStatus();
  }

 private:
  absl::Status Stream(const OnText& on_text) override {
    v1::GenerateRequest request;
    request.set_model(options_.model);
    for (const Message& message : messages_) {
      v1::ChatMessage& out = *request.mutable_chat()->add_messages();
      out.set_role(message.role);
      out.set_content(message.content);
    }
    if (options_.max_tokens) request.mutable_stopping()->set_max_tokens(*options_.max_tokens);
    if (options_.temperature) request.mutable_sampling()->set_temperature(*options_.temperature);
    if (options_.top_p) request.mutable_sampling()->set_top_p(*options_.top_p);
    if (options_.seed) request.mutable_sampling()->set_seed(*options_.seed);
    grpc::ClientContext context;
    if (!options_.api_key.empty()) context.AddMetadata("authorization", "Bearer " + options_.api_key);
    const auto reader = stub_->Generate(&context, request);
    v1::GenerateResponse response;
    bool wanted = true;
    while (wanted && reader->Read(&response)) {
      if (response.has_prompt_info()) prompt_tokens_ = response.prompt_info().prompt_tokens();
      if (response.has_finish()) output_tokens_ = response.finish().output_tokens();
      if (!response.text().empty()) wanted = on_text(response.text());
    }
    if (!wanted) context.TryCancel();
    const grpc::Status status = reader->Finish();
    if (!status.ok() && wanted) return absl::UnavailableError(absl::StrCat(options_.grpc, ": ", status.error_message()));
    return absl::OkStatus();
  }

  std::unique_ptr<v1::Inference::Stub> stub_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<ChatSession>> ChatSession::Open(const ChatOptions& options) {
  std::unique_ptr<ChatSession> session;
  if (!options.grpc.empty()) {
    session = std::make_unique<GrpcSession>(options);
  } else {
    PAGODA_ASSIGN_OR_RETURN(HostPort server, ParseServer(options.url));
    session = std::make_unique<HttpSession>(options, std::move(server));
  }
  if (session->options_.model.empty()) PAGODA_RETURN_IF_ERROR(session->ChooseModel());
  return session;
}

void ChatSession::Reset(const std::string& system) {
  options_.system = system;
  messages_.clear();
  if (!system.empty()) messages_.push_back({"system", system});
}

void ChatSession::Undo() {
  while (!messages_.empty() && messages_.back().role == "assistant") messages_.pop_back();
  if (!messages_.empty() && messages_.back().role == "user") messages_.pop_back();
}

absl::Status ChatSession::Ask(const std::string& question, const OnText& on_text) {
  messages_.push_back({"user", question});
  asked_ns_ = NowNs();
  first_ns_ = 0;
  prompt_tokens_ = output_tokens_ = 0;
  std::string answer;
  const absl::Status status = Stream([&](std::string_view text) {
    last_ns_ = NowNs();
    if (first_ns_ == 0) first_ns_ = last_ns_;
    answer.append(text);
    return on_text(text);
  });
  if (!status.ok()) {
    messages_.pop_back();
    return status;
  }
  messages_.push_back({"assistant", answer});
  return absl::OkStatus();
}

std::string ChatSession::LastStatistics() const {
  if (first_ns_ == 0) return "no answer yet";
  const double first_ms = static_cast<double>(first_ns_ - asked_ns_) / kNsPerMs;
  const double rest_s = static_cast<double>(last_ns_ - first_ns_) / kNsPerSecond;
  char text[160];
  std::snprintf(text, sizeof(text), "%d prompt tokens, %d output tokens, first text after %.0f ms, then %.1f tokens/s",
                prompt_tokens_, output_tokens_, first_ms, rest_s > 0 && output_tokens_ > 1 ? (output_tokens_ - 1) / rest_s : 0.0);
  return text;
}

}  // namespace pagoda::cli
