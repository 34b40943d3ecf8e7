// One HTTP connection. Internal to http/; brings Asio and Beast. All on the event loop's thread.
// Life: kHead -> kBody -> kAnswering -> kHead ... -> closed. One read is always outstanding (unless
// as much as may be buffered is there), so that a client that goes away is noticed while its
// request is being answered.
#pragma once

#include <array>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/string_body.hpp>
#include <list>
#include <optional>

#include "absl/container/flat_hash_map.h"
#include "router/http/server.h"
#include "security/tls_session.h"

namespace pagoda::router::http {

class Connection;

inline constexpr std::string_view kTooManyConnections = "too_many_connections";
inline constexpr std::string_view kTooManyConnectionsText = "this server has its limit of connections open, in all or from your address";

struct Server::State : std::enable_shared_from_this<Server::State> {
  State(EventLoop* l, Limits given, Events e);
  void Accept();
  void Forget(Connection* connection);
  // Makes room if there is none. None: the connection is refused.
  enum class Place { kOrdinary, kForProbes, kNone };
  Place FindPlace(const std::string& address);
  std::string RefusalText() const;  // of a connection too many: a whole answer

  EventLoop* const loop;
  const Limits limits;
  const Events events;
  boost::asio::ip::tcp::acceptor acceptor;
  boost::asio::steady_timer accept_pause;
  std::vector<std::shared_ptr<Connection>> connections;  // a connection knows its index
  std::list<Connection*> idle;        // between two requests, the longest first
  std::vector<Connection*> for_probes;  // beyond the limit of connections, the oldest first; among `connections`
  absl::flat_hash_map<std::string, int> per_address;  // empty without a limit per address
  size_t body_bytes = 0;                                 // held by all connections
  bool draining = false;
  std::unique_ptr<security::HttpsContext> https;  // null: plain HTTP
};

class Connection : public std::enable_shared_from_this<Connection> {
 public:
  Connection(std::shared_ptr<Server::State> server, boost::asio::ip::tcp::socket socket, std::string address, bool for_probes);
  void Start();
  void GiveWay();  // to another one: refuses what has not begun to be answered, and closes
  void Close();  // at once; tells a handler that still answers
  void CloseIfIdle();
  bool busy() const { return phase_ == Phase::kAnswering || writing_; }
  size_t index = 0;  // in State::connections
  const std::string address;  // as in State::per_address
  const bool for_probes;      // answers one request, and only if it is a probe

 private:
  friend class ConnectionResponse;
  using Parser = boost::beast::http::request_parser<boost::beast::http::string_body>;
  enum class Phase { kHead, kBody, kAnswering, kLingering, kClosed };

  void Read();
  void OnRead(const boost::system::error_code& error, size_t bytes);
  // Puts what came into in_, through TLS if that is spoken. False when the connection is over.
  bool Take(std::string_view bytes);
  void SayContinue();
  void Advance();  // parses what is there
  void ParseHead();
  void ParseBody();
  void Dispatch();
  void Refuse(int status, std::string_view code, std::string_view message);
  void SetDeadline(int64_t ms);
  void OnDeadline();

  // Of the answer under way; `serial` tells a late call of an earlier response apart.
  void Respond(uint64_t serial, int status, std::string_view content_type, std::string body,
               Headers headers);
  void BeginStream(uint64_t serial, int status, std::string_view content_type, Headers headers);
  bool WriteStream(uint64_t serial, std::string_view data);
  void FinishStream(uint64_t serial);
  void AbortStream(uint64_t serial);
  void AppendHead(int status, std::string_view content_type, const Headers& headers);
  void Flush();
  void FlushSoon();
  void OnWritten(const boost::system::error_code& error);
  void AnswerComplete();
  void CloseWith(Response::CloseReason reason);
  void ReleaseBody();
  void SetIdle(bool idle);

  const std::shared_ptr<Server::State> server_;
  boost::asio::ip::tcp::socket socket_;
  boost::asio::steady_timer timer_;
  uint64_t timer_serial_ = 0;
  Phase phase_ = Phase::kHead;
  bool reading_ = false;
  bool first_request_ = true;
  bool head_begun_ = false;  // bytes of the next request have come
  std::optional<std::list<Connection*>::iterator> idle_place_;  // in State::idle
  const std::unique_ptr<security::TlsSession> tls_;  // null: plain HTTP
  std::array<char, 8192> chunk_;
  std::string in_;  // received and not parsed
  std::optional<Parser> parser_;
  size_t body_held_ = 0;
  MonotonicNs received_ns_ = 0;

  uint64_t serial_ = 0;
  bool keep_alive_ = true;
  bool http11_ = true;
  bool head_only_ = false;  // HEAD
  bool started_ = false;    // the answer's head is written
  bool streaming_ = false;
  bool complete_ = false;  // nothing more will be added to the answer
  std::string out_;        // being written
  std::string next_;       // to be written after it
  std::string wire_;       // TLS only: records to go out before those of next_
  bool writing_ = false;
  bool flush_posted_ = false;
  std::function<void(Response::CloseReason)> closed_;
};

}  // namespace pagoda::router::http
