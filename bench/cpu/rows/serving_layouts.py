"""Two processes of one thread against one of two threads: pipeline stages over shared memory, over TCP, a tensor-parallel group."""

from bench.cpu.harness import servers
from bench.cpu.harness.row import Bar, Contestant, Row

SHM = ["--pipeline-parallel-size", 2, "--threads-per-worker", 1]
TCP = [*SHM, "--transports", "tcp,self"]
TP2 = ["--tensor-parallel-size", 2, "--threads-per-worker", 1]


def streams(count, *flags):
    """Decoded tokens a second of `count` streams, prompts not counted."""
    def measure(context):
        server = servers.pagoda(context, context.models.smollm2("Q4_1"), "--no-enable-prefix-caching", *map(str, flags))
        report = servers.load(context, server, "--max-concurrency", count, "--num-prompts", count, "--input-len", 64, "--output-len", 160,
                              "--num-speculative-tokens", 0)
        return {"value": count * 1000 / report["itl_ms"]["mean"], "itl_p99_ms": report["itl_ms"]["p99"]}
    return measure


def prepare(context):
    servers.only()
    context.models.smollm2("Q4_1")


def row(name, title, count, flags, bar):
    return Row(name=name, title=title, unit="tokens/s", prepare=prepare,
               contestants=[Contestant("two processes", streams(count, *flags)), Contestant("one worker, two threads", streams(count))],
               bars=[Bar(bar, ("one worker, two threads",))], note="Through HTTP; streams over the mean gap between tokens.")


ROWS = [
    row("serving_two_stages_16", "Two stages over shared memory, 16 streams", 16, SHM, 0.90),
    row("serving_two_stages_32", "Two stages over shared memory, 32 streams", 32, SHM, 0.95),
    row("serving_two_stages_tcp_32", "Two stages over TCP, 32 streams", 32, TCP, 0.90),
    row("serving_tensor_parallel_1", "Two ranks over shared memory, one stream", 1, TP2, 0.88),
]
