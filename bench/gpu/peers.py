"""What torch and transformers do on the same card, for bench/gpu/run: matmul and SDPA rates, and random-weight Llamas through
transformers (eager, and static cache with torch.compile, which records CUDA graphs). One JSON object a line. Skips what is not there.
Usage: peers.py [--quick]
"""

import json
import statistics
import sys
import time

try:
    import torch
except ImportError as error:
    print(json.dumps({"what": "skipped", "why": str(error)}))
    sys.exit(0)
if not torch.cuda.is_available():
    print(json.dumps({"what": "skipped", "why": "torch sees no GPU"}))
    sys.exit(0)

QUICK = "--quick" in sys.argv
DEVICE = "cuda"


def say(**fields):
    print(json.dumps(fields), flush=True)


def seconds_of(body, calls, rounds=5):
    for _ in range(3):
        body()
    torch.cuda.synchronize()
    times = []
    for _ in range(rounds):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        for _ in range(calls):
            body()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end) / 1e3 / calls)
    return statistics.median(times)


def roofs():
    a = torch.empty(1 << 30, dtype=torch.uint8, device=DEVICE).random_()
    b = torch.empty_like(a)
    say(what="peer roof copy", bytes_per_s=2 * a.numel() / seconds_of(lambda: b.copy_(a), 5))
    n = 8192
    x, y = (torch.randn(n, n, device=DEVICE, dtype=torch.bfloat16) for _ in range(2))
    say(what="peer roof matmul bf16", flop_per_s=2 * n**3 / seconds_of(lambda: torch.mm(x, y), 5))


def gemms():
    for rows, columns in ((6144, 4096), (28672, 4096), (4096, 14336)):
        copies = [torch.randn(rows, columns, device=DEVICE, dtype=torch.bfloat16) for _ in range(8)]
        for tokens in (1, 8, 32, 64, 2048):
            x = torch.randn(tokens, columns, device=DEVICE, dtype=torch.bfloat16)
            at = [0]

            def body():
                at[0] = (at[0] + 1) % len(copies)
                return torch.nn.functional.linear(x, copies[at[0]])

            s = seconds_of(body, 100 if tokens <= 64 else 10)
            say(what="peer gemm", rows=rows, columns=columns, tokens=tokens, us=s * 1e6,
                weight_bytes_per_s=rows * columns * 2 / s, flop_per_s=2 * rows * columns * tokens / s)


def attention():
    heads, kv, dim = 32, 8, 128
    for batch, context in ((1, 1024), (1, 4096), (64, 256), (64, 1024)):
        q = torch.randn(batch, heads, 1, dim, device=DEVICE, dtype=torch.bfloat16)
        k, v = (torch.randn(batch, kv, context, dim, device=DEVICE, dtype=torch.bfloat16) for _ in range(2))
        s = seconds_of(lambda: torch.nn.functional.scaled_dot_product_attention(q, k, v, enable_gqa=True), 50)
        say(what="peer attention", sequences=batch, context=context, us=s * 1e6, bytes_per_s=2 * batch * kv * context * dim * 2 / s)


MODELS = {
    "SmolLM2-135M": dict(num_hidden_layers=30, hidden_size=576, num_attention_heads=9, num_key_value_heads=3, head_dim=64,
                         intermediate_size=1536, vocab_size=49152),
    "Llama-1B": dict(num_hidden_layers=16, hidden_size=2048, num_attention_heads=32, num_key_value_heads=8, head_dim=64,
                     intermediate_size=8192, vocab_size=128256),
    "Llama-8B": dict(num_hidden_layers=32, hidden_size=4096, num_attention_heads=32, num_key_value_heads=8, head_dim=128,
                     intermediate_size=14336, vocab_size=128256),
}


def generate(model, batch, new_tokens, **options):
    ids = torch.randint(0, 1000, (batch, 32), device=DEVICE)
    mask = torch.ones_like(ids)
    settings = dict(input_ids=ids, attention_mask=mask, do_sample=False, min_new_tokens=new_tokens, max_new_tokens=new_tokens,
                    pad_token_id=0, **options)
    with torch.no_grad():
        for _ in range(2):
            model.generate(**settings)
        torch.cuda.synchronize()
        begin = time.perf_counter()
        model.generate(**settings)
        torch.cuda.synchronize()
    return batch * new_tokens / (time.perf_counter() - begin)


def models():
    try:
        from transformers import LlamaConfig, LlamaForCausalLM
    except ImportError as error:
        say(what="skipped", why=str(error))
        return
    for name, shape in MODELS.items():
        if QUICK and name == "Llama-1B":
            continue
        torch.set_default_dtype(torch.bfloat16)
        with torch.device(DEVICE):
            model = LlamaForCausalLM(LlamaConfig(**shape, max_position_embeddings=8192)).eval()
        torch.set_default_dtype(torch.float32)
        try:
            say(what="peer model", peer="transformers eager", model=name, sequences=1, tokens_per_s=generate(model, 1, 64))
            for batch in (8, 32) if QUICK else (8, 32, 64):
                say(what="peer model", peer="transformers eager", model=name, sequences=batch, tokens_per_s=generate(model, batch, 64))
            say(what="peer model", peer="transformers static cache + compile", model=name, sequences=1,
                tokens_per_s=generate(model, 1, 128, cache_implementation="static"))
        except Exception as error:  # a peer that fails is a line, not the end of the run
            say(what="peer failed", model=name, why=repr(error)[:300])
        del model
        torch.cuda.empty_cache()


roofs()
gemms()
attention()
models()
