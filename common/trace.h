// Distributed tracing: W3C trace context, spans as plain values, and the tracer that sends them to an OpenTelemetry collector
// (OTLP over HTTP, protobuf). A process without --otlp-endpoint has no tracer: a null pointer is passed on and nothing is made.
// Thread rule: Tracer's methods from any thread; Record never blocks (what does not fit in its queue is dropped and counted).
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "common/clock.h"
#include "common/status.h"

namespace pagoda {

// Of one sampled request. All zero: not sampled, and nobody makes spans.
struct TraceContext {
  uint64_t trace_high = 0;
  uint64_t trace_low = 0;
  uint64_t span = 0;  // the parent of what the holder makes
  bool sampled() const { return (trace_high | trace_low) != 0; }
};

struct IncomingTrace {
  TraceContext context;
  bool sampled = false;  // what the caller decided
};
// A `traceparent` header; none when it is not well-formed (then a new trace begins, as W3C asks).
std::optional<IncomingTrace> ParseTraceparent(std::string_view header);
std::string FormatTraceparent(const TraceContext& context);  // of a sampled trace

enum class SpanKind : uint8_t { kInternal = 1, kServer = 2 };

struct Span {
  using Value = std::variant<std::string, int64_t, double, bool, std::vector<std::string>>;

  TraceContext self;    // its trace, and its own id in `span`
  uint64_t parent = 0;  // span id; 0: the root
  std::string trace_state;
  std::string name;
  SpanKind kind = SpanKind::kInternal;
  MonotonicNs start_ns = 0;
  MonotonicNs end_ns = 0;
  std::vector<std::pair<std::string, Value>> attributes;
  std::string error;  // empty: it went well
};

// Where a batch goes to; the transport below, or a test's.
using SpanTransport = std::function<absl::Status(const std::string& body)>;

class Tracer {
 public:
  struct Options {
    std::string endpoint;         // http://host:port[/path]; without a path /v1/traces
    double sampling_ratio = 1;    // of requests that come without a trace of their own
    std::string service;          // service.name: pagoda-router, ...
    std::string instance;         // service.instance.id
    std::string version;
    std::function<void(std::string_view outcome, int64_t spans)> count;  // exported, dropped, failed
    SpanTransport transport;      // tests; empty: HTTP to the endpoint
  };
  // kInvalidArgument for an endpoint that is none.
  static absl::StatusOr<std::unique_ptr<Tracer>> Start(Options options);
  ~Tracer();  // sends what is queued, within 2 s

  static absl::Status CheckEndpoint(const std::string& endpoint);

  // Whether the request is sampled, and the context of its first span: the caller's trace goes on, with the caller's decision;
  // without one a new trace begins, by the ratio. `parent` is set to the caller's span.
  TraceContext Begin(std::string_view traceparent, uint64_t* parent) const;
  uint64_t NewSpanId() const;
  void Record(Span span);

 private:
  struct State;
  explicit Tracer(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

// The bytes of an ExportTraceServiceRequest (opentelemetry.proto.collector.trace.v1). `unix_minus_monotonic_ns` turns our clock's
// times into Unix times.
struct SpanSource {
  std::string service, instance, version;
  int64_t unix_minus_monotonic_ns = 0;
};
std::string EncodeSpans(const SpanSource& source, const std::vector<Span>& spans);

}  // namespace pagoda
