#!/usr/bin/env python3
"""One trace from the client's span to the stages' steps: a collector of this test's own reads OTLP with OpenTelemetry's own
definitions and checks parents, times and attributes. A collector that hangs, or is not there, costs no token."""
import collections
import http.server
import json
import socket
import sys
import threading
import time

import cluster
from cluster import Cluster

try:
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
except ImportError:
    print("skipped: opentelemetry-proto is not installed (scripts/test installs it)")
    sys.exit(cluster.SKIPPED)

SMALL = ["--kv-cache-memory-bytes", "64M", "--max-model-len", "512", "--threads-per-worker", "1"]
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"


class Collector:
    """Takes POST /v1/traces; `spans` are (service, instance, span)."""

    def __enter__(self):
        self.spans = []
        self.requests = 0
        lock = threading.Lock()
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                assert self.path == "/v1/traces" and self.headers["Content-Type"] == "application/x-protobuf"
                message = ExportTraceServiceRequest.FromString(body)
                assert message.SerializeToString() == body, "nothing in it that OpenTelemetry does not know"
                with lock:
                    outer.requests += 1
                    for resource in message.resource_spans:
                        names = {a.key: a.value.string_value for a in resource.resource.attributes}
                        for scope in resource.scope_spans:
                            assert scope.scope.name == "pagoda"
                            outer.spans += [(names["service.name"], names["service.instance.id"], s) for s in scope.spans]
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"
        return self

    def __exit__(self, *_):
        self.server.shutdown()

    def of(self, trace, expected, timeout_s=15):
        """The trace's spans by name, once there are so many."""
        deadline = time.monotonic() + timeout_s
        while True:
            found = [s for s in list(self.spans) if s[2].trace_id.hex() == trace]
            if len(found) >= expected:
                return found
            assert time.monotonic() < deadline, f"{len(found)} of {expected} spans: {[(s[0], s[2].name) for s in found]}"
            time.sleep(0.05)


def attributes(span):
    def value(v):
        kind = v.WhichOneof("value")
        return [value(x) for x in v.array_value.values] if kind == "array_value" else getattr(v, kind)
    return {a.key: value(a.value) for a in span.attributes}


def traceparent(flags="01", trace=TRACE):
    return {"traceparent": f"00-{trace}-{PARENT}-{flags}", "tracestate": "vendor=x"}


def one_trace_through_all_processes():
    with Collector() as collector, Cluster("--pipeline-parallel-size", "2", "--tensor-parallel-size", "2,1", *SMALL,
                                           "--otlp-endpoint", collector.endpoint) as serving:
        body = {"model": serving.name, "messages": [{"role": "user", "content": "Tell me of pagodas. " * 30}], "max_tokens": 12,
                "temperature": 0.5, "seed": 11, "top_p": 0.9, "stop": ["@@"], "ignore_eos": True}
        before = time.time_ns()
        status, text = serving.request("POST", "/v1/chat/completions", body, traceparent())
        after = time.time_ns()
        assert status == 200, text
        usage = json.loads(text)["usage"]
        # router, pipeline, queue, prefill, decode, and a prefill and a decode span of each of three ranks
        spans = collector.of(TRACE, 5 + 6)
        assert len(spans) == 11, [(s[0], s[2].name) for s in spans]
        by_name = collections.defaultdict(list)
        for service, instance, span in spans:
            by_name[span.name].append((service, instance, span))
            assert before <= span.start_time_unix_nano <= span.end_time_unix_nano <= after + 50_000_000, span
            assert len(span.span_id) == 8 and span.status.code == 0
        assert len({s[2].span_id for s in spans}) == 11

        [(service, _, root)] = by_name[f"chat {serving.name}"]
        assert service == "pagoda-router" and root.parent_span_id.hex() == PARENT and root.kind == 2 and root.trace_state == "vendor=x"
        said = attributes(root)
        expected = {"gen_ai.operation.name": "chat", "gen_ai.provider.name": "pagoda", "gen_ai.request.model": serving.name,
                    "gen_ai.request.max_tokens": 12, "gen_ai.request.temperature": 0.5, "gen_ai.request.top_p": 0.9,
                    "gen_ai.request.seed": 11, "gen_ai.request.stop_sequences": ["@@"], "gen_ai.request.choice.count": 1,
                    "gen_ai.request.stream": False, "gen_ai.response.finish_reasons": ["length"],
                    "gen_ai.usage.input_tokens": usage["prompt_tokens"], "gen_ai.usage.output_tokens": 12,
                    "http.response.status_code": 200}
        assert {k: said.get(k) for k in expected} == expected, said
        assert 0 < said["gen_ai.response.time_to_first_chunk"] < 60 and said["gen_ai.response.id"] == json.loads(text)["id"]

        [(service, _, whole)] = by_name["pipeline"]
        assert service == "pagoda-coordinator" and whole.parent_span_id == root.span_id
        assert attributes(whole)["pagoda.attempt"] == 1 and attributes(whole)["gen_ai.usage.output_tokens"] == 12
        parts = []
        for name in ("queue", "prefill", "decode"):
            [(service, _, part)] = by_name[name]
            assert service == "pagoda-coordinator" and part.parent_span_id == whole.span_id
            assert whole.start_time_unix_nano <= part.start_time_unix_nano <= part.end_time_unix_nano <= whole.end_time_unix_nano
            parts.append(part)
        for earlier, later in zip(parts, parts[1:]):
            assert earlier.end_time_unix_nano == later.start_time_unix_nano, "queue, prefill and decode follow each other"

        for stage, ranks in ((0, 2), (1, 1)):
            for phase in ("prefill", "decode"):
                found = by_name[f"stage {stage} {phase}"]
                assert len(found) == ranks, (stage, phase, len(found))
                assert sorted(attributes(s[2])["pagoda.rank"] for s in found) == list(range(ranks))
                for service, instance, span in found:
                    said = attributes(span)
                    assert service == "pagoda-worker" and instance.startswith("worker-") and span.parent_span_id == whole.span_id
                    assert said["pagoda.stage"] == stage and said["pagoda.compute_ms"] > 0
                    # All of the prompt (nothing is cached yet); then each token but the last, which is sampled and never fed back.
                    assert said["pagoda.rows"] >= (usage["prompt_tokens"] if phase == "prefill" else 11), said
                    lasted_ms = (span.end_time_unix_nano - span.start_time_unix_nano) / 1e6
                    assert said["pagoda.compute_ms"] <= lasted_ms + 1, (said, lasted_ms)
        print(f"  11 spans of {len({(s[0], s[1]) for s in spans})} processes; the request took "
              f"{(root.end_time_unix_nano - root.start_time_unix_nano) / 1e6:.0f} ms")

        errors_and_decisions(serving, collector)
        counted = [v for k, v in serving.metrics().items() if k.startswith('pagoda_router_trace_spans_total{outcome="exported"')]
        assert counted and counted[0] >= 2, counted


def errors_and_decisions(serving, collector):
    # The caller says no.
    quiet = "11111111111111111111111111111111"
    serving.request("POST", "/v1/completions", {"model": serving.name, "prompt": "x", "max_tokens": 2}, traceparent("00", quiet))
    # A deadline or any other failure is an error span: here a client that goes away.
    gone = "22222222222222222222222222222222"
    connection = socket.create_connection(("127.0.0.1", serving.http_port))
    body = json.dumps({"model": serving.name, "prompt": "Once", "max_tokens": 400, "stream": True, "ignore_eos": True})
    connection.sendall((f"POST /v1/completions HTTP/1.1\r\nHost: x\r\ntraceparent: {traceparent('01', gone)['traceparent']}\r\n"
                        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}").encode())
    assert connection.recv(1000).startswith(b"HTTP/1.1 200")
    connection.close()
    found = collector.of(gone, 2)
    root = next(s[2] for s in found if s[0] == "pagoda-router")
    assert root.status.code == 2 and "went away" in root.status.message and attributes(root)["error.type"] == "499"
    # gRPC carries the same context in its metadata.
    import grpc
    _, inference = cluster.protos()
    over_grpc = "33333333333333333333333333333333"
    with grpc.insecure_channel(serving.grpc_address) as channel:
        generate = channel.unary_stream("/pagoda.v1.Inference/Generate", request_serializer=inference.GenerateRequest.SerializeToString,
                                        response_deserializer=inference.GenerateResponse.FromString)
        request = inference.GenerateRequest(model=serving.name, tokens=inference.TokenPrompt(token_ids=[5, 6, 7]))
        request.stopping.max_tokens = 3
        list(generate(request, metadata=list(traceparent("01", over_grpc).items())))
    found = collector.of(over_grpc, 11)
    root = next(s[2] for s in found if s[0] == "pagoda-router")
    assert root.parent_span_id.hex() == PARENT and attributes(root)["gen_ai.usage.output_tokens"] == 3
    # Without a context a new trace begins (the ratio is 1).
    known = {s[2].trace_id for s in collector.spans}
    serving.complete("hello", max_tokens=2)
    deadline = time.monotonic() + 15
    while not any(s[2].trace_id not in known and s[0] == "pagoda-router" for s in list(collector.spans)):
        assert time.monotonic() < deadline, "no trace of its own"
        time.sleep(0.05)
    assert not [s for s in collector.spans if s[2].trace_id.hex() == quiet], "the caller had said no"


def a_dead_collector_costs_nothing():
    hung = socket.socket()  # takes connections (in its backlog) and never answers
    hung.bind(("127.0.0.1", 0))
    hung.listen(64)
    with Cluster("--pipeline-parallel-size", "2", *SMALL, "--otlp-endpoint", f"http://127.0.0.1:{hung.getsockname()[1]}") as serving:
        started = time.monotonic()
        for i in range(5):
            assert len(serving.complete(f"Number {i}", max_tokens=8, ignore_eos=True)["choices"][0]["token_ids"]) == 8
        print(f"  five requests beside a hanging collector: {time.monotonic() - started:.1f} s")
    hung.close()


if __name__ == "__main__":
    cluster.run(one_trace_through_all_processes, a_dead_collector_costs_nothing)
