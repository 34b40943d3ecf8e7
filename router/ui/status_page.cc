#include "router/ui/status_page.h"

#include <google/protobuf/util/json_util.h>

#include <algorithm>
#include <chrono>

#include "common/limits.h"
#include "pagoda/internal/v1/pipeline.pb.h"
#include "router/openai/exchange.h"
#include "router/openai/json_output.h"
#include "router/request_status.h"
#include "router/ui/page_files.h"

namespace pagoda::router::ui {
namespace {

namespace wire = pagoda::internal::v1;
using openai::AppendString;

// Nothing from elsewhere, nothing inline, no frame around it.
constexpr char kContentSecurityPolicy[] =
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'";

http::Headers PageHeaders() {
  return {{"Content-Security-Policy", kContentSecurityPolicy},
          {"X-Content-Type-Options", "nosniff"},
          {"Referrer-Policy", "no-referrer"},
          {"Cache-Control", "no-cache"}};
}

std::string JsonOf(const google::protobuf::Message& message) {
  google::protobuf::util::JsonPrintOptions options;
  options.always_print_primitive_fields = true;
  options.preserve_proto_field_names = true;
  std::string json;
  // Names that a worker gave itself may not be UTF-8: then this part is left out.
  if (!google::protobuf::util::MessageToJsonString(message, &json, options).ok()) return "{}";
  return json;
}

void AppendMilliseconds(std::string& out, const char* key, const std::optional<double>& seconds) {
  absl::StrAppend(&out, ",\"", key, "\":");
  if (seconds) {
    absl::StrAppend(&out, *seconds * 1000);
  } else {
    out += "null";
  }
}

std::string JsonOf(const FigureSample& sample) {
  std::string out = absl::StrCat("{\"unix_s\":", sample.unix_s, ",\"in_flight\":", sample.in_flight,
                                 ",\"prompt_tokens\":", sample.prompt_tokens, ",\"output_tokens\":", sample.output_tokens,
                                 ",\"requests\":", sample.requests, ",\"errors\":", sample.errors,
                                 ",\"rejected\":", sample.rejected, ",\"retries\":", sample.retries);
  AppendMilliseconds(out, "first_token_p50_ms", sample.first_token_p50);
  AppendMilliseconds(out, "first_token_p95_ms", sample.first_token_p95);
  AppendMilliseconds(out, "inter_token_p50_ms", sample.inter_token_p50);
  AppendMilliseconds(out, "inter_token_p95_ms", sample.inter_token_p95);
  out += '}';
  return out;
}

int64_t UnixSeconds() {
  return std::chrono::duration_cast<std::chrono::seconds>(std::chrono::system_clock::now().time_since_epoch()).count();
}

}  // namespace

StatusPage::StatusPage(Options options, Edges edges, Metrics* metrics)
    : options_(std::move(options)), edges_(std::move(edges)), metrics_(metrics) {}
StatusPage::~StatusPage() = default;

bool StatusPage::Owns(std::string_view path) { return path == "/ui" || path.starts_with("/ui/"); }

void StatusPage::Answer(http::Response& response, int status, std::string_view type, std::string body) {
  response.Send(status, type, std::move(body), PageHeaders());
  metrics_->RequestEnded("other", status, 0);
}

void StatusPage::Handle(const http::Request& request, std::shared_ptr<http::Response> response) {
  const auto refuse = [&](int status, std::string_view message, std::string_view code) {
    Answer(*response, status, "application/json", openai::ErrorBody(status, message, "", code));
  };
  const bool reads = request.method == "GET" || request.method == "HEAD";
  const std::string_view path = request.path == "/ui" ? "/ui/" : std::string_view(request.path);
  // The page itself holds no data and asks for the key; all else, also what there is not, is for those who have it.
  for (const PageFile& file : PageFiles()) {
    if (reads && path == file.path) return Answer(*response, 200, file.content_type, std::string(file.text));
  }
  if (const absl::Status status = edges_.may_see_cluster(request.Header("authorization")); !status.ok()) {
    const int code = HttpStatusOf(status);
    http::Headers headers = PageHeaders();
    if (code == 401) headers.emplace_back("WWW-Authenticate", "Bearer realm=\"pagoda\"");
    response->Send(code, "application/json", openai::ErrorBody(status), std::move(headers));
    metrics_->RequestEnded("other", code, 0);
    return;
  }
  if (!reads) return refuse(405, "the status page is only read", "method_not_allowed");
  if (path != "/ui/events") return refuse(404, absl::StrCat("no such page: ", request.path.substr(0, 200)), "not_found");
  if (request.method == "HEAD") return Answer(*response, 200, "text/event-stream; charset=utf-8", "");
  Stream(std::string(request.Header("authorization")), std::move(response));
}

void StatusPage::Stream(std::string authorization, std::shared_ptr<http::Response> response) {
  Sweep();
  if (draining_ || viewers_.size() >= limits::kMaxPageViewers) {
    return Answer(*response, 503, "application/json",
                  openai::ErrorBody(503,
                                    draining_ ? "this router is shutting down"
                                              : absl::StrCat("this router's status page is open ", viewers_.size(),
                                                             " times, its limit"),
                                    "", "overloaded"));
  }
  http::Headers headers = PageHeaders();
  headers.emplace_back("X-Accel-Buffering", "no");
  response->StartStream(200, "text/event-stream; charset=utf-8", std::move(headers));
  metrics_->RequestEnded("other", 200, 0);
  auto viewer = std::make_shared<Viewer>();
  viewer->response = response;
  viewer->authorization = std::move(authorization);
  response->OnClosed([weak = std::weak_ptr(viewer)](http::Response::CloseReason) {
    if (const auto held = weak.lock()) held->gone = true;
  });
  viewers_.push_back(viewer);
  if (viewers_.size() == 1) {
    for (const auto& [link, entry] : links_) Watch(link, true);
  }
  std::string hello = "{\"version\":";
  AppendString(hello, options_.version);
  hello += ",\"router\":";
  AppendString(hello, options_.router_name);
  hello += ",\"history\":[";
  bool first = true;
  for (const FigureSample& sample : metrics_->live().History()) {
    if (!first) hello += ',';
    first = false;
    hello += JsonOf(sample);
  }
  hello += "]}";
  Write(*viewer, "hello", hello);
}

void StatusPage::Write(Viewer& viewer, std::string_view event, std::string_view data) {
  if (viewer.gone) return;
  if (!viewer.response->Write(absl::StrCat("event: ", AsAbsl(event), "\ndata: ", AsAbsl(data), "\n\n"))) viewer.gone = true;
}

void StatusPage::Watch(int link, bool on) {
  auto message = std::make_unique<wire::RouterMessage>();
  message->mutable_watch()->set_cluster(on);
  edges_.send(link, std::move(message));
  if (!on) links_[link].events.clear();
}

void StatusPage::Sweep() {
  const size_t before = viewers_.size();
  std::erase_if(viewers_, [](const auto& viewer) { return viewer->gone; });
  if (before > 0 && viewers_.empty()) {
    for (const auto& [link, entry] : links_) Watch(link, false);
  }
}

void StatusPage::TellEvents(int link, Viewer& viewer) {
  const Link& entry = links_[link];
  uint64_t& told = viewer.told[link];
  std::string list;
  for (const auto& [number, json] : entry.events) {
    if (number <= told) continue;
    absl::StrAppend(&list, list.empty() ? "" : ",", json);
    told = number;
  }
  if (list.empty()) return;
  std::string data = absl::StrCat("{\"link\":", link, ",\"coordinator\":");
  AppendString(data, entry.coordinator);
  absl::StrAppend(&data, ",\"events\":[", list, "]}");
  Write(viewer, "events", data);
}

void StatusPage::OnMessage(int link, const wire::CoordinatorMessage& message) {
  Link& entry = links_[link];
  if (message.has_hello()) {
    entry.coordinator = message.hello().coordinator();
    if (!viewers_.empty()) Watch(link, true);
    return;
  }
  if (!message.has_cluster()) return;
  pagoda::v1::ClusterState cluster = message.cluster();
  entry.events.clear();
  for (const auto& event : cluster.events()) entry.events.emplace_back(event.number(), JsonOf(event));
  cluster.clear_events();
  const std::string data = absl::StrCat("{\"link\":", link, ",\"cluster\":", JsonOf(cluster), "}");
  for (const auto& viewer : viewers_) {
    Write(*viewer, "cluster", data);
    TellEvents(link, *viewer);
  }
}

void StatusPage::OnLinkLost(int link) {
  links_.erase(link);
  const std::string data = absl::StrCat("{\"link\":", link, "}");
  for (const auto& viewer : viewers_) {
    viewer->told.erase(link);
    Write(*viewer, "lost", data);
  }
}

void StatusPage::EverySecond() {
  const FigureSample sample = metrics_->live().EndSecond(UnixSeconds());
  if (viewers_.empty()) return;
  for (const auto& viewer : viewers_) {  // a key that was taken away ends what it opened
    if (!edges_.may_see_cluster(viewer->authorization).ok()) End(*viewer);
  }
  Sweep();
  const std::string data = JsonOf(sample);
  for (const auto& viewer : viewers_) Write(*viewer, "sample", data);
}

void StatusPage::End(Viewer& viewer) {
  if (!viewer.gone) viewer.response->EndStream();
  viewer.gone = true;
}

void StatusPage::Drain() {
  draining_ = true;
  for (const auto& viewer : viewers_) End(*viewer);
  Sweep();
}

}  // namespace pagoda::router::ui
