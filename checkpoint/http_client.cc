#include "checkpoint/http_client.h"

#include <openssl/ssl.h>

#include <algorithm>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/ssl/context.hpp>
#include <boost/asio/ssl/host_name_verification.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <boost/beast/ssl/ssl_stream.hpp>
#include <boost/beast/version.hpp>
#include <chrono>
#include <optional>

namespace pagoda::checkpoint {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;
namespace ssl = boost::asio::ssl;

constexpr uint32_t kMaxHeaderBytes = 64u << 10;
constexpr size_t kBodyChunkBytes = 256u << 10;

bool IsLoopback(const std::string& host) {
  const bool number =
      host.find_first_not_of("0123456789.") == std::string::npos;  // and not 127.example.com
  return host == "localhost" || host == "::1" || (number && host.starts_with("127."));
}

// One connection, one request. Every step is started, then the context runs until it is done or its
// time is up.
class Exchange {
 public:
  explicit Exchange(const HttpRequest& request) : request_(request) {}

  absl::StatusOr<HttpHead> Run(const HttpHeadHandler& on_head, const HttpBodyHandler& on_body) {
    if (request_.url.scheme == "http") {
      beast::tcp_stream stream(context_);
      PAGODA_RETURN_IF_ERROR(Connect(stream));
      return Talk(stream, on_head, on_body);
    }
    ssl::context tls(ssl::context::tls_client);
    tls.set_verify_mode(ssl::verify_peer);
    beast::error_code error;
    if (request_.ca_file.empty()) {
      tls.set_default_verify_paths(error);
    } else {
      tls.load_verify_file(request_.ca_file, error);
    }
    if (error)
      return absl::FailedPreconditionError(
          absl::StrCat("cannot load TLS certificates: ", error.message()));
    beast::ssl_stream<beast::tcp_stream> stream(context_, tls);
    stream.set_verify_callback(ssl::host_name_verification(request_.url.host));
    if (SSL_set_tlsext_host_name(stream.native_handle(), request_.url.host.c_str()) != 1) {
      return absl::InternalError("OpenSSL refused the host's name");
    }
    PAGODA_RETURN_IF_ERROR(Connect(beast::get_lowest_layer(stream)));
    PAGODA_RETURN_IF_ERROR(Step(stream, "making the TLS connection", [&](auto done) {
      stream.async_handshake(ssl::stream_base::client, done);
    }));
    return Talk(stream, on_head, on_body);
  }

 private:
  template <typename Stream, typename Start>
  absl::Status Step(Stream& stream, std::string_view what, Start start) {
    beast::error_code error;
    beast::get_lowest_layer(stream).expires_after(std::chrono::milliseconds(request_.timeout_ms));
    start([&error](beast::error_code result, auto&&...) { error = result; });
    context_.restart();
    context_.run();
    if (!error || error == http::error::need_buffer) return absl::OkStatus();
    return absl::UnavailableError(
        absl::StrCat(request_.url.Origin(), ": ", AsAbsl(what), ": ", error.message()));
  }

  absl::Status Connect(beast::tcp_stream& stream) {
    asio::ip::tcp::resolver resolver(context_);
    beast::error_code error;
    const auto addresses = resolver.resolve(request_.url.host, request_.url.port, error);
    if (error)
      return absl::UnavailableError(
          absl::StrCat("cannot find the host ", request_.url.host, ": ", error.message()));
    return Step(stream, "connecting", [&](auto done) { stream.async_connect(addresses, done); });
  }

  template <typename Stream>
  absl::StatusOr<HttpHead> Talk(Stream& stream, const HttpHeadHandler& on_head,
                                const HttpBodyHandler& on_body) {
    http::request<http::empty_body> request(http::verb::get, request_.url.target, 11);
    const bool default_port = request_.url.port == (request_.url.scheme == "https" ? "443" : "80");
    request.set(http::field::host,
                default_port ? request_.url.host : request_.url.host + ":" + request_.url.port);
    request.set(http::field::user_agent, "pagoda");
    request.set(http::field::accept_encoding, "identity");
    request.set(http::field::connection, "close");
    for (const auto& [name, value] : request_.headers) request.set(name, value);
    PAGODA_RETURN_IF_ERROR(Step(stream, "sending the request",
                                [&](auto done) { http::async_write(stream, request, done); }));

    beast::flat_buffer buffer;
    http::response_parser<http::buffer_body> parser;
    parser.header_limit(kMaxHeaderBytes);
    parser.body_limit(boost::none);  // on_body refuses what is too much
    PAGODA_RETURN_IF_ERROR(Step(stream, "reading the answer", [&](auto done) {
      http::async_read_header(stream, buffer, parser, done);
    }));
    HttpHead head;
    head.status = static_cast<int>(parser.get().result_int());
    for (const auto& field : parser.get()) {
      std::string name(field.name_string());
      std::transform(name.begin(), name.end(), name.begin(),
                     [](char c) { return c >= 'A' && c <= 'Z' ? c + 32 : c; });
      head.headers.emplace(std::move(name), std::string(field.value()));
    }
    PAGODA_RETURN_IF_ERROR(on_head(head));
    if (head.status != 200 && head.status != 206) return head;
    std::vector<std::byte> chunk(kBodyChunkBytes);
    while (!parser.is_done()) {
      auto& body = parser.get().body();
      body.data = chunk.data();
      body.size = chunk.size();
      PAGODA_RETURN_IF_ERROR(Step(stream, "reading the body", [&](auto done) {
        http::async_read_some(stream, buffer, parser, done);
      }));
      PAGODA_RETURN_IF_ERROR(on_body(std::span(chunk).first(chunk.size() - body.size)));
    }
    return head;
  }

  const HttpRequest& request_;
  asio::io_context context_;
};

bool IsVisible(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return c > 32 && c < 127; });
}

}  // namespace

std::string Url::Origin() const {
  const bool colons = host.find(':') != std::string::npos;
  return absl::StrCat(scheme, "://", colons ? "[" : "", host, colons ? "]" : "", ":", port);
}

absl::StatusOr<Url> ParseUrl(std::string_view text) {
  const auto bad = [&](std::string_view why) {
    return absl::InvalidArgumentError(
        absl::StrCat("the address \"", AsAbsl(text), "\" ", AsAbsl(why)));
  };
  Url url;
  std::string_view rest;
  if (text.starts_with("https://")) {
    url.scheme = "https";
    rest = text.substr(8);
  } else if (text.starts_with("http://")) {
    url.scheme = "http";
    rest = text.substr(7);
  } else {
    return bad("does not begin with https://");
  }
  if (!IsVisible(rest)) return bad("has characters that an address cannot have");
  const size_t end = std::min(rest.find_first_of("/?#"), rest.size());
  std::string_view authority = rest.substr(0, end);
  rest = rest.substr(end);
  url.target = rest.substr(0, rest.find('#'));
  if (url.target.empty() || url.target[0] != '/') url.target.insert(0, "/");
  url.port = url.scheme == "https" ? "443" : "80";
  const size_t colon = authority.rfind(':');
  if (colon != std::string_view::npos && authority.find(']', colon) == std::string_view::npos) {
    url.port = authority.substr(colon + 1);
    authority = authority.substr(0, colon);
  }
  if (authority.starts_with('[') && authority.ends_with(']'))
    authority = authority.substr(1, authority.size() - 2);
  url.host = authority;
  const bool digits = !url.port.empty() && url.port.size() <= 5 &&
                      url.port.find_first_not_of("0123456789") == std::string::npos &&
                      std::stoi(url.port) <= 65535;
  if (url.host.empty() || url.host.find_first_of("@[]") != std::string::npos || !digits)
    return bad("has no proper host and port");
  if (url.scheme == "http" && !IsLoopback(url.host))
    return bad("is plain http, which is only allowed to this machine itself");
  return url;
}

absl::StatusOr<Url> ResolveLocation(const Url& base, std::string_view location) {
  if (location.starts_with("//")) return ParseUrl(base.scheme + ":" + std::string(location));
  if (location.starts_with("/")) return ParseUrl(base.Origin() + std::string(location));
  PAGODA_ASSIGN_OR_RETURN(Url url, ParseUrl(location));
  if (base.scheme == "https" && url.scheme == "http") {
    return absl::InvalidArgumentError(
        absl::StrCat(base.Origin(), " redirects to plain http, which is refused"));
  }
  return url;
}

std::string HttpHead::Header(const std::string& name) const {
  const auto found = headers.find(name);
  return found == headers.end() ? "" : found->second;
}

absl::StatusOr<HttpHead> HttpGet(const HttpRequest& request, const HttpHeadHandler& on_head,
                                 const HttpBodyHandler& on_body) {
  try {
    return Exchange(request).Run(on_head, on_body);
  } catch (const std::exception& error) {
    return absl::UnavailableError(absl::StrCat(request.url.Origin(), ": ", error.what()));
  }
}

}  // namespace pagoda::checkpoint
