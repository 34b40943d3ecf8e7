"""What rows work with: paths, models, peers, the machine. One per run."""

import json
import os
import subprocess
import sys

from bench.cpu.harness import llama_cpp, machine, models


class Context:
    def __init__(self, root, build, quick, threads):
        self.root = root
        self.build = os.path.abspath(build)
        self.cache = f"{os.environ.get('XDG_CACHE_HOME', os.path.expanduser('~/.cache'))}/pagoda/bench"
        self.quick = quick
        self.threads = threads
        self.machine = machine.describe()
        self.roofs = {}
        os.makedirs(self.cache, exist_ok=True)
        self.llama = llama_cpp.LlamaCpp(self.cache, self.run, threads)
        self.models = models.Models(self)

    def say(self, text):
        print(f"bench: {text}", file=sys.stderr, flush=True)

    def run(self, title, command, **options):
        self.say(f"{title} ...")
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)
        if done.returncode != 0:
            raise RuntimeError(f"{title} failed ({done.returncode}): {' '.join(command)}\n{done.stdout[-3000:]}")

    def measure_roofs(self):
        self.roofs = machine.roofs(self.build, os.path.getsize(self.models.default()), self.threads)
        return self.roofs

    def engine(self, model, prompt, outputs, streams=1, isa="auto", kv="f16", max_rows=512, repeat=1):
        """Our engine by itself; the mean of `repeat` runs after a warm-up."""
        command = [f"{self.build}/bench/engine_bench", "--model", model, "--prompt", str(prompt), "--outputs", str(outputs),
                   "--streams", str(streams), "--threads", str(self.threads), "--isa", isa, "--kv-cache-dtype", kv,
                   "--max-rows", str(max_rows), "--repeat", str(repeat)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600)
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr[-2000:]}")
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        key = "decode_tokens_per_s" if outputs > 1 else "prefill_tokens_per_s"
        mean = sum(line[key] for line in lines) / len(lines)
        return {"value": mean, **{k: v for k, v in lines[-1].items() if not k.endswith("tokens_per_s")}}
