"""Makes tiny_llama/ and tiny_qwen2/: random models saved by transformers in float32 with the next-token log-probabilities
that transformers computes (reference.npz), for the safetensors path of the accuracy test.
Needs: pip install torch==2.13.0 transformers tokenizers numpy.
"""

import pathlib

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

here = pathlib.Path(__file__).parent
alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
vocabulary = {"<s>": 0, "</s>": 1, **{c: i + 2 for i, c in enumerate(alphabet)}}
common = dict(vocab_size=len(vocabulary) + 6, hidden_size=96, intermediate_size=224, num_hidden_layers=3, num_attention_heads=6,
              num_key_value_heads=3, max_position_embeddings=512, bos_token_id=0, eos_token_id=1, initializer_range=0.15)


def save(name, model):
    folder = here / name
    model = model.eval()
    for parameter in model.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    model.save_pretrained(folder, max_shard_size="200KB")
    base = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    base.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    base.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=base, bos_token="<s>", eos_token="</s>").save_pretrained(folder)
    tokens = torch.randint(2, common["vocab_size"], (1, 160))
    with torch.no_grad():
        logprobs = torch.log_softmax(model(tokens).logits[0].double(), -1)
    np.savez_compressed(folder / "reference.npz", tokens=tokens[0].numpy().astype(np.int32),
                        logprobs=logprobs.numpy().astype(np.float32))


torch.manual_seed(7)
save("tiny_llama", LlamaForCausalLM(LlamaConfig(**common, tie_word_embeddings=False, rope_theta=10000.0, rope_scaling={
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64})))
save("tiny_qwen2", Qwen2ForCausalLM(Qwen2Config(**common, tie_word_embeddings=True)))
