"""Random weights in the shapes of a 1.1B and a 3B Llama: nothing here is tuned to 135M parameters."""

from bench.cpu.harness.engine_rows import Bar, ours, prepare, theirs
from bench.cpu.harness.row import Row

WORKS = {
    "prefill": ("Prefill of 256 tokens", ("prefill", 256), (256, 1, 1), 1.5),
    "one_stream": ("One stream, context 32 to 48", ("one", 32, 16), (32, 17, 1), 1.15),
    "16_streams": ("16 streams decoding, context 16 to 32", ("batch", 16, 16, 16), (16, 17, 16), 1.15),
}


def row(shape, kind, work):
    title, peer, sizes, ratio = WORKS[work]
    model = lambda context: context.models.random(shape, kind)
    name = f"{shape} {kind}"
    return Row(name=f"engine_{shape.lower().replace('.', '_')}_{kind.lower()}_{work}", title=f"{title}, {shape} shape, {kind}, engine",
               unit="tokens/s", contestants=[ours(name, *sizes, model=model, repeat=1), theirs(name, peer, model=model)],
               bars=[Bar(ratio, (f"llama.cpp {name}",))], prepare=prepare(random=[(shape, kind)]))


ROWS = [row(shape, kind, work)
        for shape, kinds in (("1.1B", ("Q4_0", "Q8_0", "Q4_K", "Q6_K")), ("3B", ("Q4_0", "Q8_0")))
        for kind in kinds for work in WORKS]
