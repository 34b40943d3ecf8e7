"""Other quantisations of the default model, each on the same file as llama.cpp. 576 columns are no multiple of 256: the quantiser
keeps K-quants for `down` only there (Q5_0, Q8_0 elsewhere); the 1.1B shapes of engine_shapes.py are K-quants throughout."""

from bench.cpu.harness.engine_rows import Bar, ours, prepare, theirs
from bench.cpu.harness.row import Row

WORKS = {
    "prefill": ("Prefill of 512 tokens", ("prefill", 512), (512, 1, 1), 1.5),
    "one_stream": ("One stream, context 64 to 128", ("one", 64, 64), (64, 65, 1), 1.15),
    "32_streams": ("32 streams decoding, context 64 to 96", ("batch", 32, 64, 32), (64, 33, 32), 1.15),
}
FILES = {"Q8_0": "Q8_0", "Q4_0": "Q4_0", "Q4_K": "Q4_K_S", "Q6_K": "Q6_K", "BF16": "BF16"}

ROWS = [
    Row(name=f"engine_{kind.lower()}_{work}", title=f"{title}, {kind}, engine", unit="tokens/s",
        contestants=[ours(file, *shape), theirs(file, peer)], bars=[Bar(ratio, (f"llama.cpp {file}",))], prepare=prepare(file))
    for kind, file in FILES.items() for work, (title, peer, shape, ratio) in WORKS.items()
]
