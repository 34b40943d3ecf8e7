#include "common/trace.h"

#include <netdb.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <atomic>
#include <charconv>
#include <random>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/bounded_queue.h"
#include "common/config.h"
#include "common/limits.h"
#include "common/log.h"

namespace pagoda {
namespace {

constexpr absl::Duration kBatchEvery = absl::Milliseconds(500);
constexpr int kSocketTimeoutS = 5;
constexpr int64_t kLastFlushNs = 2 * kNsPerSecond;

uint64_t Random64() {
  thread_local std::mt19937_64 generator([] {
    std::random_device device;
    std::seed_seq seed{device(), device(), device(), device()};
    return std::mt19937_64(seed);
  }());
  for (;;) {
    if (const uint64_t value = generator()) return value;
  }
}

std::optional<uint64_t> ParseHex16(std::string_view text) {
  uint64_t value = 0;
  for (const char c : text) {  // W3C: lower case only
    const int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
    if (digit < 0) return std::nullopt;
    value = value << 4 | static_cast<uint64_t>(digit);
  }
  return value;
}

struct Endpoint {
  HostPort address;
  std::string path;
};

absl::StatusOr<Endpoint> ParseEndpoint(std::string_view text) {
  constexpr std::string_view kScheme = "http://";
  if (text.starts_with("https://")) {
    return absl::InvalidArgumentError(
        "https is not spoken; send to a collector on this host or in this pod over http");
  }
  if (!text.starts_with(kScheme)) {
    return absl::InvalidArgumentError(absl::StrCat("'", AsAbsl(text), "' is not http://host:port[/path]"));
  }
  text.remove_prefix(kScheme.size());
  const size_t slash = text.find('/');
  Endpoint endpoint;
  endpoint.path = slash == std::string_view::npos || text.substr(slash) == "/" ? "/v1/traces" : std::string(text.substr(slash));
  std::string address(text.substr(0, slash));
  if (address.find(':') == std::string::npos) address += ":4318";  // OTLP's own port
  PAGODA_ASSIGN_OR_RETURN(endpoint.address, ParseHostPort(address));
  for (const char c : endpoint.path) {
    if (c <= ' ' || c > '~') return absl::InvalidArgumentError("the path has a character that no URL has");
  }
  return endpoint;
}

struct Socket {
  int fd = -1;
  ~Socket() {
    if (fd >= 0) close(fd);
  }
};

absl::Status Connect(const HostPort& address, Socket& socket) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  if (getaddrinfo(address.host.c_str(), std::to_string(address.port).c_str(), &hints, &found) != 0) {
    return absl::UnavailableError(absl::StrCat("no address for ", address.host));
  }
  const std::unique_ptr<addrinfo, decltype(&freeaddrinfo)> owned(found, freeaddrinfo);
  for (const addrinfo* one = found; one != nullptr; one = one->ai_next) {
    const int fd = ::socket(one->ai_family, one->ai_socktype | SOCK_CLOEXEC, one->ai_protocol);
    if (fd < 0) continue;
    const timeval patience{.tv_sec = kSocketTimeoutS, .tv_usec = 0};
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));  // of connect, too
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
    if (connect(fd, one->ai_addr, one->ai_addrlen) == 0) {
      socket.fd = fd;
      return absl::OkStatus();
    }
    close(fd);
  }
  return absl::UnavailableError(absl::StrCat("cannot connect to ", address.ToString()));
}

// One POST on a connection of its own: batches are rare.
absl::Status Post(const Endpoint& endpoint, const std::string& body) {
  Socket socket;
  PAGODA_RETURN_IF_ERROR(Connect(endpoint.address, socket));
  const std::string message = absl::StrCat("POST ", endpoint.path, " HTTP/1.1\r\nHost: ", endpoint.address.ToString(),
                                           "\r\nContent-Type: application/x-protobuf\r\nConnection: close\r\nContent-Length: ",
                                           body.size(), "\r\n\r\n", body);
  for (size_t sent = 0; sent < message.size();) {
    const ssize_t count = send(socket.fd, message.data() + sent, message.size() - sent, MSG_NOSIGNAL);
    if (count <= 0) return absl::UnavailableError("the collector does not take the request");
    sent += static_cast<size_t>(count);
  }
  std::string answer;
  char chunk[1024];
  while (answer.find("\r\n") == std::string::npos && answer.size() < 4096) {
    const ssize_t count = recv(socket.fd, chunk, sizeof(chunk), 0);
    if (count <= 0) return absl::UnavailableError("the collector does not answer");
    answer.append(chunk, static_cast<size_t>(count));
  }
  const std::string line = answer.substr(0, answer.find("\r\n"));
  if (line.starts_with("HTTP/1.") && line.size() > 9 && line[9] == '2') return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat("the collector answered '", line.substr(0, 100), "'"));
}

}  // namespace

std::optional<IncomingTrace> ParseTraceparent(std::string_view header) {
  // version "-" trace "-" parent "-" flags; a later version may have more behind another dash.
  if (header.size() < 55 || header[2] != '-' || header[35] != '-' || header[52] != '-') return std::nullopt;
  const auto version = ParseHex16(header.substr(0, 2));
  if (!version || *version == 0xff || (*version == 0 && header.size() != 55)) return std::nullopt;
  if (header.size() > 55 && header[55] != '-') return std::nullopt;
  const auto high = ParseHex16(header.substr(3, 16)), low = ParseHex16(header.substr(19, 16));
  const auto span = ParseHex16(header.substr(36, 16)), flags = ParseHex16(header.substr(53, 2));
  if (!high || !low || !span || !flags || (*high | *low) == 0 || *span == 0) return std::nullopt;
  return IncomingTrace{.context = {.trace_high = *high, .trace_low = *low, .span = *span}, .sampled = (*flags & 1) != 0};
}

std::string FormatTraceparent(const TraceContext& context) {
  return absl::StrFormat("00-%016x%016x-%016x-01", context.trace_high, context.trace_low, context.span);
}

struct Tracer::State {
  explicit State(Options o) : options(std::move(o)), queue(limits::kMaxQueuedSpans) {}
  void Run();
  void Send(std::vector<Span> spans);
  void Count(std::string_view outcome, int64_t spans) const {
    if (options.count) options.count(outcome, spans);
  }

  const Options options;
  SpanSource source;
  BoundedQueue<Span> queue;
  bool failing = false;  // told once
  std::atomic<int64_t> give_up_ns{INT64_MAX};
  std::thread thread;
};

absl::Status Tracer::CheckEndpoint(const std::string& endpoint) { return ParseEndpoint(endpoint).status(); }

absl::StatusOr<std::unique_ptr<Tracer>> Tracer::Start(Options options) {
  if (!options.transport) {
    PAGODA_ASSIGN_OR_RETURN(const Endpoint endpoint, ParseEndpoint(options.endpoint));
    options.transport = [endpoint](const std::string& body) { return Post(endpoint, body); };
  }
  auto state = std::make_unique<State>(std::move(options));
  const auto unix_now = std::chrono::system_clock::now().time_since_epoch();
  state->source = {.service = state->options.service,
                   .instance = state->options.instance,
                   .version = state->options.version,
                   .unix_minus_monotonic_ns =
                       std::chrono::duration_cast<std::chrono::nanoseconds>(unix_now).count() - NowNs()};
  state->thread = std::thread([running = state.get()] { running->Run(); });
  return std::unique_ptr<Tracer>(new Tracer(std::move(state)));
}

Tracer::Tracer(std::unique_ptr<State> state) : state_(std::move(state)) {}

Tracer::~Tracer() {
  state_->give_up_ns.store(NowNs() + kLastFlushNs);
  state_->queue.Close();
  state_->thread.join();
}

TraceContext Tracer::Begin(std::string_view traceparent, uint64_t* parent) const {
  *parent = 0;
  if (const auto incoming = ParseTraceparent(traceparent)) {
    if (!incoming->sampled) return {};
    *parent = incoming->context.span;
    TraceContext context = incoming->context;
    context.span = Random64();
    return context;
  }
  const double draw = static_cast<double>(Random64() >> 11) * 0x1p-53;
  if (draw >= state_->options.sampling_ratio) return {};
  return {.trace_high = Random64(), .trace_low = Random64(), .span = Random64()};
}

uint64_t Tracer::NewSpanId() const { return Random64(); }

void Tracer::Record(Span span) {
  if (!state_->queue.TryPush(std::move(span))) state_->Count("dropped", 1);
}

void Tracer::State::Run() {
  while (!queue.closed()) {
    std::vector<Span> spans = queue.PopAll(absl::InfiniteDuration());
    if (spans.empty()) continue;
    if (!queue.closed()) absl::SleepFor(kBatchEvery);  // what belongs together goes together
    for (Span& more : queue.PopAll(absl::ZeroDuration())) spans.push_back(std::move(more));
    Send(std::move(spans));
  }
  Send(queue.PopAll(absl::ZeroDuration()));
}

void Tracer::State::Send(std::vector<Span> spans) {
  for (size_t begin = 0; begin < spans.size(); begin += limits::kMaxSpansPerBatch) {
    const size_t end = std::min(spans.size(), begin + limits::kMaxSpansPerBatch);
    const std::vector<Span> batch(std::make_move_iterator(spans.begin() + static_cast<std::ptrdiff_t>(begin)),
                                  std::make_move_iterator(spans.begin() + static_cast<std::ptrdiff_t>(end)));
    const auto count = static_cast<int64_t>(batch.size());
    if (NowNs() > give_up_ns.load()) {
      Count("dropped", count);
      continue;
    }
    const absl::Status status = options.transport(EncodeSpans(source, batch));
    Count(status.ok() ? "exported" : "failed", count);
    if (!status.ok() && !failing) {
      LogWarning("spans_not_exported", {{"endpoint", options.endpoint}, {"error", AsStd(status.message())}});
    }
    failing = !status.ok();
  }
}

}  // namespace pagoda
