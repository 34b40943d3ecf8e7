// The half of a connection that writes: heads, whole answers, streams in chunks, and what comes after an answer.
#include <boost/asio/buffer.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/write.hpp>
#include <charconv>

#include "router/http/connection.h"

namespace pagoda::router::http {
namespace {

namespace asio = boost::asio;

constexpr int64_t kLingerMs =
    1000;  // after a refusal: reading on, so that the client sees the answer

std::string_view ReasonPhrase(int status) {
  switch (status) {
    case 200:
      return "OK";
    case 400:
      return "Bad Request";
    case 401:
      return "Unauthorized";
    case 403:
      return "Forbidden";
    case 404:
      return "Not Found";
    case 405:
      return "Method Not Allowed";
    case 408:
      return "Request Timeout";
    case 413:
      return "Payload Too Large";
    case 415:
      return "Unsupported Media Type";
    case 421:
      return "Misdirected Request";
    case 429:
      return "Too Many Requests";
    case 431:
      return "Request Header Fields Too Large";
    case 500:
      return "Internal Server Error";
    case 501:
      return "Not Implemented";
    case 503:
      return "Service Unavailable";
    case 504:
      return "Gateway Timeout";
    default:
      return "Status";
  }
}

}  // namespace

void Connection::AppendHead(int status, std::string_view content_type, const Headers& headers) {
  if (server_->draining) keep_alive_ = false;
  absl::StrAppend(&next_, "HTTP/1.1 ", status, " ", AsAbsl(ReasonPhrase(status)), "\r\n");
  if (!content_type.empty())
    absl::StrAppend(&next_, "Content-Type: ", AsAbsl(content_type), "\r\n");
  for (const auto& [name, value] : headers) absl::StrAppend(&next_, name, ": ", value, "\r\n");
  if (!keep_alive_) {
    next_ += "Connection: close\r\n";
  } else if (!http11_) {
    next_ += "Connection: keep-alive\r\n";
  }
}

void Connection::Respond(uint64_t serial, int status, std::string_view content_type,
                         std::string body, Headers headers) {
  if (serial != serial_ || phase_ != Phase::kAnswering || started_) return;
  started_ = complete_ = true;
  closed_ = nullptr;
  AppendHead(status, content_type, headers);
  absl::StrAppend(&next_, "Content-Length: ", body.size(), "\r\n\r\n");
  if (!head_only_) next_ += body;
  Flush();
}

void Connection::BeginStream(uint64_t serial, int status, std::string_view content_type,
                             Headers headers) {
  if (serial != serial_ || phase_ != Phase::kAnswering || started_) return;
  started_ = streaming_ = true;
  if (!http11_) keep_alive_ = false;  // the end of the connection ends the stream
  AppendHead(status, content_type, headers);
  next_ += http11_ ? "Transfer-Encoding: chunked\r\n\r\n" : "\r\n";
}

bool Connection::WriteStream(uint64_t serial, std::string_view data) {
  if (serial != serial_ || phase_ != Phase::kAnswering || !streaming_ || complete_) return false;
  if (data.empty()) return true;
  const auto too_much = [&] { return out_.size() + next_.size() + data.size() > server_->limits.unread_bytes; };
  if (too_much()) Flush();
  if (phase_ != Phase::kAnswering) return false;
  if (too_much()) {
    CloseWith(Response::CloseReason::kSlowReader);
    return false;
  }
  if (http11_) {
    char size[16];
    const auto [end, error] = std::to_chars(size, size + sizeof(size), data.size(), 16);
    (void)error;
    next_.append(size, end);
    next_ += "\r\n";
    next_ += data;
    next_ += "\r\n";
  } else {
    next_ += data;
  }
  FlushSoon();
  return true;
}

void Connection::AbortStream(uint64_t serial) {
  if (serial != serial_ || phase_ != Phase::kAnswering) return;
  closed_ = nullptr;
  Flush();
  Close();
}

void Connection::FinishStream(uint64_t serial) {
  if (serial != serial_ || phase_ != Phase::kAnswering || !streaming_ || complete_) return;
  complete_ = true;
  closed_ = nullptr;
  if (http11_) next_ += "0\r\n\r\n";
  FlushSoon();
}

// After what waits for the loop already: tokens of several steps, or a token and the stream's end, go out in one write.
void Connection::FlushSoon() {
  if (flush_posted_) return;
  flush_posted_ = true;
  asio::post(socket_.get_executor(), [self = shared_from_this()] {
    self->flush_posted_ = false;
    self->Flush();
  });
}

void Connection::Flush() {
  if (writing_ || phase_ == Phase::kClosed) return;
  if (next_.empty() && wire_.empty()) {
    if (complete_ && phase_ == Phase::kAnswering) AnswerComplete();
    return;
  }
  if (tls_ == nullptr) {
    std::swap(out_, next_);
  } else {
    out_.clear();
    std::swap(out_, wire_);
    if (!next_.empty()) tls_->Send(next_, out_);
  }
  next_.clear();
  // Most writes fit in the socket's buffer: try at once, without a turn of the loop.
  boost::system::error_code error;
  const size_t sent = socket_.write_some(asio::buffer(out_), error);
  if (error && error != asio::error::would_block && error != asio::error::try_again) return Close();
  if (!error && sent == out_.size()) {
    out_.clear();
    if (complete_ && phase_ == Phase::kAnswering) AnswerComplete();
    return;
  }
  out_.erase(0, error ? 0 : sent);
  writing_ = true;
  if (phase_ == Phase::kAnswering) SetDeadline(server_->limits.write_timeout_ms);
  asio::async_write(socket_, asio::buffer(out_),
                    [self = shared_from_this()](const boost::system::error_code& failure, size_t) {
                      self->OnWritten(failure);
                    });
}

void Connection::OnWritten(const boost::system::error_code& error) {
  writing_ = false;
  if (phase_ == Phase::kClosed) return;
  if (error) return Close();
  out_.clear();
  if (phase_ == Phase::kAnswering) {  // else it was of a handshake, whose deadline stays
    ++timer_serial_;
    timer_.cancel();
  }
  Flush();
}

void Connection::AnswerComplete() {
  ReleaseBody();
  if (!keep_alive_) {
    // The client may still be sending: closing now could reset the connection before it has read
    // the answer.
    phase_ = Phase::kLingering;
    boost::system::error_code ignored;
    if (tls_ != nullptr) {
      std::string goodbye;
      tls_->Close(goodbye);
      socket_.write_some(asio::buffer(goodbye), ignored);
    }
    socket_.shutdown(asio::ip::tcp::socket::shutdown_send, ignored);
    SetDeadline(kLingerMs);
    return Read();
  }
  phase_ = Phase::kHead;
  head_begun_ = !in_.empty();
  received_ns_ = NowNs();
  SetDeadline(in_.empty() ? server_->limits.idle_timeout_ms : server_->limits.header_timeout_ms);
  SetIdle(in_.empty());
  if (in_.empty()) return Read();
  // A pipelined request is there already; parse it from the loop, so that a long pipeline does not
  // nest.
  asio::post(socket_.get_executor(), [self = shared_from_this()] {
    self->Advance();
    self->Read();
  });
}

}  // namespace pagoda::router::http
