#include "security/status_server.h"

#include <boost/asio/awaitable.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/ssl/context.hpp>
#include <boost/asio/ssl/stream.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <boost/beast/ssl/ssl_stream.hpp>
#include <ctime>
#include <optional>
#include <thread>
#include <vector>

#include "common/config.h"
#include "common/log.h"
#include "common/metrics.h"
#include "security/certificate_age.h"
#include "security/certificate_files.h"
#include "security/https_context.h"
#include "security/key_file.h"

namespace pagoda::security {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;
using Tcp = asio::ip::tcp;
using Request = http::request<http::empty_body>;
using Response = http::response<http::string_body>;

constexpr size_t kMostConnections = 64;
constexpr auto kPatience = std::chrono::seconds(10);  // for a handshake, a request, an answer
constexpr auto kIdle = std::chrono::seconds(75);
constexpr uint32_t kMaxHeaderBytes = 8192;

}  // namespace

struct StatusServer::State {
  explicit State(StatusServerOptions given)
      : options(std::move(given)),
        acceptor(context),
        keys(options.api_key_file),
        certificate_age(*options.registry, {{"cluster", options.certificate}}) {
    certificate_age.Refresh(std::time(nullptr));
  }

  absl::Status Listen();
  asio::awaitable<void> Accept();
  asio::awaitable<void> Serve(Tcp::socket socket);
  template <typename Stream>
  asio::awaitable<void> Answer(Stream& stream, beast::tcp_stream& lowest);
  Response AnswerTo(const Request& request);

  // A stream's place in `open`.
  class Opened {
   public:
    Opened(State* state, beast::tcp_stream* stream) : state_(state), stream_(stream) { state->open.push_back(stream); }
    ~Opened() { std::erase(state_->open, stream_); }
    Opened(const Opened&) = delete;
    Opened& operator=(const Opened&) = delete;

   private:
    State* const state_;
    beast::tcp_stream* const stream_;
  };

  const StatusServerOptions options;
  std::vector<beast::tcp_stream*> open;  // the oldest first; outlives what `context` runs
  asio::io_context context{1};
  Tcp::acceptor acceptor;
  KeyFile keys;
  CertificateAge certificate_age;
  std::unique_ptr<HttpsContext> https;
  std::thread thread;
};

absl::Status StatusServer::State::Listen() {
  PAGODA_ASSIGN_OR_RETURN(const HostPort address, ParseHostPort(options.listen));
  PAGODA_RETURN_IF_ERROR(keys.Reload());
  if (!options.tls.empty()) {
    PAGODA_ASSIGN_OR_RETURN(https, HttpsContext::Load(absl::StrCat(options.tls, "/", kCertificateFile),
                                                      absl::StrCat(options.tls, "/", kKeyFile), ""));
  }
  boost::system::error_code error;
  Tcp::resolver resolver(context);
  const auto found = resolver.resolve(address.host, std::to_string(address.port), Tcp::resolver::passive, error);
  if (!error && !found.empty()) {
    const Tcp::endpoint endpoint = found.begin()->endpoint();
    acceptor.open(endpoint.protocol(), error);
    if (!error) acceptor.set_option(Tcp::acceptor::reuse_address(true), error);
    if (!error) acceptor.bind(endpoint, error);
    if (!error) acceptor.listen(64, error);
  }
  if (!error) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat("cannot serve metrics on ", options.listen, ": ", error.message()));
}

asio::awaitable<void> StatusServer::State::Accept() {
  while (true) {
    boost::system::error_code error;
    Tcp::socket socket = co_await acceptor.async_accept(asio::redirect_error(asio::use_awaitable, error));
    if (error == asio::error::operation_aborted) co_return;
    if (error) {  // out of descriptors, most likely
      asio::steady_timer pause(context, std::chrono::milliseconds(50));
      co_await pause.async_wait(asio::redirect_error(asio::use_awaitable, error));
      continue;
    }
    // The newest stay: however many come and say nothing, a probe has been answered long before it is its turn to go.
    if (open.size() >= kMostConnections) {
      open.front()->close();
      open.erase(open.begin());
    }
    asio::co_spawn(context, Serve(std::move(socket)), asio::detached);
  }
}

asio::awaitable<void> StatusServer::State::Serve(Tcp::socket socket) {
  try {
    if (https == nullptr) {
      beast::tcp_stream stream(std::move(socket));
      const Opened opened(this, &stream);
      co_await Answer(stream, stream);
    } else {
      const std::shared_ptr<SSL_CTX> current = https->Current(NowNs());
      SSL_CTX_up_ref(current.get());
      asio::ssl::context tls(current.get());  // takes one reference
      beast::ssl_stream<beast::tcp_stream> stream(std::move(socket), tls);
      const Opened opened(this, &stream.next_layer());
      stream.next_layer().expires_after(kPatience);
      co_await stream.async_handshake(asio::ssl::stream_base::server, asio::use_awaitable);
      co_await Answer(stream, stream.next_layer());
    }
  } catch (const std::exception&) {
    // The client went away, was too slow, or spoke something else: the connection ends.
  }
}

template <typename Stream>
asio::awaitable<void> StatusServer::State::Answer(Stream& stream, beast::tcp_stream& lowest) {
  beast::flat_buffer buffer(2 * kMaxHeaderBytes);
  lowest.expires_after(kPatience);
  while (true) {
    http::request_parser<http::empty_body> parser;
    parser.header_limit(kMaxHeaderBytes);
    co_await http::async_read(stream, buffer, parser, asio::use_awaitable);
    Response response = AnswerTo(parser.get());
    response.keep_alive(parser.get().keep_alive());
    response.prepare_payload();
    lowest.expires_after(kPatience);
    co_await http::async_write(stream, response, asio::use_awaitable);
    if (!response.keep_alive()) co_return;
    lowest.expires_after(kIdle);
  }
}

Response StatusServer::State::AnswerTo(const Request& request) {
  Response response(http::status::ok, 11);
  const bool get = request.method() == http::verb::get || request.method() == http::verb::head;
  const auto target = request.target();
  if (get && target == "/livez") return response;
  if (get && target == "/readyz") {
    if (options.ready != nullptr && !options.ready()) response.result(http::status::service_unavailable);
    return response;
  }
  const auto header = request[http::field::authorization];
  keys.ReloadIfChanged();
  const absl::StatusOr<std::shared_ptr<const ApiKey>> key = keys.Admit({header.data(), header.size()}, Scope::kMetrics);
  if (!key.ok()) {
    response.result(absl::IsPermissionDenied(key.status()) ? http::status::forbidden : http::status::unauthorized);
    response.set(http::field::www_authenticate, "Basic realm=\"pagoda\"");
    response.body() = std::string(key.status().message()) + "\n";
  } else if (get && target == "/metrics") {
    response.set(http::field::content_type, "text/plain; version=0.0.4; charset=utf-8");
    certificate_age.Refresh(std::time(nullptr));
    response.body() = ExposeMetrics(*options.registry);
  } else {
    response.result(http::status::not_found);
  }
  return response;
}

StatusServer::StatusServer(std::unique_ptr<State> state) : state_(std::move(state)) {}

absl::StatusOr<std::unique_ptr<StatusServer>> StatusServer::Start(StatusServerOptions options) {
  auto state = std::make_unique<State>(std::move(options));
  PAGODA_RETURN_IF_ERROR(state->Listen());
  asio::co_spawn(state->context, state->Accept(), asio::detached);
  state->thread = std::thread([raw = state.get()] { raw->context.run(); });
  return std::unique_ptr<StatusServer>(new StatusServer(std::move(state)));
}

StatusServer::~StatusServer() {
  state_->context.stop();
  state_->thread.join();
}

int StatusServer::port() const { return state_->acceptor.local_endpoint().port(); }

void StatusServer::ReloadKeys() {
  if (const absl::Status status = state_->keys.Reload(); !status.ok()) {
    LogWarning("keys_not_loaded", {{"error", AsStd(status.message())}});
  }
}

}  // namespace pagoda::security
