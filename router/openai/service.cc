#include "router/openai/service.h"

#include <algorithm>
#include <chrono>

#include "absl/strings/numbers.h"
#include "pagoda/internal/v1/pipeline.pb.h"
#include "router/access/models.h"
#include "router/http/head.h"
#include "router/openai/json_output.h"
#include "router/request_status.h"

namespace pagoda::router::openai {
namespace {

using security::Scope;

constexpr std::string_view kModelPrefix = "/v1/models/";

int64_t NowUnix() {
  return std::chrono::duration_cast<std::chrono::seconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

void AppendModel(std::string& out, const ServedModel& model) {
  out += "{\"id\":";
  AppendString(out, model.name);
  absl::StrAppend(&out, ",\"object\":\"model\",\"created\":", model.created_unix_s,
                  ",\"owned_by\":\"pagoda\",\"root\":");
  AppendString(out, model.name);
  absl::StrAppend(&out, ",\"parent\":null,\"max_model_len\":", model.max_model_len,
                  ",\"permission\":[]}");
}

bool IsJson(std::string_view content_type) {
  std::string_view type = content_type.substr(0, content_type.find(';'));
  while (!type.empty() && type.back() == ' ') type.remove_suffix(1);
  return type.empty() || http::EqualsIgnoringCase(type, "application/json");
}

// What a Content-Encoding names would be read as JSON without being decoded.
bool IsEncoded(const http::Request& request) {
  return std::ranges::any_of(request.headers, [](const auto& header) {
    return http::EqualsIgnoringCase(header.first, "content-encoding") && !header.second.empty() &&
           !http::EqualsIgnoringCase(header.second, "identity");
  });
}

absl::Status ShuttingDown() {
  return WithRetryAfter(absl::UnavailableError("this router is shutting down"), 1000);
}
absl::Status NobodyToAsk() {
  return WithCode(WithRetryAfter(absl::UnavailableError("no coordinator is attached that could know this stream"), 500),
                  "loading");
}
absl::Status StreamUnknown() {
  return WithCode(absl::NotFoundError("no coordinator knows this stream (any more); send its body again, and it is made anew "
                                      "from where you are"),
                  "stream_not_found");
}

// %2F and the like; what is not two hexadecimal digits stays as it is.
std::string PercentDecoded(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    const auto digit = [](char c) {
      return c >= '0' && c <= '9'   ? c - '0'
             : c >= 'a' && c <= 'f' ? c - 'a' + 10
             : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                    : -1;
    };
    if (text[i] == '%' && i + 2 < text.size() && digit(text[i + 1]) >= 0 &&
        digit(text[i + 2]) >= 0) {
      out += static_cast<char>(digit(text[i + 1]) * 16 + digit(text[i + 2]));
      i += 2;
    } else {
      out += text[i];
    }
  }
  return out;
}

}  // namespace

const Service::Route Service::kRoutes[] = {
    {"POST", "/v1/completions", "/v1/completions", &Service::Completions, Scope::kInference},
    {"POST", "/v1/chat/completions", "/v1/chat/completions", &Service::Chat, Scope::kInference},
    {"GET", "/v1/models", "/v1/models", &Service::Models, Scope::kInference},
    {"POST", "/tokenize", "/tokenize", &Service::Tokenize, Scope::kInference},
    {"POST", "/detokenize", "/detokenize", &Service::Detokenize, Scope::kInference},
    {"GET", "/health", "other", &Service::Health, std::nullopt},
    {"GET", "/livez", "other", &Service::Live, std::nullopt},
    {"GET", "/readyz", "other", &Service::ReadyProbe, std::nullopt},
    {"GET", "/version", "other", &Service::Version, Scope::kInference},
    {"GET", "/metrics", "other", &Service::MetricsText, Scope::kMetrics},
    {"GET", "/ping", "other", &Service::Health, std::nullopt},
    {"POST", "/ping", "other", &Service::Health, std::nullopt},
    {"GET", "/load", "other", &Service::Load, Scope::kMetrics},
};

Service::Service(Options options, Parts parts) : options_(std::move(options)), parts_(parts) {}

bool Service::IsProbe(std::string_view path) {
  return std::ranges::any_of(kRoutes, [path](const Route& route) { return !route.scope.has_value() && path == route.path; });
}

bool Service::ModelReady() const {
  for (const ServedModel& model : parts_.registry->models()->models) {
    if (model.pipelines_ready > 0 && model.text != nullptr) return true;
  }
  return false;
}

bool Service::TakesRequests() {
  const MonotonicNs now = NowNs();
  was_ready_ = was_ready_ || ModelReady();
  if (parts_.dispatcher->attached() > 0) attached_ns_ = now;
  return was_ready_ && !draining_ && now - attached_ns_ <= options_.hold_ms * kNsPerMs;
}

void Service::Handle(std::shared_ptr<http::Request> request,
                     std::shared_ptr<http::Response> response) {
  const auto make = [&](const char* endpoint) {
    const bool generation = std::string_view(endpoint) != "other";
    return std::make_shared<Exchange>(request, std::move(response), endpoint, parts_.metrics,
                                      options_.access_log && generation);
  };
  const bool head = request->method == "HEAD";
  if (!HostIsGood(*request)) {
    parts_.metrics->Rejected("invalid");
    return make("other")->Send(421, "application/json",
                               ErrorBody(421, "this server is not known by the name in the Host header (--allowed-hosts)",
                                         "", "misdirected_request"));
  }
  for (const Route& route : kRoutes) {
    if (request->path != route.path) continue;
    if (request->method != route.method && !(head && std::string_view(route.method) == "GET"))
      continue;
    auto exchange = make(route.endpoint);
    if (route.scope.has_value() && !Admit(exchange, *route.scope)) return;
    return (this->*route.handler)(std::move(exchange));
  }
  const bool is_model = request->path.starts_with(kModelPrefix) && (request->method == "GET" || head);
  auto exchange = make(is_model ? "/v1/models" : "other");
  // What is not known is not open either: it does not tell strangers what there is.
  if (!Admit(exchange, Scope::kInference)) return;
  if (is_model) return Model(std::move(exchange));
  std::string allowed;  // methods of this path
  for (const Route& route : kRoutes) {
    if (request->path == route.path) absl::StrAppend(&allowed, allowed.empty() ? "" : ", ", route.method);
  }
  if (!allowed.empty()) {
    exchange->Refuse(405, "method_not_allowed", absl::StrCat("this path does not take ", request->method.substr(0, 32)),
                     {{"Allow", allowed}});
  } else {
    exchange->Refuse(404, "not_found", absl::StrCat("no such path: ", request->path.substr(0, 200)));
  }
}

bool Service::HostIsGood(const http::Request& request) const {
  const std::string_view host = request.Header("host");
  if (!options_.refuse_public_names || !http::IsPublicName(host)) return true;
  return std::ranges::any_of(options_.allowed_hosts, [&](const std::string& allowed) {
    return http::EqualsIgnoringCase(host.substr(0, host.find(':')), allowed);
  });
}

bool Service::Admit(const std::shared_ptr<Exchange>& exchange, Scope scope) {
  absl::StatusOr<Caller> caller =
      parts_.gate->Admit(exchange->request().Header("authorization"), scope);
  absl::Status status = caller.status();
  const MonotonicNs now = NowNs();
  if (status.ok() && scope == Scope::kInference) status = parts_.gate->TakeRequest(*caller, now);
  if (caller.ok()) {
    exchange->caller = *std::move(caller);
    exchange->standing = parts_.gate->StandingOf(exchange->caller, now);
  }
  if (status.ok()) return true;
  const bool over_quota = absl::IsResourceExhausted(status);
  parts_.metrics->Rejected(over_quota ? "quota" : "unauthorized");
  if (over_quota) parts_.metrics->tenants().QuotaRefused(exchange->caller.tenant(), TenantMetrics::Quota::kRequests);
  exchange->SendError(status);
  return false;
}

std::shared_ptr<const ServedModels> Service::ModelsFor(const Caller& caller) const {
  return FilterModels(parts_.registry->models(), caller);
}

void Service::Reject(std::shared_ptr<Exchange> exchange, const absl::Status& given) {
  const absl::Status status = HideModels(given, exchange->caller);
  const int code = HttpStatusOf(status);
  parts_.metrics->Rejected(code == 404 ? "not_found" : code == 503 ? "no_pipeline" : "invalid");
  exchange->SendError(status);
}

template <typename Result>
void Service::Prepare(
    std::shared_ptr<Exchange> exchange,
    std::function<absl::StatusOr<Result>(const http::Request&, const ServedModels&)> work,
    std::function<void(std::shared_ptr<Exchange>, Result)> done) {
  if (!IsJson(exchange->request().Header("content-type"))) {
    parts_.metrics->Rejected("invalid");
    return exchange->Send(
        415, "application/json",
        ErrorBody(415, "the Content-Type must be application/json", "", "unsupported_media_type"));
  }
  if (IsEncoded(exchange->request())) {
    parts_.metrics->Rejected("invalid");
    return exchange->Send(
        415, "application/json",
        ErrorBody(415, "the body must not be compressed: the only Content-Encoding is identity", "",
                  "unsupported_content_encoding"));
  }
  const std::shared_ptr<const ServedModels> models = ModelsFor(exchange->caller);
  if (exchange->request().body.size() <= options_.inline_bytes) {
    absl::StatusOr<Result> result = work(exchange->request(), *models);
    if (!result.ok()) return Reject(std::move(exchange), result.status());
    return done(std::move(exchange), *std::move(result));
  }
  // The pool reads the request only; its hold on the exchange moves on with the result, so that the
  // last one is let go of on this thread.
  auto task = [this, models, work = std::move(work), done = std::move(done), exchange]() mutable {
    auto result = std::make_shared<absl::StatusOr<Result>>(work(exchange->request(), *models));
    parts_.loop->Post(
        [this, result, done = std::move(done), exchange = std::move(exchange)]() mutable {
          if (!result->ok()) return Reject(std::move(exchange), result->status());
          done(std::move(exchange), std::move(**result));
        });
  };
  if (parts_.pool->TrySubmit(std::move(task))) return;
  parts_.metrics->Rejected("overloaded");
  exchange->SendError(WithRetryAfter(
      absl::ResourceExhaustedError("too many long prompts wait to be tokenized"), 1000));
}

void Service::Generate(std::shared_ptr<Exchange> exchange, Endpoint endpoint) {
  if (draining_) {
    parts_.metrics->Rejected("draining");
    return exchange->SendError(ShuttingDown());
  }
  const bool comes_back = !exchange->request().Header("last-event-id").empty();
  if (comes_back) return Resume(std::move(exchange), endpoint);
  if (exchange->request().Header("pagoda-resumable") != "1") {
    return StartJob(std::move(exchange), endpoint, NowUnix(), std::nullopt);
  }
  exchange->resumable = true;
  StartJob(std::move(exchange), endpoint, NowUnix(), GenerationJob::Resumable());
}

void Service::Resume(std::shared_ptr<Exchange> exchange, Endpoint endpoint) {
  auto position = StreamPosition::Parse(exchange->request().Header("last-event-id"));
  if (position.ok() && exchange->request().Header("x-request-id") != exchange->id()) {
    position = absl::InvalidArgumentError(
        "Last-Event-ID needs the X-Request-Id of the stream, as its first answer gave it");
  }
  if (!position.ok()) return Reject(std::move(exchange), position.status());
  exchange->resumable = true;
  const std::string id = exchange->id();
  const std::string tenant = exchange->caller.tenant();  // before the exchange moves into the closure
  parts_.dispatcher->FindStream(
      tenant, id,
      [this, exchange = std::move(exchange), endpoint,
       position = *std::move(position)](FoundStream found) mutable {
        if (draining_) return exchange->SendError(ShuttingDown());
        internal::v1::StreamState state;
        for (const FoundPart& part : found.parts) {
          if (!part.router_state.empty()) state.ParseFromString(part.router_state);
        }
        const bool kept = state.path() == exchange->request().path;
        if (kept) exchange->ReplaceBody(std::move(*state.mutable_body()));
        if (!kept && !found.parts.empty()) found.parts.clear();  // another request of the same name
        if (!kept && exchange->request().body.empty()) {
          if (!found.asked) return exchange->SendError(NobodyToAsk());
          return Reject(std::move(exchange), StreamUnknown());
        }
        // Without a log the whole stream is made again and what the client has is left out: the same
        // body, name and time give the same tokens.
        const int64_t created = position.created_unix_s;
        StartJob(std::move(exchange), endpoint, created,
                 GenerationJob::Resumable{.router_state = {}, .position = std::move(position), .found = std::move(found)});
      });
}

void Service::StartJob(std::shared_ptr<Exchange> exchange, Endpoint endpoint, int64_t created_unix_s,
                       std::optional<GenerationJob::Resumable> resumable) {
  const bool has_tokens = resumable && resumable->position && resumable->position->HasTokens();
  const uint32_t mark = has_tokens ? resumable->position->mark : 0;
  std::string digest;
  if (has_tokens && !resumable->found.parts.empty()) digest = resumable->found.parts.front().model_digest;
  auto held = std::make_shared<std::optional<GenerationJob::Resumable>>(std::move(resumable));
  Prepare<PreparedGeneration>(
      std::move(exchange),
      [endpoint, created_unix_s, mark, digest, has_tokens](const http::Request& request, const ServedModels& models) {
        // What its tokens are of may be on its way out.
        return has_tokens ? PrepareGeneration(endpoint, request.body, models.ForStreamOf(digest, mark), created_unix_s)
                          : PrepareGeneration(endpoint, request.body, models, created_unix_s);
      },
      [this, held, created_unix_s](std::shared_ptr<Exchange> done, PreparedGeneration prepared) {
        const MonotonicNs deadline = DeadlineOf(done->request());
        done->client_deadline = deadline < done->request().received_ns + options_.request_timeout_ms * kNsPerMs;
        std::optional<GenerationJob::Resumable>& resumable = *held;
        const size_t choices =
            prepared.requests.size() * static_cast<size_t>(prepared.requests.front().choices);
        if (resumable && resumable->position &&
            (resumable->position->choices.size() != choices || !prepared.input.stream)) {
          return Reject(std::move(done), absl::InvalidArgumentError(
                                             "Last-Event-ID does not belong to a stream of this request"));
        }
        // More choices than an event's id can name: served, and not resumable.
        if (choices > static_cast<size_t>(limits::kMaxChoices)) resumable.reset();
        done->resumable = resumable.has_value();
        if (resumable) {
          internal::v1::StreamState state;
          state.set_path(done->request().path);
          state.set_body(done->request().body);
          resumable->router_state = state.SerializeAsString();
        }
        int64_t tokens = 0;
        for (GenerationRequest& request : prepared.requests) {
          if (const absl::Status fair = CheckPriority(done->caller, request.priority); !fair.ok()) {
            parts_.metrics->Rejected("invalid");
            return done->SendError(fair);
          }
          request.tenant = done->caller.tenant();
          request.tenant_weight = done->caller.weight();
          tokens += MostTokens(request);
        }
        const MonotonicNs now = NowNs();
        auto reserved = parts_.gate->ReserveTokens(done->caller, tokens, now);
        done->standing = parts_.gate->StandingOf(done->caller, now);
        if (!reserved.ok()) {
          parts_.metrics->Rejected("quota");
          parts_.metrics->tenants().QuotaRefused(done->caller.tenant(), TenantMetrics::Quota::kTokens);
          return done->SendError(reserved.status());
        }
        done->reservation = *std::move(reserved);
        auto job = std::make_shared<GenerationJob>(std::move(done), std::move(prepared), parts_.dispatcher,
                                                   parts_.metrics, parts_.tracer, created_unix_s);
        if (resumable) job->MakeResumable(*std::move(resumable));
        job->Start(deadline);
      });
}

// What the client allows, or the server's limit when that is earlier.
MonotonicNs Service::DeadlineOf(const http::Request& request) const {
  int64_t allowed_ms = 0;
  const std::string_view given = request.Header("pagoda-deadline-ms");
  const bool asked = absl::SimpleAtoi(AsAbsl(given), &allowed_ms) && allowed_ms > 0;
  const int64_t limit_ms = asked ? std::min(allowed_ms, options_.request_timeout_ms) : options_.request_timeout_ms;
  return request.received_ns + limit_ms * kNsPerMs;
}

void Service::Tokenize(std::shared_ptr<Exchange> exchange) {
  Prepare<PreparedTokenize>(
      std::move(exchange),
      [](const http::Request& request, const ServedModels& models) {
        return PrepareTokenize(request.body, models, NowUnix());
      },
      [](std::shared_ptr<Exchange> done, PreparedTokenize prepared) {
        std::string body =
            absl::StrCat("{\"count\":", prepared.tokens.size(),
                         ",\"max_model_len\":", prepared.max_model_len, ",\"tokens\":");
        AppendIntegers(body, prepared.tokens);
        body += ",\"token_strs\":";
        if (prepared.want_texts) {
          AppendList(body, prepared.token_texts,
                     [&](const std::string& text) { AppendString(body, text); });
        } else {
          body += "null";
        }
        body += '}';
        done->SendJson(std::move(body));
      });
}

void Service::Detokenize(std::shared_ptr<Exchange> exchange) {
  Prepare<std::string>(
      std::move(exchange),
      [](const http::Request& request, const ServedModels& models) {
        return PrepareDetokenize(request.body, models);
      },
      [](std::shared_ptr<Exchange> done, std::string text) {
        std::string body = "{\"prompt\":";
        AppendString(body, text);
        body += '}';
        done->SendJson(std::move(body));
      });
}

void Service::Models(std::shared_ptr<Exchange> exchange) {
  std::string body = "{\"object\":\"list\",\"data\":";
  const auto models = ModelsFor(exchange->caller);
  AppendList(body, models->models, [&](const ServedModel& model) { AppendModel(body, model); });
  body += '}';
  exchange->SendJson(std::move(body));
}

void Service::Model(std::shared_ptr<Exchange> exchange) {
  const std::string name =
      PercentDecoded(std::string_view(exchange->request().path).substr(kModelPrefix.size()));
  const auto models = ModelsFor(exchange->caller);
  for (const ServedModel& model : models->models) {
    if (model.name != name) continue;
    std::string body;
    AppendModel(body, model);
    return exchange->SendJson(std::move(body));
  }
  Reject(std::move(exchange), ModelNotFound(name.substr(0, 200)));
}

void Service::Health(std::shared_ptr<Exchange> exchange) {
  exchange->Send(ModelReady() ? 200 : 503, "", "");
}
void Service::Live(std::shared_ptr<Exchange> exchange) { exchange->Send(200, "", ""); }
void Service::ReadyProbe(std::shared_ptr<Exchange> exchange) {
  exchange->Send(TakesRequests() ? 200 : 503, "", "");
}

void Service::Version(std::shared_ptr<Exchange> exchange) {
  std::string body = "{\"version\":";
  AppendString(body, options_.version);
  body += '}';
  exchange->SendJson(std::move(body));
}

void Service::MetricsText(std::shared_ptr<Exchange> exchange) {
  exchange->Send(200, "text/plain; version=0.0.4; charset=utf-8", parts_.metrics->Expose());
}

void Service::Load(std::shared_ptr<Exchange> exchange) {
  exchange->SendJson(absl::StrCat("{\"server_load\":", parts_.dispatcher->in_flight(), "}"));
}

}  // namespace pagoda::router::openai
