#include "router/grpc/inference_service.h"

#include <google/protobuf/stubs/logging.h>
#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/health_check_service_interface.h>

#include <algorithm>
#include <atomic>

#include "common/limits.h"
#include "common/log.h"
#include "common/mutex.h"
#include "pagoda/v1/inference.grpc.pb.h"
#include "router/access/models.h"
#include "router/grpc/call_status.h"
#include "router/grpc/fields.h"
#include "router/grpc/generate_call.h"
#include "router/openai/prepare.h"
#include "router/request_status.h"
#include "router/resumed_request.h"
#include "router/settle.h"

namespace pagoda::router {
namespace {

int64_t NowUnix() {
  return std::chrono::duration_cast<std::chrono::seconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

// How long the client waits for the call; very long when it set no deadline.
int64_t ClientPatienceMs(const grpc::CallbackServerContext& context) {
  const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
      context.deadline() - std::chrono::system_clock::now());
  return std::max<int64_t>(0, left.count());
}

}  // namespace

class InferenceService : public v1::Inference::CallbackService {
 public:
  InferenceService(InferenceServer::Options options, InferenceServer::Parts parts)
      : options_(std::move(options)),
        parts_(parts),
        models_(std::make_shared<const ServedModels>(
            ServedModels{.models = {}, .nothing_served = true})) {}

  grpc::ServerWriteReactor<v1::GenerateResponse>* Generate(
      grpc::CallbackServerContext* context, const v1::GenerateRequest* request) override {
    const MonotonicNs now = NowNs();
    auto call = std::make_shared<GenerateCall>(context, parts_.loop, parts_.dispatcher,
                                               parts_.metrics, now, options_.access_log);
    call->Hold();
    const RequestId id = RequestId::Random();  // a refusal's too has one in the log
    call->Name(request->request_id().empty() ? id.ToString() : request->request_id(), request->model());
    const absl::Status status = Begin(*context, *request, now, *call);
    if (!status.ok()) call->End(status);
    return call.get();
  }

  grpc::ServerUnaryReactor* Tokenize(grpc::CallbackServerContext* context,
                                     const v1::TokenizeRequest* request,
                                     v1::TokenizeResponse* response) override {
    return Answer(context, "grpc.Tokenize", [&](const Caller& caller) {
      return DoTokenize(*request, *ModelsFor(caller), response);
    });
  }
  grpc::ServerUnaryReactor* Detokenize(grpc::CallbackServerContext* context,
                                       const v1::DetokenizeRequest* request,
                                       v1::DetokenizeResponse* response) override {
    return Answer(context, "grpc.Detokenize", [&](const Caller& caller) {
      return DoDetokenize(*request, *ModelsFor(caller), response);
    });
  }
  grpc::ServerUnaryReactor* ListModels(grpc::CallbackServerContext* context,
                                       const v1::ListModelsRequest*,
                                       v1::ListModelsResponse* response) override {
    return Answer(context, "other", [&](const Caller& caller) {
      for (const ServedModel& model : ModelsFor(caller)->models) FillModelInfo(model, response->add_models());
      return absl::OkStatus();
    });
  }
  grpc::ServerUnaryReactor* GetModelInfo(grpc::CallbackServerContext* context,
                                         const v1::GetModelInfoRequest* request,
                                         v1::ModelInfo* response) override {
    return Answer(context, "other", [&](const Caller& caller) {
      const auto served = ModelsFor(caller);
      const auto found = served->Find(request->model());
      if (found.ok()) FillModelInfo(**found, response);
      return found.status();
    });
  }

  void SetModels(std::shared_ptr<const ServedModels> models) {
    MutexLock lock(&mutex_);
    models_ = std::move(models);
  }
  void Drain() { draining_ = true; }

 private:
  std::shared_ptr<const ServedModels> models() const {
    MutexLock lock(&mutex_);
    return models_;
  }

  std::shared_ptr<const ServedModels> ModelsFor(const Caller& caller) const { return FilterModels(models(), caller); }

  // The caller of a method that needs a key, with one request of its quota taken.
  absl::StatusOr<Caller> Admit(const grpc::CallbackServerContext& context, MonotonicNs now) const {
    const auto header = context.client_metadata().find("authorization");
    const std::string_view authorization =
        header == context.client_metadata().end()
            ? std::string_view()
            : std::string_view(header->second.data(), header->second.size());
    absl::StatusOr<Caller> caller = parts_.gate->Admit(authorization, security::Scope::kInference);
    absl::Status status = caller.status();
    if (status.ok()) status = parts_.gate->TakeRequest(*caller, now);
    if (status.ok()) return caller;
    const bool over_quota = absl::IsResourceExhausted(status);
    parts_.metrics->Rejected(over_quota ? "quota" : "unauthorized");
    if (over_quota) parts_.metrics->tenants().QuotaRefused(caller->tenant(), TenantMetrics::Quota::kRequests);
    return status;
  }

  // Checks, prepares and submits; an error ends the call.
  absl::Status Begin(const grpc::CallbackServerContext& context, const v1::GenerateRequest& request,
                     MonotonicNs now, GenerateCall& call) {
    PAGODA_ASSIGN_OR_RETURN(const Caller caller, Admit(context, now));
    call.SetCaller(caller);
    std::optional<StreamPosition> position;
    absl::StatusOr<GenerationRequest> prepared = PrepareGenerate(request, *ModelsFor(caller), position);
    if (!prepared.ok()) {
      parts_.metrics->Rejected(absl::IsNotFound(prepared.status()) ? "not_found"
                               : draining_                         ? "draining"
                                                                   : "invalid");
      return HideModels(prepared.status(), caller);
    }
    if (absl::Status fair = CheckPriority(caller, prepared->priority); !fair.ok()) {
      parts_.metrics->Rejected("invalid");
      return fair;
    }
    auto reserved = parts_.gate->ReserveTokens(caller, MostTokens(*prepared), now);
    if (!reserved.ok()) {
      parts_.metrics->Rejected("quota");
      parts_.metrics->tenants().QuotaRefused(caller.tenant(), TenantMetrics::Quota::kTokens);
      return reserved.status();
    }
    call.Hold(*std::move(reserved));
    prepared->tenant = caller.tenant();
    prepared->tenant_weight = caller.weight();
    prepared->received_ns = now;
    const int64_t patience_ms = ClientPatienceMs(context);
    if (patience_ms < options_.request_timeout_ms) call.EndsAtClientDeadline();
    prepared->deadline_ns = now + std::min(patience_ms, options_.request_timeout_ms) * kNsPerMs;
    const auto header = [&context](const char* name) {
      const auto found = context.client_metadata().find(name);
      return found == context.client_metadata().end() ? std::string_view()
                                                      : std::string_view(found->second.data(), found->second.size());
    };
    call.Trace(RequestTrace(parts_.tracer, header("traceparent"), header("tracestate"), "text_completion", now));
    call.Submit(*std::move(prepared), std::move(position));
    return absl::OkStatus();
  }

  absl::StatusOr<GenerationRequest> PrepareGenerate(const v1::GenerateRequest& request, const ServedModels& served,
                                                    std::optional<StreamPosition>& position) const {
    if (draining_)
      return WithRetryAfter(absl::UnavailableError("this router is shutting down"), 1000);
    if (request.request_id().size() > limits::kMaxRequestIdBytes) {
      return InvalidField("request_id",
                          absl::StrCat("is longer than ", limits::kMaxRequestIdBytes, " bytes"));
    }
    const GenerationFields fields = FieldsOf(request);
    if (absl::Status status = CheckFields(fields); !status.ok()) return status;
    int64_t created_unix_s = NowUnix();
    if (!request.last_event_id().empty()) {
      PAGODA_ASSIGN_OR_RETURN(position, StreamPosition::Parse(request.last_event_id()));
      if (request.request_id().empty()) return InvalidField("request_id", "is needed with last_event_id");
      if (position->choices.size() != static_cast<size_t>(std::max(1, request.n())))
        return InvalidField("last_event_id", "does not belong to a stream of this request");
      created_unix_s = position->created_unix_s;
    }
    const ServedModels by_mark = position ? served.ForStreamOf("", position->mark) : ServedModels();
    PAGODA_ASSIGN_OR_RETURN(const ServedModel* model, (position ? by_mark : served).Find(request.model()));
    PAGODA_ASSIGN_OR_RETURN(std::vector<TokenId> prompt, PromptOf(request, *model, created_unix_s));
    PAGODA_ASSIGN_OR_RETURN(
        GenerationRequest prepared,
        Settle({.fields = fields, .model = *model, .prompt = std::move(prompt)}));
    prepared.id = RequestId::Random();
    prepared.client_request_id =
        request.request_id().empty() ? prepared.id.ToString() : request.request_id();
    if (request.resumable() || position) {
      prepared.resume_id = prepared.client_request_id;
      prepared.created_unix_s = created_unix_s;
      if (!fields.seed)
        prepared.sampling.seed = SeedOfResumable(prepared.resume_id, 0);
    }
    // Stop strings are found in text, so it is made even when it is not sent.
    prepared.detokenize = !request.skip_text() || !prepared.stop.empty();
    return prepared;
  }

  absl::Status DoTokenize(const v1::TokenizeRequest& request, const ServedModels& served,
                          v1::TokenizeResponse* response) const {
    PAGODA_ASSIGN_OR_RETURN(const ServedModel* model, served.Find(request.model()));
    std::string text = request.text();
    const bool chat = request.has_chat();
    if (request.input_case() == v1::TokenizeRequest::INPUT_NOT_SET) return InvalidField("text", "or chat is required");
    if (chat) {
      PAGODA_ASSIGN_OR_RETURN(text, RenderChat(request.chat(), *model, NowUnix()));
    }
    const bool special = request.has_add_special_tokens() ? request.add_special_tokens() : !chat;
    for (TokenId token : model->text->tokenizer->Encode(
             text, {.add_special_tokens = special, .parse_special_tokens = true})) {
      response->add_token_ids(token);
    }
    response->set_max_model_len(model->max_model_len);
    return absl::OkStatus();
  }

  absl::Status DoDetokenize(const v1::DetokenizeRequest& request, const ServedModels& served,
                            v1::DetokenizeResponse* response) const {
    PAGODA_ASSIGN_OR_RETURN(const ServedModel* model, served.Find(request.model()));
    const std::vector<int64_t> ids(request.token_ids().begin(), request.token_ids().end());
    PAGODA_ASSIGN_OR_RETURN(*response->mutable_text(),
                            openai::DecodeTokens(*model->text->tokenizer, ids));
    return absl::OkStatus();
  }

  // Runs `work` for a caller with a key, and answers.
  template <typename Work>
  grpc::ServerUnaryReactor* Answer(grpc::CallbackServerContext* context, const char* endpoint,
                                   const Work& work) {
    const absl::StatusOr<Caller> caller = Admit(*context, NowNs());
    const absl::Status status = caller.ok() ? HideModels(work(*caller), *caller) : caller.status();
    AddRetryTrailers(status, context);
    parts_.metrics->RequestEnded(endpoint, HttpStatusOf(status), 0);
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    reactor->Finish(ToGrpc(status));
    return reactor;
  }

  const InferenceServer::Options options_;
  const InferenceServer::Parts parts_;
  std::atomic<bool> draining_{false};
  mutable Mutex mutex_;
  std::shared_ptr<const ServedModels> models_ ABSL_GUARDED_BY(mutex_);
};

struct InferenceServer::State {
  State(Options options, Parts parts) : service(std::move(options), parts) {}
  InferenceService service;
  std::unique_ptr<grpc::Server> server;
  int port = 0;
  bool shut_down = false;
};

absl::StatusOr<std::unique_ptr<InferenceServer>> InferenceServer::Start(Options options,
                                                                        Parts parts) {
  grpc::EnableDefaultHealthCheckService(true);
  // What a client sent and no message is made of: the library would write a line of its own into the log for each.
  google::protobuf::SetLogHandler([](google::protobuf::LogLevel, const char*, int, const std::string& message) {
    LogDebug("protobuf", {{"message", message}});
  });
  if (options.reflection) grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  const std::string address = options.listen.ToString();
  const auto credentials = security::PublicServerCredentials(options.tls);
  const bool reflection = options.reflection;
  auto state = std::make_unique<State>(std::move(options), parts);
  grpc::ServerBuilder builder;
  builder.SetMaxReceiveMessageSize(static_cast<int>(limits::kMaxGrpcMessageBytes));
  builder.SetMaxSendMessageSize(static_cast<int>(limits::kMaxGrpcMessageBytes));
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 10'000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, 60'000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 20'000);
  builder.AddChannelArgument(GRPC_ARG_MAX_METADATA_SIZE, static_cast<int>(limits::kMaxHeaderBytes));
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, limits::kMaxRequestsInFlight);
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  builder.AddListeningPort(address, credentials, &state->port);
  if (!reflection) security::HideReflection(builder);
  builder.RegisterService(&state->service);
  state->server = builder.BuildAndStart();
  if (!state->server || state->port == 0) {
    return absl::UnavailableError(
        absl::StrCat("cannot serve gRPC on ", address, " (is the port taken?)"));
  }
  auto server = std::unique_ptr<InferenceServer>(new InferenceServer(std::move(state)));
  server->SetServing(false);
  return server;
}

InferenceServer::InferenceServer(std::unique_ptr<State> state) : state_(std::move(state)) {}
InferenceServer::~InferenceServer() { Shutdown(0); }

int InferenceServer::port() const { return state_->port; }
void InferenceServer::SetModels(std::shared_ptr<const ServedModels> models) {
  state_->service.SetModels(std::move(models));
}

void InferenceServer::SetServing(bool serving) {
  grpc::HealthCheckServiceInterface* health = state_->server->GetHealthCheckService();
  if (health == nullptr) return;
  for (const char* name : {"", "pagoda.v1.Inference", "readiness"})
    health->SetServingStatus(name, serving);
  health->SetServingStatus("liveness", true);
}

void InferenceServer::Drain() { state_->service.Drain(); }

void InferenceServer::Shutdown(int64_t grace_ms) {
  if (state_->shut_down) return;
  state_->shut_down = true;
  state_->server->Shutdown(std::chrono::system_clock::now() + std::chrono::milliseconds(grace_ms));
  state_->server->Wait();
}

}  // namespace pagoda::router
