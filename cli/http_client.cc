#include "cli/http_client.h"

#include <boost/asio/awaitable.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <limits>
#include <optional>

#include "cli/tls_stream.h"

namespace pagoda::cli {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;
using Tcp = asio::ip::tcp;

http::request<http::string_body> ToBeast(const HttpRequest& request) {
  http::request<http::string_body> out(http::string_to_verb(request.method), request.target, 11);
  out.set(http::field::host, request.server.ToString());
  out.set(http::field::user_agent, "pagoda/" PAGODA_VERSION);
  for (const auto& [name, value] : request.headers) out.set(name, value);
  if (!request.body.empty()) out.set(http::field::content_type, "application/json");
  out.body() = request.body;
  out.prepare_payload();
  return out;
}

// `stream` is connected, and `lowest` is what its deadlines are set on.
template <typename Stream>
asio::awaitable<HttpResponse> Converse(Stream& stream, beast::tcp_stream& lowest, const HttpRequest& request,
                                       const std::function<bool(std::string_view)>& on_body) {
  const auto timeout = std::chrono::milliseconds(request.timeout_ms);
  const auto message = ToBeast(request);
  co_await http::async_write(stream, message, asio::use_awaitable);

  beast::flat_buffer buffer;
  http::response_parser<http::buffer_body> parser;
  parser.body_limit(std::numeric_limits<uint64_t>::max());
  lowest.expires_after(timeout);
  co_await http::async_read_header(stream, buffer, parser, asio::use_awaitable);
  HttpResponse response;
  response.status = parser.get().result_int();
  char piece[16384];
  while (!parser.is_done()) {
    parser.get().body().data = piece;
    parser.get().body().size = sizeof(piece);
    lowest.expires_after(timeout);
    boost::system::error_code error;
    co_await http::async_read_some(stream, buffer, parser, asio::redirect_error(asio::use_awaitable, error));
    if (error && error != http::error::need_buffer) throw boost::system::system_error(error);
    const std::string_view read(piece, sizeof(piece) - parser.get().body().size);
    if (on_body == nullptr || response.status != 200) {
      response.body.append(read);
    } else if (!read.empty() && !on_body(read)) {
      break;
    }
  }
  co_return response;
}

asio::awaitable<HttpResponse> Exchange(const HttpRequest& request,
                                       const std::function<bool(std::string_view)>& on_body) {
  const auto executor = co_await asio::this_coro::executor;
  Tcp::resolver resolver(executor);
  const auto addresses = co_await resolver.async_resolve(
      request.server.host, std::to_string(request.server.port), asio::use_awaitable);
  asio::ssl::context tls = TlsContext(request.authority);
  TlsStream stream(executor, tls);
  beast::tcp_stream& lowest = stream.next_layer();
  lowest.expires_after(std::chrono::milliseconds(request.timeout_ms));
  co_await lowest.async_connect(addresses, asio::use_awaitable);
  lowest.socket().set_option(Tcp::no_delay(true));
  if (request.authority.empty()) co_return co_await Converse(lowest, lowest, request, on_body);
  VerifyHost(stream, request.server_name.empty() ? request.server.host : request.server_name);
  co_await stream.async_handshake(asio::ssl::stream_base::client, asio::use_awaitable);
  co_return co_await Converse(stream, lowest, request, on_body);
}

absl::StatusOr<HttpResponse> Run(const HttpRequest& request, const std::function<bool(std::string_view)>& on_body) {
  asio::io_context context(1);
  absl::StatusOr<HttpResponse> result = absl::UnavailableError("no answer");
  const auto finished = [&](std::exception_ptr error, HttpResponse response) {
    if (!error) {
      result = std::move(response);
      return;
    }
    try {
      std::rethrow_exception(error);
    } catch (const boost::system::system_error& problem) {
      result = absl::UnavailableError(
          absl::StrCat(request.authority.empty() ? "http://" : "https://", request.server.ToString(), request.target, ": ", problem.code().message()));
    } catch (const std::exception& problem) {
      result = absl::InternalError(problem.what());
    }
  };
  asio::co_spawn(context, Exchange(request, on_body), finished);
  context.run();
  return result;
}

}  // namespace

absl::StatusOr<HttpResponse> HttpCall(const HttpRequest& request) { return Run(request, nullptr); }

absl::StatusOr<HttpResponse> HttpStream(const HttpRequest& request,
                                        const std::function<bool(std::string_view)>& on_body) {
  return Run(request, on_body);
}

void SseSplitter::Feed(std::string_view bytes) {
  while (!bytes.empty()) {
    const size_t end = bytes.find('\n');
    if (end == std::string_view::npos) {
      partial_.append(bytes);
      return;
    }
    if (partial_.empty()) {
      Line(bytes.substr(0, end));
    } else {
      partial_.append(bytes.substr(0, end));
      Line(partial_);
      partial_.clear();
    }
    bytes.remove_prefix(end + 1);
  }
}

void SseSplitter::Line(std::string_view line) {
  if (line.ends_with('\r')) line.remove_suffix(1);
  if (line.empty()) {
    if (!data_.empty()) on_data_(data_);
    data_.clear();
  } else if (line.starts_with("data:")) {
    line.remove_prefix(5);
    if (line.starts_with(' ')) line.remove_prefix(1);
    if (!data_.empty()) data_ += '\n';
    data_.append(line);
  }
}

absl::StatusOr<HostPort> ParseServer(const std::string& text) {
  std::string rest = text;
  const bool https = rest.starts_with("https://");
  if (https || rest.starts_with("http://")) rest = rest.substr(https ? 8 : 7);
  if (rest.find("://") != std::string::npos)
    return absl::InvalidArgumentError(absl::StrCat("'", text, "' is not http://host:port or https://host:port"));
  rest = rest.substr(0, rest.find('/'));
  if (rest.find(':') == std::string::npos) rest += https ? ":443" : ":80";
  return ParseHostPort(rest);
}

std::string AuthorityFor(const std::string& url, const std::string& file) {
  if (!url.starts_with("https://")) return "";
  return file.empty() ? "system" : file;
}

}  // namespace pagoda::cli
