// OTLP in protobuf's wire format, by hand: a dozen fields of messages that do not change (field numbers are OpenTelemetry's,
// trace/v1/trace.proto and common/v1/common.proto). tests/common/otlp_test.py reads it with the official definitions.
#include <bit>
#include <cstring>

#include "common/trace.h"

namespace pagoda {
namespace {

// One message being written.
class Message {
 public:
  void Varint(int field, uint64_t value) {
    Key(field, 0);
    Raw(value);
  }
  void Fixed64(int field, uint64_t value) {
    Key(field, 1);
    for (int i = 0; i < 8; ++i) bytes_ += static_cast<char>(value >> (8 * i));
  }
  void Double(int field, double value) { Fixed64(field, std::bit_cast<uint64_t>(value)); }
  void Bytes(int field, std::string_view value) {
    Key(field, 2);
    Raw(value.size());
    bytes_ += value;
  }
  void Nested(int field, const Message& message) { Bytes(field, message.bytes_); }
  std::string Take() { return std::move(bytes_); }

 private:
  void Key(int field, int type) { Raw(static_cast<uint64_t>(field) << 3 | static_cast<uint64_t>(type)); }
  void Raw(uint64_t value) {
    for (; value >= 0x80; value >>= 7) bytes_ += static_cast<char>(value | 0x80);
    bytes_ += static_cast<char>(value);
  }
  std::string bytes_;
};

void AppendBigEndian(std::string& out, uint64_t value) {
  for (int shift = 56; shift >= 0; shift -= 8) out += static_cast<char>(value >> shift);
}
std::string TraceIdOf(const TraceContext& context) {
  std::string id;
  AppendBigEndian(id, context.trace_high);
  AppendBigEndian(id, context.trace_low);
  return id;
}
std::string SpanIdOf(uint64_t span) {
  std::string id;
  AppendBigEndian(id, span);
  return id;
}

struct AnyValue {  // opentelemetry.proto.common.v1.AnyValue
  Message operator()(const std::string& value) const {
    Message any;
    any.Bytes(1, value);
    return any;
  }
  Message operator()(bool value) const {
    Message any;
    any.Varint(2, value);
    return any;
  }
  Message operator()(int64_t value) const {
    Message any;
    any.Varint(3, static_cast<uint64_t>(value));
    return any;
  }
  Message operator()(double value) const {
    Message any;
    any.Double(4, value);
    return any;
  }
  Message operator()(const std::vector<std::string>& values) const {
    Message list;
    for (const std::string& value : values) list.Nested(1, (*this)(value));
    Message any;
    any.Nested(5, list);
    return any;
  }
};

Message KeyValue(const std::string& key, const Span::Value& value) {
  Message pair;
  pair.Bytes(1, key);
  pair.Nested(2, std::visit(AnyValue(), value));
  return pair;
}

Message SpanMessage(const Span& span, int64_t unix_minus_monotonic_ns) {
  Message out;
  out.Bytes(1, TraceIdOf(span.self));
  out.Bytes(2, SpanIdOf(span.self.span));
  if (!span.trace_state.empty()) out.Bytes(3, span.trace_state);
  if (span.parent != 0) out.Bytes(4, SpanIdOf(span.parent));
  out.Bytes(5, span.name);
  out.Varint(6, static_cast<uint64_t>(span.kind));
  out.Fixed64(7, static_cast<uint64_t>(span.start_ns + unix_minus_monotonic_ns));
  out.Fixed64(8, static_cast<uint64_t>(span.end_ns + unix_minus_monotonic_ns));
  for (const auto& [key, value] : span.attributes) out.Nested(9, KeyValue(key, value));
  if (!span.error.empty()) {
    Message status;
    status.Bytes(2, span.error);
    status.Varint(3, 2);  // STATUS_CODE_ERROR
    out.Nested(15, status);
  }
  return out;
}

}  // namespace

std::string EncodeSpans(const SpanSource& source, const std::vector<Span>& spans) {
  Message resource;
  resource.Nested(1, KeyValue("service.name", source.service));
  resource.Nested(1, KeyValue("service.instance.id", source.instance));
  resource.Nested(1, KeyValue("service.version", source.version));
  Message scope;
  scope.Bytes(1, "pagoda");
  scope.Bytes(2, source.version);
  Message scope_spans;
  scope_spans.Nested(1, scope);
  for (const Span& span : spans) scope_spans.Nested(2, SpanMessage(span, source.unix_minus_monotonic_ns));
  Message resource_spans;
  resource_spans.Nested(1, resource);
  resource_spans.Nested(2, scope_spans);
  Message request;
  request.Nested(1, resource_spans);
  return request.Take();
}

}  // namespace pagoda
