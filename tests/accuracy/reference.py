"""A float32 Llama in numpy: the reference of the accuracy test.

It is written from the architecture's description and held against transformers' float32 results
(tests/golden/accuracy_reference.json, made by tests/golden/make_accuracy_reference.py), so that the test can compute the
whole next-token distribution at every position without installing torch.
"""

import numpy as np
from gguf import GGUFReader
from gguf.quants import dequantize


class Model:
    def __init__(self, path):
        reader = GGUFReader(path)
        field = lambda key: reader.fields[f"llama.{key}"].parts[reader.fields[f"llama.{key}"].data[0]][0]
        self.layers = int(field("block_count"))
        self.heads = int(field("attention.head_count"))
        self.kv_heads = int(field("attention.head_count_kv"))
        self.hidden = int(field("embedding_length"))
        self.head_dim = self.hidden // self.heads
        self.epsilon = np.float32(field("attention.layer_norm_rms_epsilon"))
        self.rope_base = float(field("rope.freq_base"))
        self.weights = {t.name: dequantize(t.data, t.tensor_type).astype(np.float32).reshape(t.shape[::-1])
                        for t in reader.tensors}
        self.head = self.weights.get("output.weight", self.weights["token_embd.weight"])

    def norm(self, x, weight):
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + self.epsilon) * weight

    def rope(self, x, cos, sin):  # [tokens, heads, head_dim], pairs (2i, 2i+1): GGUF's order for llama
        a, b = x[..., 0::2], x[..., 1::2]
        out = np.empty_like(x)
        out[..., 0::2] = a * cos - b * sin
        out[..., 1::2] = b * cos + a * sin
        return out

    def logits(self, tokens):
        """[tokens] -> [tokens, vocabulary], each position seeing those up to itself."""
        w, n, d = self.weights, len(tokens), self.head_dim
        angle = np.arange(n)[:, None] * self.rope_base ** (-np.arange(0, d, 2) / d)[None]
        cos, sin = (f(angle).astype(np.float32)[:, None] for f in (np.cos, np.sin))
        mask = np.triu(np.full((n, n), -np.inf, np.float32), 1)
        x = w["token_embd.weight"][tokens]
        for layer in range(self.layers):
            p = f"blk.{layer}."
            h = self.norm(x, w[p + "attn_norm.weight"])
            q = self.rope((h @ w[p + "attn_q.weight"].T).reshape(n, self.heads, d), cos, sin)
            k = self.rope((h @ w[p + "attn_k.weight"].T).reshape(n, self.kv_heads, d), cos, sin)
            v = (h @ w[p + "attn_v.weight"].T).reshape(n, self.kv_heads, d)
            group = self.heads // self.kv_heads
            out = np.empty((n, self.heads, d), np.float32)
            for head in range(self.heads):
                s = q[:, head] @ k[:, head // group].T / np.float32(np.sqrt(d)) + mask
                s = np.exp(s - s.max(-1, keepdims=True))
                out[:, head] = (s / s.sum(-1, keepdims=True)) @ v[:, head // group]
            x = x + out.reshape(n, -1) @ w[p + "attn_output.weight"].T
            h = self.norm(x, w[p + "ffn_norm.weight"])
            gate = h @ w[p + "ffn_gate.weight"].T
            x = x + (gate / (1 + np.exp(-gate)) * (h @ w[p + "ffn_up.weight"].T)) @ w[p + "ffn_down.weight"].T
        return self.norm(x, w["output_norm.weight"]) @ self.head.T


def log_softmax(logits):
    logits = logits.astype(np.float64)
    top = logits.max(-1, keepdims=True)
    return logits - top - np.log(np.exp(logits - top).sum(-1, keepdims=True))
