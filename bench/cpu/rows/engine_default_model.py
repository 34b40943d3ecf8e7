"""The default model (SmolLM2-135M, Q4_1 as shipped), engine only, against llama.cpp on the same file and requantised ones."""

from bench.cpu.harness.engine_rows import LAYER_WEIGHTS, Bar, of_memory, of_vnni, ours, prepare, theirs
from bench.cpu.harness.row import Row

PREFILL = ("prefill", 512)
ONE = ("one", 64, 128)
BATCH = ("batch", 32, 64, 32)

ROWS = [
    Row(name="engine_prefill_512", title="Prefill of 512 tokens, engine", unit="tokens/s",
        contestants=[ours("Q4_1", 512, 1, repeat=4), theirs("Q4_1", PREFILL), theirs("Q4_0", PREFILL), theirs("Q8_0", PREFILL)],
        bars=[Bar(5, ("llama.cpp Q4_1",)), Bar(2, ("llama.cpp Q4_1", "llama.cpp Q4_0", "llama.cpp Q8_0")),
              Bar(0.45, roof=of_vnni(2 * LAYER_WEIGHTS), text="of the VNNI roof (layers' products only)")],
        prepare=prepare("Q4_1", "Q4_0", "Q8_0"),
        note="One step of 512 rows. Ours also computes the last row's logits and the first token; llama-bench the logits."),
    Row(name="engine_one_stream", title="One stream, context 64 to 192, engine", unit="tokens/s",
        contestants=[ours("Q4_1", 64, 129), theirs("Q4_1", ONE), theirs("Q4_0", ONE), theirs("Q8_0", ONE)],
        bars=[Bar(2, ("llama.cpp Q4_1",)), Bar(1.4, ("llama.cpp Q4_0",)),
              Bar(0.8, roof=of_memory(lambda context: context.models.default()), text="of reading the weights once a token")],
        prepare=prepare("Q4_1", "Q4_0", "Q8_0"), note="Ours samples (greedy); llama-bench does not."),
    Row(name="engine_32_streams", title="32 streams decoding, context 64 to 96, engine", unit="tokens/s",
        contestants=[ours("Q4_1", 64, 33, 32, repeat=1), theirs("Q4_1", BATCH), theirs("Q4_0", BATCH)],
        bars=[Bar(4, ("llama.cpp Q4_1",)), Bar(2, ("llama.cpp Q4_0",))],
        prepare=prepare("Q4_1", "Q4_0"), note="Ours samples (greedy); llama-batched-bench takes random tokens."),
]
