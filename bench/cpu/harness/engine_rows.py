"""What the rows of the bare engine have in common: ours against llama.cpp on given files."""

import os

from bench.cpu.harness.row import Bar, Contestant

FLASH = [{"flash": 1}, {"flash": 0}]
FLASH_AND_CACHE = [{"flash": flash, "unified": unified} for flash in (1, 0) for unified in (0, 1)]
LAYER_WEIGHTS = 30 * (576 * 960 + 576 * 576 + 3 * 576 * 1536)  # of the default model, without its head


def ours(kind, prompt, outputs, streams=1, model=None, isa="auto", repeat=2, **more):
    name = "pagoda " + kind + (f" {isa}" if isa != "auto" else "")
    return Contestant(name, lambda context: context.engine(
        model(context) if model else context.models.smollm2(kind), prompt, outputs, streams, isa, repeat=repeat, **more))


def theirs(kind, work, model=None, isa="native"):
    """`work`: ("prefill", tokens), ("one", depth, tokens) or ("batch", streams, prompt, tokens)."""
    name = "llama.cpp " + kind + (f" {isa}" if isa != "native" else "")

    def measure(context, **flags):
        path = model(context) if model else context.models.smollm2(kind)
        if work[0] == "prefill":
            return context.llama.prefill(path, work[1], isa=isa, **flags)
        if work[0] == "one":
            return context.llama.one_stream(path, work[1], work[2], isa=isa, **flags)
        return context.llama.batched(path, work[1], work[2], work[3], isa=isa, **flags)

    return Contestant(name, measure, FLASH_AND_CACHE if work[0] == "batch" else FLASH)


def prepare(*kinds, random=(), isas=("native",)):
    """Builds the peer and makes the files; `random`: (shape, kind) pairs."""

    def run(context):
        for isa in isas:
            context.llama.build(isa)
        for kind in kinds:
            context.models.smollm2(kind)
        for shape, kind in random:
            context.models.random(shape, kind)

    return run


def of_vnni(tokens_per_second_to_ops):
    def fraction(context, median):
        return median * tokens_per_second_to_ops / context.roofs["vnni_ops_per_s"]
    return fraction


def of_memory(path):
    """One stream reads every weight once a token."""
    def fraction(context, median):
        return median * os.path.getsize(path(context)) / context.roofs["read_bytes_per_s"]
    return fraction


__all__ = ["Bar", "ours", "theirs", "prepare", "of_vnni", "of_memory", "LAYER_WEIGHTS"]
