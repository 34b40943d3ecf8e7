"""Makes accuracy_reference.json: what transformers in float32 says of the default model, dequantised, teacher-forced over
2,000 tokens of accuracy_text.txt. Needs: pip install torch==2.13.0 transformers accelerate gguf numpy. Run: make_accuracy_reference.py MODEL.gguf
"""

import json
import pathlib
import sys

import numpy as np
import torch
from gguf import GGUFReader
from transformers import AutoModelForCausalLM, AutoTokenizer
import transformers

here = pathlib.Path(__file__).parent
path = pathlib.Path(sys.argv[1])
text = (here / "accuracy_text.txt").read_text()
tokenizer = AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name)
model = AutoModelForCausalLM.from_pretrained(str(path.parent), gguf_file=path.name, dtype=torch.float32).eval()
tokens = tokenizer(text, add_special_tokens=False)["input_ids"][:2000]
with torch.no_grad():
    logits = model(torch.tensor([tokens])).logits[0].double()
logprobs = torch.log_softmax(logits, -1)
top = logprobs.topk(2)
target = [round(float(logprobs[i, t]), 6) for i, t in enumerate(tokens[1:])]
json.dump({"torch": torch.__version__, "transformers": transformers.__version__, "tokens": tokens,
           "top1": top.indices[:, 0].tolist(),
           "margin": [round(float(a - b), 6) for a, b in top.values],
           "target_logprob": target}, (here / "accuracy_reference.json").open("w"))
print("perplexity", np.exp(-np.mean(target)))
