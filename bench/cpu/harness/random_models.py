"""GGUF files of random weights in the shapes of larger Llamas, in blocks of the format itself: seconds, not a quantiser's minutes.
The tokenizer is the default model's, with names of no meaning for the rest of the vocabulary."""

import os

import gguf
import numpy

SHAPES = {
    # TinyLlama 1.1B but for the vocabulary, which is the default model's.
    "1.1B": {"layers": 22, "hidden": 2048, "heads": 32, "kv_heads": 4, "head_dim": 64, "ffn": 5632, "vocabulary": 49152},
    # Llama 3.2 3B.
    "3B": {"layers": 28, "hidden": 3072, "heads": 24, "kv_heads": 8, "head_dim": 128, "ffn": 8192, "vocabulary": 128256},
}
TYPES = {name: getattr(gguf.GGMLQuantizationType, name) for name in ("Q4_0", "Q8_0", "Q4_K", "Q6_K")}
# What llama-quantize takes for embedding and head beside these.
HEADS = {"Q4_0": "Q6_K", "Q8_0": "Q8_0", "Q4_K": "Q6_K", "Q6_K": "Q6_K"}
SPREAD = 0.02


def random_blocks(kind, rows, columns, random):
    """[rows, bytes of a row]: random integers under one scale, so that the weights have the spread of real ones."""
    block, size = gguf.GGML_QUANT_SIZES[TYPES[kind]]
    data = random.integers(0, 256, (rows, columns // block, size), dtype=numpy.uint8)

    def put(at, value):
        data[:, :, at:at + 2] = numpy.frombuffer(numpy.float16(value).tobytes(), dtype=numpy.uint8)

    if kind == "Q4_0":
        put(0, SPREAD / 4.6)
    elif kind == "Q8_0":
        put(0, SPREAD / 74)
    elif kind == "Q4_K":  # d, dmin, 12 bytes of 6-bit scales and minima, nibbles
        put(0, SPREAD / 4.6 / 32)
        put(2, SPREAD * 1.6 / 32)
    elif kind == "Q6_K":  # low bits, high bits, 16 signed scales, d
        data[:, :, 192:208] = random.integers(24, 40, (rows, columns // block, 16), dtype=numpy.uint8)
        put(208, SPREAD / 18.5 / 32)
    return data.reshape(rows, -1)


def copy_tokenizer(writer, model, vocabulary):
    fields = gguf.GGUFReader(model).fields
    tokens = [str(t) for t in fields["tokenizer.ggml.tokens"].contents()]
    types = [int(t) for t in fields["tokenizer.ggml.token_type"].contents()]
    for i in range(len(tokens), vocabulary):
        tokens.append(f"<|unused_{i}|>")
        types.append(int(gguf.TokenType.UNUSED))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(fields["tokenizer.ggml.pre"].contents())
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges([str(m) for m in fields["tokenizer.ggml.merges"].contents()])
    for name in ("bos", "eos", "unknown", "padding"):
        field = fields.get(f"tokenizer.ggml.{name}_token_id")
        if field is not None:
            getattr(writer, {"bos": "add_bos_token_id", "eos": "add_eos_token_id", "unknown": "add_unk_token_id",
                             "padding": "add_pad_token_id"}[name])(int(field.contents()))
    template = fields.get("tokenizer.chat_template")
    if template is not None:
        writer.add_chat_template(template.contents())


def write(path, shape_name, kind, tokenizer_of):
    shape = SHAPES[shape_name]
    random = numpy.random.default_rng(1)
    part = path + ".new"
    writer = gguf.GGUFWriter(part, "llama", use_temp_file=True)
    writer.add_name(f"random {shape_name}")
    writer.add_context_length(8192)
    writer.add_embedding_length(shape["hidden"])
    writer.add_block_count(shape["layers"])
    writer.add_feed_forward_length(shape["ffn"])
    writer.add_head_count(shape["heads"])
    writer.add_head_count_kv(shape["kv_heads"])
    writer.add_key_length(shape["head_dim"])
    writer.add_value_length(shape["head_dim"])
    writer.add_rope_dimension_count(shape["head_dim"])
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(shape["vocabulary"])
    copy_tokenizer(writer, tokenizer_of, shape["vocabulary"])

    def matrix(name, rows, columns, of=kind):
        writer.add_tensor(name, random_blocks(of, rows, columns, random), raw_dtype=TYPES[of])

    hidden, query, key = shape["hidden"], shape["heads"] * shape["head_dim"], shape["kv_heads"] * shape["head_dim"]
    matrix("token_embd.weight", shape["vocabulary"], hidden, HEADS[kind])
    ones = numpy.ones(hidden, dtype=numpy.float32)
    writer.add_tensor("output_norm.weight", ones)
    for i in range(shape["layers"]):
        writer.add_tensor(f"blk.{i}.attn_norm.weight", ones)
        writer.add_tensor(f"blk.{i}.ffn_norm.weight", ones)
        matrix(f"blk.{i}.attn_q.weight", query, hidden)
        matrix(f"blk.{i}.attn_k.weight", key, hidden)
        matrix(f"blk.{i}.attn_v.weight", key, hidden)
        matrix(f"blk.{i}.attn_output.weight", hidden, query)
        matrix(f"blk.{i}.ffn_gate.weight", shape["ffn"], hidden)
        matrix(f"blk.{i}.ffn_up.weight", shape["ffn"], hidden)
        matrix(f"blk.{i}.ffn_down.weight", hidden, shape["ffn"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    os.rename(part, path)
