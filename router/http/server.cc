#include "router/http/server.h"

#include <algorithm>
#include <boost/asio/ip/address.hpp>

#include "router/event_loop_asio.h"
#include "router/http/connection.h"
#include "router/http/head.h"

namespace pagoda::router::http {

namespace asio = boost::asio;
using asio::ip::tcp;

std::string_view Request::Header(std::string_view name) const {
  for (const auto& [key, value] : headers) {
    if (EqualsIgnoringCase(key, name)) return value;
  }
  return {};
}

Server::State::State(EventLoop* l, Limits given, Events e)
    : loop(l),
      limits(given),
      events(std::move(e)),
      acceptor(l->state().context),
      accept_pause(l->state().context) {}

void Server::State::Accept() {
  acceptor.async_accept([self = shared_from_this()](const boost::system::error_code& error,
                                                    tcp::socket socket) {
    if (error == asio::error::operation_aborted) return;
    if (error) {
      // Out of descriptors, most likely: give connections time to end instead of spinning.
      self->accept_pause.expires_after(std::chrono::milliseconds(50));
      self->accept_pause.async_wait([self](const boost::system::error_code& stopped) {
        if (!stopped) self->Accept();
      });
      return;
    }
    boost::system::error_code ignored;
    socket.set_option(tcp::no_delay(true), ignored);
    socket.non_blocking(true, ignored);
    if (self->connections.size() >= static_cast<size_t>(self->limits.connections)) {
      self->events.rejected("connections");
      if (self->https != nullptr) return self->Accept();  // closed: an answer would need a handshake
      const std::string body = self->events.error_body(
          503, "too_many_connections", "this server has its limit of connections open");
      const std::string answer = absl::StrCat(
          "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 1\r\n"
          "X-Request-Id: ",
          self->events.request_id(""), "\r\nConnection: close\r\nContent-Length: ", body.size(),
          "\r\n\r\n", body);
      socket.write_some(asio::buffer(answer), ignored);
      socket.shutdown(tcp::socket::shutdown_send, ignored);
    } else {
      auto connection = std::make_shared<Connection>(self, std::move(socket));
      connection->index = self->connections.size();
      self->connections.push_back(connection);
      self->events.connections_changed(static_cast<int64_t>(self->connections.size()));
      connection->Start();
    }
    self->Accept();
  });
}

void Server::State::Forget(Connection* connection) {
  const size_t index = connection->index;
  connections.back()->index = index;
  std::swap(connections[index], connections.back());
  connections.pop_back();
  events.connections_changed(static_cast<int64_t>(connections.size()));
}

absl::StatusOr<std::unique_ptr<Server>> Server::Listen(EventLoop* loop, const HostPort& address,
                                                       Limits limits, Events events,
                                                       std::unique_ptr<security::HttpsContext> https) {
  auto state = std::make_shared<State>(loop, limits, std::move(events));
  state->https = std::move(https);
  boost::system::error_code error;
  tcp::resolver resolver(loop->state().context);
  const std::string host = address.host.empty() ? "0.0.0.0" : address.host;
  const auto found =
      resolver.resolve(host, std::to_string(address.port), tcp::resolver::passive, error);
  if (error || found.empty()) {
    return absl::UnavailableError(
        absl::StrCat("cannot listen on ", address.ToString(), ": ", error.message()));
  }
  const tcp::endpoint endpoint = found.begin()->endpoint();
  state->acceptor.open(endpoint.protocol(), error);
  if (!error) state->acceptor.set_option(tcp::acceptor::reuse_address(true), error);
  if (!error) state->acceptor.bind(endpoint, error);
  if (!error) state->acceptor.listen(1024, error);
  if (error)
    return absl::UnavailableError(
        absl::StrCat("cannot listen on ", address.ToString(), ": ", error.message()));
  state->Accept();
  return std::unique_ptr<Server>(new Server(std::move(state)));
}

Server::Server(std::shared_ptr<State> state) : state_(std::move(state)) {}
Server::~Server() { Close(); }

int Server::port() const { return state_->acceptor.local_endpoint().port(); }

void Server::Drain() {
  state_->draining = true;
  const auto connections = state_->connections;
  for (const auto& connection : connections) connection->CloseIfIdle();
}

bool Server::Idle() const {
  return std::ranges::none_of(state_->connections,
                              [](const auto& connection) { return connection->busy(); });
}

void Server::Close() {
  boost::system::error_code ignored;
  state_->acceptor.close(ignored);
  state_->accept_pause.cancel();
  const auto connections = state_->connections;
  for (const auto& connection : connections) connection->Close();
}

}  // namespace pagoda::router::http
