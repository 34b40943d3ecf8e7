"""How steady tokens come while long prompts arrive, and what speculation gives and costs."""

import json
import os

from bench.cpu.harness import servers
from bench.cpu.harness.row import Bar, Contestant, Row

# --- 512-token prompts arriving at 70% of what the server can take

PROMPT, OUTPUT = 512, 64
WHOLE = ["--max-num-batched-tokens", 4096]  # a prompt is one step
_capacity = {}


def shape(context):
    return ["--input-len", PROMPT, "--output-len", OUTPUT, "--num-speculative-tokens", 0, "--num-prompts", 60 if context.quick else 150]


def capacity(context):
    """Requests a second in closed loop."""
    if "rate" not in _capacity:
        server = servers.pagoda(context, context.models.smollm2("Q4_1"), "--no-enable-prefix-caching")
        report = servers.load(context, server, "--max-concurrency", 16, *shape(context), "--seed", 7)
        _capacity["rate"] = report["requests_per_s"]
        context.say(f"  capacity {report['requests_per_s']:.3g} requests/s")
    return _capacity["rate"]


def arriving(context, *flags):
    rate = 0.7 * capacity(context)
    server = servers.pagoda(context, context.models.smollm2("Q4_1"), "--no-enable-prefix-caching", *flags)
    return servers.load(context, server, "--request-rate", rate, *shape(context), "--seed", 3)


def gap_ratio(context):
    report = arriving(context)
    return {"value": report["itl_ms"]["p99"] / report["itl_ms"]["p50"], "itl_p50_ms": report["itl_ms"]["p50"],
            "itl_p99_ms": report["itl_ms"]["p99"], "ttft_p99_ms": report["ttft_ms"]["p99"], "rate": _capacity["rate"] * 0.7}


def first_token(*flags):
    def measure(context):
        report = arriving(context, *flags)
        return {"value": report["ttft_ms"]["p99"], "itl_p50_ms": report["itl_ms"]["p50"], "itl_p99_ms": report["itl_ms"]["p99"]}
    return measure


# --- prompt lookup

def repetitive(context):
    """A text that goes on as it began: a table of records, the last of which is to be continued."""
    path = f"{context.cache}/repetitive.txt"
    if not os.path.exists(path):
        records = [{"id": i, "name": f"sensor-{i:03d}", "unit": "celsius", "location": "building A", "status": "ok", "value": 20 + i % 5}
                   for i in range(12)]
        with open(path, "w") as out:
            out.write("[\n" + ",\n".join("  " + json.dumps(record) for record in records) + ",\n")
    return path


def decode(context, guesses, *flags):
    """Output tokens a second of one stream, its prompt not counted."""
    server = servers.pagoda(context, context.models.smollm2("Q4_1"))
    spoken = ["--num-speculative-tokens", guesses] if guesses is not None else []
    report = servers.load(context, server, "--max-concurrency", 1, "--num-prompts", 3 if context.quick else 6, *spoken, *flags)
    return {"value": 1000 / report["tpot_ms"]["mean"], "itl_p99_ms": report["itl_ms"]["p99"]}


def on_repetitive(guesses):
    return lambda context: decode(context, guesses, "--prompt-file", repetitive(context), "--output-len", 256)


def elsewhere(guesses):
    return lambda context: decode(context, guesses, "--input-len", 128, "--output-len", 256, "--temperature", 1, "--top-p", 0.95, "--seed", 5)


def full_batch(guesses):
    def measure(context):
        server = servers.pagoda(context, context.models.smollm2("Q4_1"))
        spoken = ["--num-speculative-tokens", guesses] if guesses is not None else []
        report = servers.load(context, server, "--max-concurrency", 32, "--num-prompts", 64, "--input-len", 64, "--output-len", 128, *spoken)
        return report["output_tokens_per_s"]
    return measure


def prepare(context):
    servers.only()
    context.models.smollm2("Q4_1")


ROWS = [
    Row(name="serving_token_gaps", title="p99 of the gaps between tokens over their median, 512-token prompts at 70% of capacity", unit="ratio",
        contestants=[Contestant("pagoda", gap_ratio)], higher_is_better=False, prepare=prepare, rounds=5,
        bars=[Bar(0.5, roof=lambda context, median: 1 / median, text="of 1/p99 ratio: at most 2x the median")]),
    Row(name="serving_first_token_p99", title="p99 of the time to the first token in the same load", unit="ms", higher_is_better=False,
        contestants=[Contestant("chunks by measured time", first_token()), Contestant("whole prompts", first_token(*WHOLE, "--no-enable-chunked-prefill"))],
        bars=[Bar(1.0, ("whole prompts",))], prepare=prepare),
    Row(name="serving_prompt_lookup", title="One stream on repetitive text", unit="tokens/s",
        contestants=[Contestant("prompt lookup as it pays", on_repetitive(None)), Contestant("without", on_repetitive(0))],
        bars=[Bar(1.5, ("without",))], prepare=prepare, note="The default of a request; the tokens are the same."),
    Row(name="serving_prompt_lookup_elsewhere", title="One stream, sampled text that does not repeat itself", unit="tokens/s",
        contestants=[Contestant("prompt lookup as it pays", elsewhere(None)), Contestant("without", elsewhere(0))],
        bars=[Bar(0.98, ("without",))], prepare=prepare),
    Row(name="serving_prompt_lookup_batch", title="32 streams, greedy", unit="tokens/s",
        contestants=[Contestant("prompt lookup as it pays", full_batch(None)), Contestant("without", full_batch(0))],
        bars=[Bar(0.98, ("without",))], prepare=prepare),
]
