"""Makes rope_reference.json: config.json texts with the rope frequencies and the attention factor that transformers computes
from them, old spelling (rope_theta beside rope_scaling) and new (rope_parameters).
Needs: pip install torch==2.13.0 transformers.
"""

import json
import pathlib

from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

BASE = dict(model_type="llama", vocab_size=256, hidden_size=256, intermediate_size=512, num_hidden_layers=1,
            num_attention_heads=4, num_key_value_heads=2, rms_norm_eps=1e-5)
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 8192}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
CASES = {
    "default": (10000.0, 128, 2048, None),
    "smollm2": (100000.0, 64, 8192, None),
    "llama 3.1": (500000.0, 128, 131072, LLAMA3),
    "llama 3.2": (500000.0, 64, 131072, {**LLAMA3, "factor": 32.0}),
    "linear": (10000.0, 128, 16384, {"rope_type": "linear", "factor": 4.0}),
    "yarn of qwen2.5": (1000000.0, 128, 131072, YARN),
    "yarn with betas": (10000.0, 64, 65536, {**YARN, "factor": 16.0, "original_max_position_embeddings": 4096,
                                             "beta_fast": 24.0, "beta_slow": 2.0, "attention_factor": 1.25}),
    "yarn with mscale": (10000.0, 64, 163840, {**YARN, "factor": 40.0, "original_max_position_embeddings": 4096,
                                               "mscale": 1.0, "mscale_all_dim": 0.707}),
    "yarn not truncated": (150000.0, 64, 131072, {**YARN, "factor": 32.0, "original_max_position_embeddings": 4096,
                                                  "truncate": False}),
}

out = []
for name, (theta, head_dim, context, scaling) in CASES.items():
    common = {**BASE, "head_dim": head_dim, "max_position_embeddings": context}
    parameters = {**(scaling or {"rope_type": "default"}), "rope_theta": theta}
    rotary = LlamaRotaryEmbedding(LlamaConfig(**common, rope_parameters=parameters))
    spellings = {"rope_parameters": {**common, "rope_parameters": parameters},
                 "rope_scaling": {**common, "rope_theta": theta, "rope_scaling": scaling}}
    for spelling, config in spellings.items():
        out.append({"name": f"{name}, {spelling}", "config": config,
                    "frequencies": [float(f) for f in rotary.inv_freq], "attention_factor": float(rotary.attention_scaling)})
path = pathlib.Path(__file__).parent / "rope_reference.json"
path.write_text("[\n" + ",\n".join(json.dumps(case) for case in out) + "\n]\n")
