"""Makes dequantize_reference.json: random blocks of every stored type and the float32 values that the package gguf (of
llama.cpp) gives for them, all in hexadecimal of the little-endian bytes.
Needs: pip install gguf numpy.
"""

import json
import pathlib

import gguf
import numpy as np

TYPES = {"F32": 0, "F16": 1, "BF16": 30, "Q4_0": 2, "Q4_1": 3, "Q5_0": 6, "Q5_1": 7, "Q8_0": 8, "Q2_K": 10, "Q3_K": 11,
         "Q4_K": 12, "Q5_K": 13, "Q6_K": 14}
SCALES = {"Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q2_K": [80, 82], "Q3_K": [108], "Q4_K": [0, 2],
          "Q5_K": [0, 2], "Q6_K": [208]}  # where a block has its halves: those are made finite

rng = np.random.default_rng(20261121)
out = {}
for name, number in TYPES.items():
    kind = gguf.GGMLQuantizationType(number)
    weights, size = gguf.GGML_QUANT_SIZES[kind]
    blocks = 32 if weights == 1 else 3 if weights == 32 else 1
    if weights == 1:
        values = rng.standard_normal(blocks).astype(np.float32)
        raw = gguf.quants.quantize(values, kind).view(np.uint8).reshape(1, -1)
        if name == "F16":  # subnormals, zeros and the largest too
            halves = raw.copy().view(np.uint16).reshape(-1)
            halves[:6] = [0x0001, 0x03FF, 0x8000, 0x7BFF, 0x0400, 0x8201]
            raw = halves.view(np.uint8).reshape(1, -1)
    else:
        raw = rng.integers(0, 256, (blocks, size), dtype=np.uint8)
        for at in SCALES[name]:
            raw[:, at:at + 2] = (rng.standard_normal(blocks) * 0.02).astype(np.float16).view(np.uint8).reshape(blocks, 2)
        raw = raw.reshape(1, -1)
    stored = raw if name not in ("F32", "F16") else raw.view(np.float32 if name == "F32" else np.float16)
    values = gguf.quants.dequantize(stored, kind).astype(np.float32)
    out[name] = {"stored": raw.tobytes().hex(), "values": values.tobytes().hex()}
path = pathlib.Path(__file__).parent / "dequantize_reference.json"
path.write_text("{\n" + ",\n".join(f'"{name}": {json.dumps(case)}' for name, case in out.items()) + "\n}\n")
