"""The router before a fake coordinator: CPU of its process per request and per streamed token, and what it adds to a first token."""

from bench.cpu.harness import servers
from bench.cpu.harness.row import Bar, Contestant, Row


def cpu_of(context, server, *flags):
    """CPU seconds of the router while the load ran, and the client's report."""
    servers.load(context, server, "--num-prompts", 20, "--max-concurrency", 4, "--input-len", 32, "--output-len", 2)
    before = servers.cpu_seconds(server.router)
    report = servers.load(context, server, *flags)
    return servers.cpu_seconds(server.router) - before, report


def per_request(prompt):
    """200 requests a second of one output token."""
    def measure(context):
        server = servers.router_alone(context, 1)
        count = 1000 if context.quick else 3000
        cpu_s, report = cpu_of(context, server, "--num-prompts", count, "--request-rate", 200, "--input-len", prompt, "--output-len", 1)
        return {"value": 1e6 * cpu_s / count, "ttft_p50_us": 1000 * report["ttft_ms"]["p50"], "ttft_p99_us": 1000 * report["ttft_ms"]["p99"]}
    return measure


def per_token(step_ms, streams, tokens, rate):
    def measure(context):
        server = servers.router_alone(context, step_ms)
        cpu_s, report = cpu_of(context, server, "--num-prompts", streams, "--max-concurrency", 50, "--input-len", 16, "--output-len", tokens,
                               "--max-len", 4096, *(["--request-rate", rate] if rate else []))
        return {"value": 1e6 * cpu_s / report["output_tokens"], "tokens": report["output_tokens"]}
    return measure


def first_token(part):
    """The fake answers as soon as a request is there: all of the time is the router's, the wire's and the client's."""
    def measure(context):
        server = servers.router_alone(context, 0)
        report = servers.load(context, server, "--num-prompts", 500 if context.quick else 1500, "--request-rate", 50, "--input-len", 200,
                              "--output-len", 1)
        return 1000 * report["ttft_ms"][part]
    return measure


def at_most(bar):
    return Bar(1, roof=lambda context, median: bar / median, text=f"{bar:g} at most")


def prepare(context):
    servers.only()
    context.models.default()


def row(name, title, unit, measure, bar, note=""):
    return Row(name=name, title=title, unit=unit, contestants=[Contestant("pagoda-router", measure)], bars=[at_most(bar)],
               higher_is_better=False, prepare=prepare, note=note)


ROWS = [
    row("serving_router_request_32", "Router, CPU per request of 32 prompt tokens at 200 requests/s", "us", per_request(32), 150 + 0.5 * 32),
    row("serving_router_request_1024", "Router, CPU per request of 1024 prompt tokens at 200 requests/s", "us", per_request(1024), 150 + 0.5 * 1024,
        "Prompts are token ids: a JSON array."),
    row("serving_router_token_burst", "Router, CPU per streamed token, tokens without pause", "us", per_token(0, 100, 1000, 0), 2),
    row("serving_router_token_10ms", "Router, CPU per streamed token, 50 streams, 10 ms between tokens", "us", per_token(10, 200, 100, 50), 10),
    row("serving_router_first_token_p50", "Router, added to the first token, p50, 50 requests/s", "us", first_token("p50"), 250,
        "With the load client's own share."),
    row("serving_router_first_token_p99", "Router, added to the first token, p99, 50 requests/s", "us", first_token("p99"), 500),
]
