#include "tests/fakes/model_writer.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "checkpoint/dequantize.h"
#include "tests/fakes/gguf_writer.h"

namespace pagoda::testing {
namespace {

using checkpoint::TensorType;

constexpr std::array<const char*, kTinySpecialTokens> kSpecials = {"<|endoftext|>", "<|im_start|>",
                                                                   "<|im_end|>"};
constexpr const char* kChatTemplate =
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] "
    "+ '<|im_end|>' + "
    "'\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

// splitmix64: any seed is good.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t Next() {
    uint64_t z = (state_ += 0x9e3779b97f4a7c15ULL);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
    return z ^ (z >> 31);
  }
  double Uniform() { return static_cast<double>(Next() >> 11) * 0x1.0p-53; }  // [0, 1)

 private:
  uint64_t state_;
};

uint64_t SeedOf(uint64_t seed, std::string_view name) {
  for (const char c : name) seed = (seed ^ static_cast<uint8_t>(c)) * 0x100000001b3ULL;
  return seed;
}

// Where a block has its scales, how large its values get with scale 1 and random bits, and what
// centres them.
struct BlockShape {
  uint32_t ggml_type;
  int scale_at;          // offset of the half; -1: plain floats
  int minimum_at;        // -1: none
  double deviation;      // of the values when the scale is 1
  double minimum_ratio;  // minimum = ratio * scale gives a mean near 0
};

// In the order of TensorType.
constexpr std::array<BlockShape, 13> kBlocks = {{
    {0, -1, -1, 1, 0},
    {1, -1, -1, 1, 0},
    {30, -1, -1, 1, 0},  // F32, F16, BF16
    {2, 0, -1, 4.6, 0},
    {3, 0, 2, 4.6, -7.5},
    {6, 0, -1, 9.2, 0},  // Q4_0, Q4_1, Q5_0
    {7, 0, 2, 9.2, -15.5},
    {8, 0, -1, 74, 0},  // Q5_1, Q8_0
    {10, 80, 82, 14, 1.5},
    {11, 108, -1, 42, 0},
    {12, 0, 2, 250, 7.5},  // Q2_K, Q3_K, Q4_K
    {13, 0, 2, 500, 15.5},
    {14, 208, -1, 1370, 0},  // Q5_K, Q6_K
}};

const BlockShape& ShapeOfBlock(TensorType type) { return kBlocks[static_cast<size_t>(type)]; }

void PutHalf(std::string& bytes, size_t offset, float value) {
  const uint16_t half = FloatToHalf(value);
  std::memcpy(bytes.data() + offset, &half, sizeof(half));
}

std::string FloatsAs(TensorType type, std::span<const float> values) {
  std::string bytes;
  for (const float value : values) {
    if (type == TensorType::kF16) {
      bytes += Raw(FloatToHalf(value));
    } else if (type == TensorType::kBF16) {
      bytes += Raw(static_cast<uint16_t>((std::bit_cast<uint32_t>(value) + 0x8000u) >> 16));
    } else {
      bytes += Raw(value);
    }
  }
  return bytes;
}

struct Tensor {
  std::string gguf_name;
  std::string folder_name;
  TensorType type;
  int64_t rows;  // 0: a vector
  int64_t columns;
  std::string bytes;
  int permuted_heads = 0;  // q and k: rows that GGUF's "llama" has in another order
};

// Rows (pair j of half h) of each head to (2j + h), as llama.cpp's converter for "llama".
std::string PermuteRows(const Tensor& tensor) {
  const size_t row_bytes = tensor.bytes.size() / static_cast<size_t>(tensor.rows);
  const int64_t head_rows = tensor.rows / tensor.permuted_heads;
  std::string out(tensor.bytes.size(), '\0');
  for (int64_t row = 0; row < tensor.rows; ++row) {
    const int64_t head = row / head_rows;
    const int64_t within = row % head_rows;
    const int64_t target =
        head * head_rows + within % (head_rows / 2) * 2 + within / (head_rows / 2);
    std::memcpy(out.data() + static_cast<size_t>(target) * row_bytes,
                tensor.bytes.data() + static_cast<size_t>(row) * row_bytes, row_bytes);
  }
  return out;
}

class Builder {
 public:
  explicit Builder(const TinyModelOptions& options) : options_(options) {}

  std::vector<Tensor> Build() {
    const TinyModelOptions& o = options_;
    Matrix("token_embd.weight", "model.embed_tokens.weight", o.embedding_type, kTinyVocabulary,
           o.hidden, 1.0);
    for (int layer = 0; layer < o.layers; ++layer) Layer(layer);
    Norm("output_norm.weight", "model.norm.weight");
    if (!o.tied)
      Matrix("output.weight", "lm_head.weight", o.embedding_type, kTinyVocabulary, o.hidden,
             Spread(o.hidden));
    return std::move(tensors_);
  }

 private:
  static double Spread(int inputs) { return 1.0 / std::sqrt(static_cast<double>(inputs)); }

  void Layer(int layer) {
    const TinyModelOptions& o = options_;
    const std::string g = "blk." + std::to_string(layer) + ".";
    const std::string f = "model.layers." + std::to_string(layer) + ".";
    const int queries = o.heads * o.head_dim;
    const int keys = o.kv_heads * o.head_dim;
    Norm(g + "attn_norm.weight", f + "input_layernorm.weight");
    Matrix(g + "attn_q.weight", f + "self_attn.q_proj.weight", o.type, queries, o.hidden,
           2 * Spread(o.hidden), o.heads);
    Matrix(g + "attn_k.weight", f + "self_attn.k_proj.weight", o.type, keys, o.hidden,
           2 * Spread(o.hidden), o.kv_heads);
    Matrix(g + "attn_v.weight", f + "self_attn.v_proj.weight", o.type, keys, o.hidden,
           Spread(o.hidden));
    if (o.architecture == "qwen2") {
      Vector(g + "attn_q.bias", f + "self_attn.q_proj.bias", queries, 0.0, 0.2);
      Vector(g + "attn_k.bias", f + "self_attn.k_proj.bias", keys, 0.0, 0.2);
      Vector(g + "attn_v.bias", f + "self_attn.v_proj.bias", keys, 0.0, 0.2);
    }
    Matrix(g + "attn_output.weight", f + "self_attn.o_proj.weight", o.type, o.hidden, queries,
           Spread(queries));
    Norm(g + "ffn_norm.weight", f + "post_attention_layernorm.weight");
    Matrix(g + "ffn_gate.weight", f + "mlp.gate_proj.weight", o.type, o.ffn, o.hidden,
           Spread(o.hidden));
    Matrix(g + "ffn_up.weight", f + "mlp.up_proj.weight", o.type, o.ffn, o.hidden,
           Spread(o.hidden));
    Matrix(g + "ffn_down.weight", f + "mlp.down_proj.weight", o.type, o.hidden, o.ffn,
           Spread(o.ffn));
  }

  void Matrix(const std::string& gguf, const std::string& folder, TensorType type, int64_t rows,
              int64_t columns, double deviation, int permuted_heads = 0) {
    std::string bytes = RandomTensor(type, rows * columns, deviation, SeedOf(options_.seed, gguf));
    if (options_.dequantized) {
      std::vector<float> values(static_cast<size_t>(rows * columns));
      checkpoint::Dequantize(type, std::as_bytes(std::span(bytes)), values);
      bytes = FloatsAs(TensorType::kF32, values);
      type = TensorType::kF32;
    }
    tensors_.push_back({gguf, folder, type, rows, columns, std::move(bytes), permuted_heads});
  }

  void Vector(const std::string& gguf, const std::string& folder, int64_t size, double mean,
              double spread) {
    Random random(SeedOf(options_.seed, gguf));
    std::vector<float> values(static_cast<size_t>(size));
    for (float& value : values)
      value = static_cast<float>(mean + spread * (2 * random.Uniform() - 1));
    tensors_.push_back(
        {gguf, folder, TensorType::kF32, 0, size, FloatsAs(TensorType::kF32, values)});
  }

  void Norm(const std::string& gguf, const std::string& folder) {
    Vector(gguf, folder, options_.hidden, 1.0, 0.3);
  }

  const TinyModelOptions& options_;
  std::vector<Tensor> tensors_;
};

// GPT-2's visible alphabet: printable Latin-1 stands for itself, the rest for U+0100 and on.
std::string ByteAsText(int byte) {
  const auto visible = [](int b) {
    return (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || (b >= 174 && b <= 255);
  };
  int code = byte;
  if (!visible(byte)) {
    code = 256;
    for (int b = 0; b < byte; ++b) code += visible(b) ? 0 : 1;
  }
  if (code < 0x80) return std::string(1, static_cast<char>(code));
  return {static_cast<char>(0xc0 | (code >> 6)), static_cast<char>(0x80 | (code & 0x3f))};
}

std::vector<std::string> Vocabulary() {
  std::vector<std::string> tokens(kSpecials.begin(), kSpecials.end());
  for (int byte = 0; byte < 256; ++byte) tokens.push_back(ByteAsText(byte));
  return tokens;
}

void AddTokenizer(GgufWriter& writer) {
  constexpr int32_t kNormal = 1, kControl = 3;
  std::vector<int32_t> types(kTinyVocabulary, kNormal);
  std::fill_n(types.begin(), kTinySpecialTokens, kControl);
  writer.AddString("tokenizer.ggml.model", "gpt2");
  writer.AddString("tokenizer.ggml.pre", "smollm");
  writer.AddStrings("tokenizer.ggml.tokens", Vocabulary());
  writer.AddInts("tokenizer.ggml.token_type", types);
  writer.AddStrings("tokenizer.ggml.merges", {});
  writer.AddUint32("tokenizer.ggml.bos_token_id", 1);
  writer.AddUint32("tokenizer.ggml.eos_token_id", 2);
  writer.AddUint32("tokenizer.ggml.unknown_token_id", 0);
  writer.AddBool("tokenizer.ggml.add_bos_token", false);
  writer.AddBool("tokenizer.ggml.add_space_prefix", false);
  writer.AddString("tokenizer.chat_template", kChatTemplate);
}

std::string Quoted(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    out += c;
  }
  return out + "\"";
}

std::string TokenizerJson() {
  std::string added;
  std::string vocabulary;
  const std::vector<std::string> tokens = Vocabulary();
  for (size_t id = 0; id < tokens.size(); ++id) {
    vocabulary += (id == 0 ? "" : ",") + Quoted(tokens[id]) + ":" + std::to_string(id);
    if (id >= kTinySpecialTokens) continue;
    added +=
        (id == 0 ? "" : ",") + ("{\"id\":" + std::to_string(id)) +
        ",\"content\":" + Quoted(tokens[id]) +
        R"(,"single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":true})";
  }
  return R"({"version":"1.0","truncation":null,"padding":null,"added_tokens":[)" + added +
         R"(],"normalizer":null,"pre_tokenizer":{"type":"Sequence","pretokenizers":[)"
         R"({"type":"Digits","individual_digits":true},)"
         R"({"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":true}]},)"
         R"("post_processor":null,)"
         R"("decoder":{"type":"ByteLevel","add_prefix_space":true,"trim_offsets":true,"use_regex":true},)"
         R"("model":{"type":"BPE","dropout":null,"unk_token":null,"continuing_subword_prefix":null,)"
         R"("end_of_word_suffix":null,"fuse_unk":false,"byte_fallback":false,"vocab":{)" +
         vocabulary + R"(},"merges":[]}})";
}

std::string ConfigJson(const TinyModelOptions& o) {
  const auto field = [](const char* key, const std::string& value) {
    return "\"" + std::string(key) + "\": " + value;
  };
  std::string text = "{" + o.extra_config;
  text += field("model_type", Quoted(o.architecture)) + ", " +
          field("vocab_size", std::to_string(kTinyVocabulary)) + ", ";
  text += field("hidden_size", std::to_string(o.hidden)) + ", " +
          field("intermediate_size", std::to_string(o.ffn)) + ", ";
  text += field("num_hidden_layers", std::to_string(o.layers)) + ", ";
  text += field("num_attention_heads", std::to_string(o.heads)) + ", ";
  text += field("num_key_value_heads", std::to_string(o.kv_heads)) + ", ";
  text += field("head_dim", std::to_string(o.head_dim)) + ", ";
  text += field("max_position_embeddings", std::to_string(o.max_context)) + ", ";
  text += field("rope_theta", std::to_string(o.rope_base)) + ", " + field("rms_norm_eps", "1e-05") +
          ", ";
  if (o.architecture == "mistral") text += field("sliding_window", "null") + ", ";
  text += field("hidden_act", "\"silu\"") + ", " +
          field("tie_word_embeddings", o.tied ? "true" : "false") + ", ";
  return text + field("bos_token_id", "1") + ", " + field("eos_token_id", "2") + "}\n";
}

void AddWeights(const TinyModelOptions& options,
                std::vector<std::pair<std::string, std::string>>& files) {
  std::vector<std::vector<SafetensorsEntry>> shards(static_cast<size_t>(options.shards));
  std::string index;
  size_t next = 0;
  const auto shard_name = [&](size_t shard) {
    char name[64];
    std::snprintf(name, sizeof(name), "model-%05zu-of-%05d.safetensors", shard + 1, options.shards);
    return options.shards == 1 ? std::string("model.safetensors") : std::string(name);
  };
  for (Tensor& tensor : Builder(options).Build()) {
    std::vector<int64_t> shape = {tensor.columns};
    if (tensor.rows > 0) shape.insert(shape.begin(), tensor.rows);
    const size_t shard = next++ % shards.size();
    index +=
        (index.empty() ? "" : ",") + Quoted(tensor.folder_name) + ":" + Quoted(shard_name(shard));
    shards[shard].push_back({tensor.folder_name, std::string(checkpoint::NameOf(tensor.type)),
                             shape, std::move(tensor.bytes)});
  }
  for (size_t shard = 0; shard < shards.size(); ++shard)
    files.emplace_back(shard_name(shard), BuildSafetensors(shards[shard]));
  if (options.shards > 1) {
    files.emplace_back("model.safetensors.index.json",
                       R"({"metadata":{"total_size":0},"weight_map":{)" + index + "}}");
  }
}

}  // namespace

uint16_t FloatToHalf(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t sign = (bits >> 16) & 0x8000u;
  const float magnitude = std::fabs(value);
  if (magnitude >= 65520.0f) return static_cast<uint16_t>(sign | 0x7c00u);
  if (magnitude < 0x1.0p-14f) {  // subnormal: a multiple of 2^-24
    return static_cast<uint16_t>(sign |
                                 static_cast<uint32_t>(std::nearbyint(magnitude * 0x1.0p24f)));
  }
  const uint32_t rest = std::bit_cast<uint32_t>(magnitude) - (112u << 23);
  return static_cast<uint16_t>(sign | ((rest + 0x0fffu + ((rest >> 13) & 1u)) >> 13));
}

std::string RandomTensor(TensorType type, int64_t weights, double deviation, uint64_t seed) {
  Random random(seed);
  const BlockShape& shape = ShapeOfBlock(type);
  const checkpoint::BlockLayout layout = checkpoint::LayoutOf(type);
  if (shape.scale_at < 0) {
    std::vector<float> values(static_cast<size_t>(weights));
    for (float& value : values)
      value = static_cast<float>((2 * random.Uniform() - 1) * std::sqrt(3.0) * deviation);
    return FloatsAs(type, values);
  }
  const size_t block_bytes = static_cast<size_t>(layout.bytes);
  std::string bytes(static_cast<size_t>(weights / layout.weights) * block_bytes, '\0');
  for (char& byte : bytes) byte = static_cast<char>(random.Next() >> 56);
  for (size_t at = 0; at < bytes.size(); at += block_bytes) {
    const float scale = static_cast<float>(deviation / shape.deviation * (0.5 + random.Uniform()));
    PutHalf(bytes, at + static_cast<size_t>(shape.scale_at), scale);
    if (shape.minimum_at >= 0) {
      PutHalf(bytes, at + static_cast<size_t>(shape.minimum_at),
              static_cast<float>(scale * shape.minimum_ratio));
    }
  }
  return bytes;
}

std::string TinyGguf(const TinyModelOptions& o) {
  GgufWriter writer;
  const std::string prefix = o.architecture + ".";
  const auto add = [&](const char* key, int value) {
    writer.AddUint32(prefix + key, static_cast<uint32_t>(value));
  };
  writer.AddString("general.architecture", o.architecture);
  writer.AddString("general.name", "tiny");
  add("block_count", o.layers);
  add("context_length", o.max_context);
  add("embedding_length", o.hidden);
  add("feed_forward_length", o.ffn);
  add("attention.head_count", o.heads);
  add("attention.head_count_kv", o.kv_heads);
  add("attention.key_length", o.head_dim);
  add("attention.value_length", o.head_dim);
  add("rope.dimension_count", o.head_dim);
  add("vocab_size", kTinyVocabulary);
  writer.AddFloat(prefix + "rope.freq_base", o.rope_base);
  writer.AddFloat(prefix + "attention.layer_norm_rms_epsilon", 1e-5f);
  AddTokenizer(writer);
  const bool permute = o.architecture == "llama";
  for (Tensor& tensor : Builder(o).Build()) {
    std::vector<uint64_t> dimensions = {static_cast<uint64_t>(tensor.columns)};
    if (tensor.rows > 0) dimensions.push_back(static_cast<uint64_t>(tensor.rows));
    std::string bytes =
        permute && tensor.permuted_heads > 0 ? PermuteRows(tensor) : std::move(tensor.bytes);
    writer.AddTensor(tensor.gguf_name, dimensions, ShapeOfBlock(tensor.type).ggml_type,
                     std::move(bytes));
  }
  if (!o.rope_divisors.empty()) {
    writer.AddTensor("rope_freqs.weight", {o.rope_divisors.size()}, 0,
                     FloatsAs(TensorType::kF32, o.rope_divisors));
  }
  return writer.Finish();
}

std::vector<std::pair<std::string, std::string>> TinyFolder(const TinyModelOptions& options) {
  std::vector<std::pair<std::string, std::string>> files;
  files.emplace_back("config.json", ConfigJson(options));
  files.emplace_back("tokenizer.json", TokenizerJson());
  files.emplace_back(
      "tokenizer_config.json",
      R"({"bos_token":"<|im_start|>","eos_token":"<|im_end|>","unk_token":"<|endoftext|>",)"
      R"("tokenizer_class":"GPT2Tokenizer","add_prefix_space":false,"chat_template":)" +
          Quoted(kChatTemplate) + "}");
  files.emplace_back("generation_config.json",
                     R"({"bos_token_id":1,"eos_token_id":2,"temperature":0.7,"top_p":0.9})");
  AddWeights(options, files);
  return files;
}

absl::Status WriteFile(const std::string& path, std::string_view bytes) {
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  file.close();
  return file ? absl::OkStatus() : absl::InternalError(absl::StrCat("cannot write ", path));
}

absl::Status WriteTinyGguf(const std::string& path, const TinyModelOptions& options) {
  return WriteFile(path, TinyGguf(options));
}

absl::Status WriteTinyFolder(const std::string& folder, const TinyModelOptions& options) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  for (const auto& [name, bytes] : TinyFolder(options))
    PAGODA_RETURN_IF_ERROR(WriteFile(folder + "/" + name, bytes));
  return absl::OkStatus();
}

}  // namespace pagoda::testing
