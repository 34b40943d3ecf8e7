#include "router/http/connection.h"

#include <boost/asio/buffer.hpp>

#include "router/event_loop_asio.h"
#include "router/http/head.h"

namespace pagoda::router::http {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;

constexpr size_t kMaxReadAhead = 64u << 10;  // pipelined bytes kept while a request is answered
constexpr size_t kMaxChunkHeader =
    16u << 10;  // unparsed bytes of a chunked body: size line, extensions, trailers
constexpr int64_t kProbeMs = 2000;  // for the header of a probe beyond the limit of connections

}  // namespace

class ConnectionResponse : public Response {
 public:
  ConnectionResponse(std::shared_ptr<Connection> connection, uint64_t serial)
      : connection_(std::move(connection)), serial_(serial) {}
  ~ConnectionResponse() override {
    // A handler that lets go of an answer without one is our bug; the client is not left waiting
    // for it.
    if (connection_->serial_ == serial_ && !connection_->complete_ &&
        connection_->phase_ == Connection::Phase::kAnswering) {
      connection_->closed_ = nullptr;
      connection_->Close();
    }
  }
  void Send(int status, std::string_view content_type, std::string body, Headers headers) override {
    connection_->Respond(serial_, status, content_type, std::move(body), std::move(headers));
  }
  void StartStream(int status, std::string_view content_type, Headers headers) override {
    connection_->BeginStream(serial_, status, content_type, std::move(headers));
  }
  bool Write(std::string_view data) override { return connection_->WriteStream(serial_, data); }
  void EndStream() override { connection_->FinishStream(serial_); }
  void Abort() override { connection_->AbortStream(serial_); }
  void OnClosed(std::function<void(CloseReason)> closed) override {
    if (connection_->serial_ == serial_ && connection_->phase_ == Connection::Phase::kAnswering) {
      connection_->closed_ = std::move(closed);
    } else if (closed && !connection_->complete_) {
      closed(CloseReason::kClientGone);
    }
  }

 private:
  const std::shared_ptr<Connection> connection_;
  const uint64_t serial_;
};

Connection::Connection(std::shared_ptr<Server::State> server, asio::ip::tcp::socket socket, std::string from, bool probes)
    : address(std::move(from)),
      for_probes(probes),
      server_(std::move(server)),
      socket_(std::move(socket)),
      timer_(socket_.get_executor()),
      tls_(server_->https == nullptr
               ? nullptr
               : std::make_unique<security::TlsSession>(server_->https->Current(NowNs()))) {}

void Connection::Start() {
  SetDeadline(for_probes ? std::min(kProbeMs, server_->limits.header_timeout_ms) : server_->limits.header_timeout_ms);
  Read();
}

void Connection::GiveWay() {
  if (phase_ == Phase::kHead && tls_ == nullptr) {
    boost::system::error_code ignored;
    socket_.write_some(asio::buffer(server_->RefusalText()), ignored);
    socket_.shutdown(asio::ip::tcp::socket::shutdown_send, ignored);
  }
  Close();
}

void Connection::SetIdle(bool idle) {
  if (idle == idle_place_.has_value()) return;
  if (idle) {
    idle_place_ = server_->idle.insert(server_->idle.end(), this);
  } else {
    server_->idle.erase(*idle_place_);
    idle_place_.reset();
  }
}

void Connection::SetDeadline(int64_t ms) {
  const uint64_t serial = ++timer_serial_;
  timer_.expires_after(std::chrono::milliseconds(ms));
  timer_.async_wait([self = shared_from_this(), serial](const boost::system::error_code& error) {
    if (!error && serial == self->timer_serial_) self->OnDeadline();
  });
}

void Connection::OnDeadline() {
  switch (phase_) {
    case Phase::kHead:
      if (in_.empty()) return Close();
      server_->events.rejected("invalid");
      return Refuse(408, "timeout", "the request header did not arrive in time");
    case Phase::kBody:
      server_->events.rejected("invalid");
      return Refuse(408, "timeout", "the request body did not arrive in time");
    case Phase::kAnswering:
      if (writing_) CloseWith(Response::CloseReason::kSlowReader);
      return;
    case Phase::kLingering:
      return Close();
    case Phase::kClosed:
      return;
  }
}

void Connection::Read() {
  if (reading_ || phase_ == Phase::kClosed) return;
  if (phase_ == Phase::kAnswering && in_.size() >= kMaxReadAhead) return;
  reading_ = true;
  socket_.async_read_some(
      asio::buffer(chunk_),
      [self = shared_from_this()](const boost::system::error_code& error, size_t bytes) {
        self->reading_ = false;
        self->OnRead(error, bytes);
      });
}

void Connection::OnRead(const boost::system::error_code& error, size_t bytes) {
  if (phase_ == Phase::kClosed) return;
  if (error == asio::error::eof && phase_ == Phase::kAnswering && complete_) {
    keep_alive_ = false;  // half-closed by a client that still reads: let the answer go out
    return;
  }
  if (error) return Close();
  if (phase_ == Phase::kLingering) return Read();  // thrown away
  if (phase_ == Phase::kHead && !head_begun_) {
    head_begun_ = true;
    SetIdle(false);
    received_ns_ = NowNs();
    if (!first_request_) SetDeadline(server_->limits.header_timeout_ms);
  }
  if (!Take({chunk_.data(), bytes})) return;
  Advance();
  Read();
}

bool Connection::Take(std::string_view bytes) {
  if (tls_ == nullptr) {
    in_.append(bytes);
    return true;
  }
  const auto state = tls_->Receive(bytes, in_, wire_);
  if (!wire_.empty()) Flush();  // of the handshake, or the alert that ends it
  if (phase_ == Phase::kClosed) return false;
  if (wire_.size() > kMaxReadAhead) {  // it makes us answer, and takes no answer
    Close();
    return false;
  }
  if (state == security::TlsSession::State::kOpen) return true;
  if (state == security::TlsSession::State::kBroken) server_->events.rejected("tls");
  // As a half-closed plain connection: an answer that is whole may still go out.
  if (phase_ == Phase::kAnswering && complete_) {
    keep_alive_ = false;
  } else {
    Close();
  }
  return false;
}

void Connection::SayContinue() {
  constexpr std::string_view kContinue = "HTTP/1.1 100 Continue\r\n\r\n";
  boost::system::error_code ignored;
  if (tls_ == nullptr) {
    socket_.write_some(asio::buffer(kContinue), ignored);
  } else {
    tls_->Send(kContinue, wire_);
    Flush();
  }
}

void Connection::Advance() {
  if (phase_ == Phase::kHead) ParseHead();
  if (phase_ == Phase::kBody) ParseBody();
}

void Connection::ParseHead() {
  // Blank lines before a request line are allowed.
  while (in_.starts_with("\r\n")) in_.erase(0, 2);
  if (in_.empty()) return;
  const size_t end = in_.find("\r\n\r\n");
  const HeadVerdict verdict =
      end == std::string::npos
          ? CheckPartialHead(in_, server_->limits)
          : CheckHead(std::string_view(in_).substr(0, end + 4), server_->limits);
  if (verdict.status != 0) {
    server_->events.rejected(verdict.status == 431 ? "too_large" : "invalid");
    return Refuse(verdict.status, verdict.code, verdict.message);
  }
  if (end == std::string::npos) return;

  parser_.emplace();
  parser_->header_limit(static_cast<uint32_t>(server_->limits.header_bytes) + 4);
  parser_->body_limit(server_->limits.body_bytes);
  boost::system::error_code error;
  const size_t used = parser_->put(asio::buffer(in_.data(), end + 4), error);
  if (error == beast::http::error::body_limit) {
    server_->events.rejected("too_large");
    return Refuse(413, "body_too_large",
                  absl::StrCat("the request body is larger than the limit of ",
                               server_->limits.body_bytes, " bytes"));
  }
  if ((error && error != beast::http::error::need_more) || !parser_->is_header_done()) {
    server_->events.rejected("invalid");
    return Refuse(400, "bad_request", "the request is not valid HTTP/1.1");
  }
  in_.erase(0, used);
  first_request_ = false;
  http11_ = parser_->get().version() >= 11;
  keep_alive_ = parser_->get().keep_alive();
  head_only_ = parser_->get().method() == beast::http::verb::head;
  if (for_probes) {
    const std::string_view target(parser_->get().target().data(), parser_->get().target().size());
    if (!server_->events.is_probe(target.substr(0, target.find('?')))) {
      server_->events.rejected("connections");
      return Refuse(503, kTooManyConnections, kTooManyConnectionsText);
    }
    keep_alive_ = false;
  }
  const auto length = parser_->content_length();
  if (length && *length > server_->limits.body_bytes) {
    server_->events.rejected("too_large");
    return Refuse(413, "body_too_large",
                  absl::StrCat("the request body has ", *length, " bytes; the limit is ",
                               server_->limits.body_bytes, " bytes"));
  }
  const size_t may_hold = length ? *length : 0;
  if (server_->body_bytes + may_hold > server_->limits.all_bodies_bytes) {
    server_->events.rejected("overloaded");
    return Refuse(503, "overloaded", "too many request bodies are being read at once");
  }
  body_held_ = may_hold;
  server_->body_bytes += body_held_;
  parser_->eager(true);
  phase_ = Phase::kBody;
  if (!parser_->is_done()) {
    SetDeadline(server_->limits.body_timeout_ms);
    if (EqualsIgnoringCase(std::string_view(parser_->get()[beast::http::field::expect].data(),
                                            parser_->get()[beast::http::field::expect].size()),
                           "100-continue")) {
      SayContinue();
    }
  }
}

void Connection::ParseBody() {
  while (!parser_->is_done() && !in_.empty()) {
    boost::system::error_code error;
    const size_t used = parser_->put(asio::buffer(in_), error);
    in_.erase(0, used);
    if (error == beast::http::error::body_limit ||
        parser_->get().body().size() > server_->limits.body_bytes) {
      server_->events.rejected("too_large");
      return Refuse(413, "body_too_large",
                    absl::StrCat("the request body is larger than the limit of ",
                                 server_->limits.body_bytes, " bytes"));
    }
    if (error && error != beast::http::error::need_more) {
      server_->events.rejected("invalid");
      return Refuse(400, "bad_request", "the request body is not framed as its header says");
    }
    const size_t body = parser_->get().body().size();
    if (body > body_held_) {
      server_->body_bytes += body - body_held_;
      body_held_ = body;
      if (server_->body_bytes > server_->limits.all_bodies_bytes) {
        server_->events.rejected("overloaded");
        return Refuse(503, "overloaded", "too many request bodies are being read at once");
      }
    }
    if (error == beast::http::error::need_more || used == 0) {
      if (in_.size() <= kMaxChunkHeader) break;
      server_->events.rejected("too_large");
      return Refuse(400, "bad_request", "a chunk's header is too long");
    }
  }
  if (parser_->is_done()) Dispatch();
}

void Connection::Dispatch() {
  auto request = std::make_shared<Request>();
  auto message = parser_->release();
  parser_.reset();
  const auto method = message.method_string();
  const auto target = message.target();
  request->method.assign(method.data(), method.size());
  const std::string_view whole(target.data(), target.size());
  const size_t question = whole.find('?');
  request->path = whole.substr(0, question);
  if (question != std::string_view::npos) request->query = whole.substr(question + 1);
  for (const auto& field : message) {
    request->headers.emplace_back(
        std::string(field.name_string().data(), field.name_string().size()),
        std::string(field.value().data(), field.value().size()));
  }
  request->body = std::move(message.body());
  request->received_ns = received_ns_;
  phase_ = Phase::kAnswering;
  ++serial_;
  started_ = streaming_ = complete_ = false;
  ++timer_serial_;  // no deadline of ours while the handler works
  timer_.cancel();
  auto response = std::make_shared<ConnectionResponse>(shared_from_this(), serial_);
  server_->events.request(std::move(request), std::move(response));
}

void Connection::Refuse(int status, std::string_view code, std::string_view message) {
  ReleaseBody();
  // The client's own id, when its header was read that far.
  std::string given;
  if (parser_) {
    const auto field = parser_->get()["X-Request-Id"];
    given.assign(field.data(), field.size());
  }
  parser_.reset();
  in_.clear();
  keep_alive_ = false;
  phase_ = Phase::kAnswering;
  ++serial_;
  started_ = streaming_ = complete_ = false;
  Headers headers = {{"X-Request-Id", server_->events.request_id(given)}};
  if (status == 503) headers.emplace_back("Retry-After", "1");
  Respond(serial_, status, "application/json", server_->events.error_body(status, code, message), std::move(headers));
}

void Connection::ReleaseBody() {
  server_->body_bytes -= body_held_;
  body_held_ = 0;
}

void Connection::CloseIfIdle() {
  if (phase_ == Phase::kHead && in_.empty()) Close();
}

void Connection::CloseWith(Response::CloseReason reason) {
  if (phase_ == Phase::kClosed) return;
  const auto self = shared_from_this();
  phase_ = Phase::kClosed;
  ReleaseBody();
  SetIdle(false);
  boost::system::error_code ignored;
  socket_.close(ignored);
  timer_.cancel();
  server_->Forget(this);
  if (auto closed = std::move(closed_)) closed(reason);
}

void Connection::Close() { CloseWith(Response::CloseReason::kClientGone); }

}  // namespace pagoda::router::http
