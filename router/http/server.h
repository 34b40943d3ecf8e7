// An HTTP/1.1 server on the event loop: keep-alive, bodies by length or chunked, responses whole or
// as a stream of server-sent events. Every limit is enforced before memory is given out: header
// bytes and count, body bytes, bytes of all bodies together, connections, time for a header, for a
// body, idle, and for a reader that does not read. Requests whose framing two parsers could read
// differently (Content-Length with Transfer-Encoding, bare LF, folded headers, several lengths) are
// refused. Thread rule: all on the event loop's thread. Boost stays in the .cc files.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/clock.h"
#include "common/config.h"
#include "common/limits.h"
#include "common/status.h"
#include "router/event_loop.h"
#include "security/https_context.h"

namespace pagoda::router::http {

struct Limits {
  size_t header_bytes = limits::kMaxHeaderBytes;
  int header_count = limits::kMaxHeaderCount;
  size_t body_bytes = limits::kMaxBodyBytes;
  size_t all_bodies_bytes = 64 * limits::kMaxBodyBytes;  // of all requests being read or answered
  int connections = limits::kMaxConnections;
  int connections_per_address = 0;  // of one client's address; 0: no limit of its own
  int64_t header_timeout_ms =
      limits::kHeaderTimeoutMs;  // from the first byte (or the connection) to the end of the header
  int64_t body_timeout_ms = limits::kBodyTimeoutMs;
  int64_t idle_timeout_ms = limits::kIdleTimeoutMs;   // between requests of one connection
  int64_t write_timeout_ms = limits::kBodyTimeoutMs;  // without a byte taken by the reader
  size_t unread_bytes = limits::kMaxUnreadStreamBytes;
};

struct Request {
  std::string method;
  std::string path;  // before '?'
  std::string query;
  std::vector<std::pair<std::string, std::string>> headers;
  std::string body;
  MonotonicNs received_ns = 0;

  // The first header of that name (any case), or "".
  std::string_view Header(std::string_view name) const;
};

using Headers = std::vector<std::pair<std::string, std::string>>;

// Answers one request: either Send once, or StartStream, Write..., EndStream. All calls are safe
// after the client has gone (they do nothing).
class Response {
 public:
  virtual ~Response() = default;
  virtual void Send(int status, std::string_view content_type, std::string body,
                    Headers headers = {}) = 0;
  virtual void StartStream(int status, std::string_view content_type, Headers headers = {}) = 0;
  // Goes out together with what else waits. False once the stream is cut; `closed` below was or
  // will be called.
  virtual bool Write(std::string_view data) = 0;
  virtual void EndStream() = 0;
  // Closes the connection where it is, so that the client sees a cut stream and not an end. `closed` is not called.
  virtual void Abort() = 0;
  // `closed` is called once if the client goes away, or is cut, before the response is complete.
  enum class CloseReason { kClientGone, kSlowReader };
  virtual void OnClosed(std::function<void(CloseReason)> closed) = 0;
};

struct Events {
  std::function<void(std::shared_ptr<Request>, std::shared_ptr<Response>)> request;
  // The body of an answer to what is not a valid request.
  std::function<std::string(int status, std::string_view code, std::string_view message)>
      error_body;
  // Its X-Request-Id; `given` is the client's, empty when there is none or it was not read.
  std::function<std::string(std::string_view given)> request_id;
  std::function<void(std::string_view reason)> rejected;  // too_large, connections, invalid
  // What is answered beyond the limit of connections too, on a few kept for it: probes must not fail because there is much to do.
  std::function<bool(std::string_view path)> is_probe;
  std::function<void(int64_t)> connections_changed;
};

class Server {
 public:
  // kUnavailable when the address cannot be bound.
  // With `https`, TLS is spoken; else plain HTTP.
  static absl::StatusOr<std::unique_ptr<Server>> Listen(
      EventLoop* loop, const HostPort& address, Limits limits, Events events,
      std::unique_ptr<security::HttpsContext> https = nullptr);
  ~Server();

  int port() const;
  // From now on every response closes its connection, and idle connections are closed.
  void Drain();
  // No answer is being made or written.
  bool Idle() const;
  // Closes the listener and all connections.
  void Close();

  struct State;

 private:
  explicit Server(std::shared_ptr<State> state);
  std::shared_ptr<State> state_;
};

}  // namespace pagoda::router::http
