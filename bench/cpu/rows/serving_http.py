"""Through HTTP: closed loop of 32 clients with lengths like ShareGPT's against llama.cpp's server; what serving costs over the
bare engine; KV memory wasted."""

import threading
import time

from bench.cpu.harness import servers
from bench.cpu.harness.row import Bar, Contestant, Row

CLIENTS = 32
LONGEST = 1024
SHAREGPT = ["--max-concurrency", CLIENTS, "--input-len", "sharegpt-in", "--output-len", "sharegpt-out", "--max-len", LONGEST,
            "--num-speculative-tokens", 0, "--seed", 1]
FLAGS = [{"flash": flash, "unified": unified} for flash in (1, 0) for unified in (0, 1)]


def requests(context):
    return 48 if context.quick else 128


def keep(report, extra=None):
    return {"value": report["output_tokens_per_s"], "ttft_p50_ms": report["ttft_ms"]["p50"], "itl_p50_ms": report["itl_ms"]["p50"],
            "itl_p99_ms": report["itl_ms"]["p99"], "client_cpu_share": report["client_cpu_share"], **(extra or {})}


def ours(kind, sampled=False):
    sampling = ["--temperature", 0.8, "--top-k", 40, "--top-p", 0.95] if sampled else []

    def measure(context):
        server = servers.pagoda(context, context.models.smollm2(kind), "--no-enable-prefix-caching")
        return keep(servers.load(context, server, *SHAREGPT, *sampling, "--num-prompts", requests(context)))
    return Contestant(f"pagoda {kind}", measure)


def theirs(kind, sampled=False):
    sampling = ["--temperature", 0.8, "--top-k", 40, "--top-p", 0.95] if sampled else []

    def measure(context, flash, unified):
        server = servers.llama_server(context, context.models.smollm2(kind), CLIENTS, 2 * LONGEST + 64, flash, unified)
        report = servers.load(context, server, *SHAREGPT, *sampling, "--num-prompts", requests(context), may_fail=0.1)
        return keep(report, {"failed": report["failed"]})
    return Contestant(f"llama-server {kind}", measure, FLAGS)


def prepare(*kinds):
    def run(context):
        servers.only()
        context.llama.build("native")
        for kind in kinds:
            context.models.smollm2(kind)
    return run


# --- serving tax: decoding of 32 streams, engine alone against all of it through HTTP

PROMPT, OUTPUT = 64, 192


def engine_alone(context):
    return context.engine(context.models.smollm2("Q4_1"), PROMPT, OUTPUT, CLIENTS)


def through_http(context):
    """Every client sends one request at once; the rate between the last first token and the first end is of decoding alone."""
    server = servers.pagoda(context, context.models.smollm2("Q4_1"), "--no-enable-prefix-caching")
    before = {name: servers.cpu_seconds(pid) for name, pid in servers.pids(server).items()}
    report = servers.load(context, server, "--max-concurrency", CLIENTS, "--num-prompts", CLIENTS, "--input-len", PROMPT,
                          "--output-len", OUTPUT, "--num-speculative-tokens", 0)
    spent = {f"cpu_{name}_s": servers.cpu_seconds(pid) - before.get(name, 0) for name, pid in servers.pids(server).items()}
    return {"value": CLIENTS * 1000 / report["itl_ms"]["mean"], "client_cpu_s": report["client_cpu_share"] * report["duration_s"],
            **spent}


# --- KV memory: used by sequences beyond what their tokens need, while the load runs

def kv_waste(context):
    server = servers.pagoda(context, context.models.smollm2("Q4_1"), "--no-enable-prefix-caching")
    samples, stop = [], threading.Event()

    def watch():
        while not stop.wait(0.1):
            text = servers.coordinator_metrics(server)
            blocks, tokens = servers.metric(text, "pagoda_kv_blocks_used"), servers.metric(text, "pagoda_kv_tokens")
            if blocks > 0:
                samples.append(1 - tokens / (16 * blocks))
    watcher = threading.Thread(target=watch)
    watcher.start()
    report = servers.load(context, server, *SHAREGPT, "--num-prompts", requests(context))
    stop.set()
    watcher.join()
    time.sleep(0.5)
    return {"value": 100 * sum(samples) / len(samples), "output_tokens_per_s": report["output_tokens_per_s"],
            "samples": len(samples)}


ROWS = [
    Row(name="serving_http_closed_loop", title="HTTP, 32 closed-loop clients, lengths like ShareGPT (mean 161/338)",
        unit="output tokens/s",
        contestants=[ours("Q4_1"), theirs("Q4_1"), theirs("Q4_0"), theirs("Q8_0")],
        bars=[Bar(4, ("llama-server Q4_1",)), Bar(2, ("llama-server Q4_1", "llama-server Q4_0", "llama-server Q8_0"))],
        prepare=prepare("Q4_1", "Q4_0", "Q8_0"),
        note="Greedy, end-of-text ignored; prompts are different random tokens. One load client for all; its CPU share is kept."),
    Row(name="serving_http_sampled", title="The same at temperature 0.8, top-k 40, top-p 0.95", unit="output tokens/s",
        contestants=[ours("Q4_1", True), theirs("Q4_1", True), theirs("Q4_0", True)],
        bars=[Bar(4, ("llama-server Q4_1",)), Bar(2, ("llama-server Q4_1", "llama-server Q4_0"))],
        prepare=prepare("Q4_1", "Q4_0")),
    Row(name="serving_tax", title="Decoding of 32 streams through HTTP against the bare engine", unit="tokens/s",
        contestants=[Contestant("through HTTP", through_http), Contestant("engine", engine_alone)],
        bars=[Bar(0.95, ("engine",), text="at most 5% lost")],
        prepare=prepare("Q4_1"), note="Through HTTP: 32 over the mean time between tokens, router and client on the same cores."),
    Row(name="serving_kv_waste", title="KV memory wasted under the ShareGPT-like load", unit="% of used blocks",
        contestants=[Contestant("pagoda", kv_waste)], bars=[Bar(1 / 3, roof=lambda context, median: 1 / max(median, 1e-9), text="3% at most")],
        higher_is_better=False, prepare=prepare("Q4_1"), rounds=3),
]
