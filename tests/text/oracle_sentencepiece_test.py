"""The score-based `llama` tokenizer of GGUF against the `sentencepiece` package: models trained here, written as a GGUF
vocabulary as llama.cpp's converter does (tokens, scores, types, byte fallback), and then the same ids and the same text
back on hostile texts. Usage: oracle_sentencepiece_test.py TEXT_TOOL [--count N] [--seed N] [--only NAME]"""
import argparse
import io
import os
import random
import sys
import tempfile

try:
    import gguf
    import sentencepiece
except ImportError as missing:
    print(f"skipped: {missing}")
    sys.exit(77)

import hostile_text
import text_tool

MODELS = {  # what the trainer is told besides
    "llama2": dict(vocab_size=2000, split_digits=True, allow_whitespace_only_pieces=True),
    "mistral": dict(vocab_size=1200, split_digits=False, allow_whitespace_only_pieces=True),
    # Words may run over spaces, and nothing is prepended (Gemma's first generation).
    "no_prefix": dict(vocab_size=2500, split_by_whitespace=False, add_dummy_prefix=False, split_digits=True),
    # No bytes to fall back on: what is not in the vocabulary is <unk>.
    "no_bytes": dict(vocab_size=1500, byte_fallback=False),
    # Tokens of the user's own, one of them of spaces, and one that begins another.
    "user_defined": dict(vocab_size=2000, user_defined_symbols=["<|sep|>", "<|sep|>x", "\u2581" * 4, "foo_bar"]),
}


def train(name, corpus):
    made = io.BytesIO()
    settings = dict(byte_fallback=True, add_dummy_prefix=True, split_by_unicode_script=True)
    settings.update(MODELS[name])
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus), model_writer=made, model_type="bpe", normalization_rule_name="identity",
        remove_extra_whitespaces=False, character_coverage=0.995, max_sentence_length=100000, num_threads=1,
        hard_vocab_limit=False, unk_surface=" \u2047 ", minloglevel=2, **settings)
    return sentencepiece.SentencePieceProcessor(model_proto=made.getvalue())


def write_gguf(path, model, prefix, user_defined):
    """What convert_hf_to_gguf.py writes for a tokenizer.model."""
    tokens, scores, types = [], [], []
    for i in range(model.vocab_size()):
        tokens.append(model.id_to_piece(i).encode())
        scores.append(model.get_score(i))
        if model.is_unknown(i):
            types.append(gguf.TokenType.UNKNOWN)
        elif model.is_control(i):
            types.append(gguf.TokenType.CONTROL)
        elif model.is_byte(i):
            types.append(gguf.TokenType.BYTE)
        elif model.id_to_piece(i) in user_defined:
            types.append(gguf.TokenType.USER_DEFINED)
            tokens[-1] = model.id_to_piece(i).replace("\u2581", " ").encode()
        else:
            types.append(gguf.TokenType.NORMAL)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores(scores)
    writer.add_token_types(types)
    writer.add_bos_token_id(model.bos_id())
    writer.add_eos_token_id(model.eos_id())
    writer.add_unk_token_id(model.unk_id())
    writer.add_add_bos_token(False)
    writer.add_add_space_prefix(prefix)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


def show(model, ids):
    return [model.id_to_piece(i) for i in ids]


def compare(name, binary, path, model, texts, seed):
    """How many differences there are; shows the first few."""
    run = lambda requests: text_tool.run(binary, ["open", path], requests)  # noqa: E731
    want = model.encode(texts)
    got = [a["ids"] for a in run([{"op": "encode", "text": t, "parse": False} for t in texts])]
    wrong = [i for i in range(len(texts)) if want[i] != got[i]]
    for i in wrong[:5]:
        print(f"{name}: {texts[i]!r}\n  want {show(model, want[i])}\n  got  {show(model, got[i])}")
    # Back to text: what was encoded, and ids in any order, among them bytes that make no character.
    rng = random.Random(seed)
    plain = [i for i in range(model.vocab_size()) if not model.is_control(i) and not model.is_unknown(i)]
    random_ids = [[rng.choice(plain) for _ in range(rng.randint(1, 20))] for _ in range(1000)]
    lists = [ids for ids in want if model.unk_id() not in ids] + random_ids
    text = [model.decode(ids) for ids in lists]
    back = [a["text"] for a in run([{"op": "decode", "ids": ids} for ids in lists])]
    streams = ["".join(a["pieces"]) for a in run([{"op": "stream", "ids": ids, "skip": False} for ids in lists])]
    wrong_text = [i for i in range(len(lists)) if not text[i] == back[i] == streams[i]]
    for i in wrong_text[:5]:
        print(f"{name}: decoding {show(model, lists[i])}\n  want {text[i]!r}\n  got  {back[i]!r}\n  streamed {streams[i]!r}")
    print(f"{name}: {len(texts)} texts, {len(wrong)} differ in ids; {len(lists)} decoded, {len(wrong_text)} differ", flush=True)
    return len(wrong) + len(wrong_text)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("binary")
    parser.add_argument("--count", type=int, default=10000)
    parser.add_argument("--seed", type=int, default=20261126)
    parser.add_argument("--only")
    options = parser.parse_args()
    print(f"seed {options.seed}")
    corpus = [line for text in hostile_text.corpus(1500, options.seed) for line in text.split("\n") if line]
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        for name in MODELS:
            if options.only and options.only != name:
                continue
            model = train(name, corpus)
            path = os.path.join(folder, f"{name}.gguf")
            write_gguf(path, model, MODELS[name].get("add_dummy_prefix", True), MODELS[name].get("user_defined_symbols", []))
            texts = hostile_text.texts(options.count, f"{options.seed}{name}", ["<s>", "</s>", "<0x41>", "<unk>", "\u2047", "<|sep|>", "<|sep|>x", "foo_bar"])
            wrong += compare(name, options.binary, path, model, texts, options.seed)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
