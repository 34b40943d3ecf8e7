#include "router/http/server.h"

#include <algorithm>
#include <boost/asio/ip/address.hpp>

#include "router/event_loop_asio.h"
#include "router/http/connection.h"
#include "router/http/head.h"

namespace pagoda::router::http {

namespace asio = boost::asio;
using asio::ip::tcp;
namespace {

constexpr size_t kMostForProbes = 16;

// One client: an IPv4 address, or the /64 of an IPv6 address, since a host has all of one.
std::string AddressOf(const tcp::socket& socket) {
  boost::system::error_code error;
  asio::ip::address address = socket.remote_endpoint(error).address();
  if (error) return "gone";
  if (address.is_v4()) return address.to_string();
  if (address.to_v6().is_v4_mapped()) return asio::ip::make_address_v4(asio::ip::v4_mapped, address.to_v6()).to_string();
  const auto bytes = address.to_v6().to_bytes();
  return std::string(bytes.begin(), bytes.begin() + 8);
}

}  // namespace

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
    std::string address = self->limits.connections_per_address > 0 ? AddressOf(socket) : "";
    const Place place = self->FindPlace(address);
    if (place == Place::kNone) {
      self->events.rejected("connections");
      if (self->https != nullptr) return self->Accept();  // closed: an answer would need a handshake
      socket.write_some(asio::buffer(self->RefusalText()), ignored);
      socket.shutdown(tcp::socket::shutdown_send, ignored);
    } else {
      if (!address.empty()) ++self->per_address[address];
      const bool for_probes = place == Place::kForProbes;
      auto connection = std::make_shared<Connection>(self, std::move(socket), std::move(address), for_probes);
      connection->index = self->connections.size();
      self->connections.push_back(connection);
      if (for_probes) self->for_probes.push_back(connection.get());
      self->events.connections_changed(static_cast<int64_t>(self->connections.size()));
      connection->Start();
    }
    self->Accept();
  });
}

Server::State::Place Server::State::FindPlace(const std::string& address) {
  if (!address.empty()) {
    const auto found = per_address.find(address);
    if (found != per_address.end() && found->second >= limits.connections_per_address) return Place::kNone;
  }
  const size_t limit = static_cast<size_t>(limits.connections);
  if (connections.size() - for_probes.size() < limit) return Place::kOrdinary;
  if (!idle.empty()) {  // nobody waits for an answer there: its client opens another one when it needs it
    idle.front()->Close();
    return Place::kOrdinary;
  }
  // The newest stay: however many come, a probe has long been answered when it is its turn.
  if (for_probes.size() >= kMostForProbes) {
    events.rejected("connections");
    for_probes.front()->GiveWay();
  }
  return Place::kForProbes;
}

std::string Server::State::RefusalText() const {
  const std::string body = events.error_body(503, kTooManyConnections, kTooManyConnectionsText);
  return absl::StrCat(
      "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 1\r\n"
      "X-Request-Id: ",
      events.request_id(""), "\r\nConnection: close\r\nContent-Length: ", body.size(), "\r\n\r\n", body);
}

void Server::State::Forget(Connection* connection) {
  const size_t index = connection->index;
  connections.back()->index = index;
  std::swap(connections[index], connections.back());
  connections.pop_back();
  if (connection->for_probes) std::erase(for_probes, connection);
  if (!connection->address.empty()) {
    const auto found = per_address.find(connection->address);
    if (--found->second == 0) per_address.erase(found);
  }
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
