"""AVX2 forced here, llama.cpp built for AVX2."""

from bench.cpu.harness.engine_rows import Bar, ours, prepare, theirs
from bench.cpu.harness.row import Row

WORKS = {
    "prefill": ("Prefill of 512 tokens", ("prefill", 512), (512, 1, 1)),
    "one_stream": ("One stream, context 64 to 128", ("one", 64, 64), (64, 65, 1)),
    "32_streams": ("32 streams decoding, context 64 to 96", ("batch", 32, 64, 32), (64, 33, 32)),
}

ROWS = [
    Row(name=f"engine_avx2_{kind.lower()}_{work}", title=f"{title}, {kind}, AVX2 only, engine", unit="tokens/s",
        contestants=[ours(kind, *shape, isa="avx2"), theirs(kind, peer, isa="avx2")],
        bars=[Bar(1.2, (f"llama.cpp {kind} avx2",))], prepare=prepare(kind, isas=("native", "avx2")))
    for kind in ("Q4_1", "Q4_0", "Q8_0") for work, (title, peer, shape) in WORKS.items()
]
