// The same tiny model as GGUF and as a folder, in every type: both open, and give the same weights
// where they should.
#include <gtest/gtest.h>

#include <cstring>

#include "checkpoint/checkpoint.h"
#include "checkpoint/dequantize.h"
#include "checkpoint/gguf_metadata.h"
#include "checkpoint/hf_config.h"
#include "tests/checkpoint/memory_source.h"
#include "tests/fakes/gguf_writer.h"
#include "tests/fakes/model_writer.h"

namespace pagoda::checkpoint {
namespace {

using pagoda::testing::TinyFolder;
using pagoda::testing::TinyGguf;
using pagoda::testing::TinyModelOptions;

absl::StatusOr<std::unique_ptr<Checkpoint>> OpenGgufBytes(std::string bytes) {
  return Checkpoint::Open({{"model.gguf", std::make_shared<MemorySource>(std::move(bytes))}});
}

absl::StatusOr<std::unique_ptr<Checkpoint>> OpenFolderBytes(const TinyModelOptions& options) {
  std::vector<Checkpoint::RemoteFile> files;
  for (auto& [name, bytes] : TinyFolder(options))
    files.push_back({name, std::make_shared<MemorySource>(std::move(bytes))});
  return Checkpoint::Open(std::move(files));
}

std::vector<float> Values(const Checkpoint& model, TensorRole role, int layer) {
  const TensorInfo& tensor = **model.Find(role, layer);
  const auto bytes = model.ReadRows(tensor, 0, tensor.rows);
  EXPECT_TRUE(bytes.ok()) << bytes.status();
  std::vector<float> values(static_cast<size_t>(tensor.rows * tensor.columns));
  Dequantize(tensor.type, {bytes->data, bytes->size}, values);
  return values;
}

class EveryTypeTest : public ::testing::TestWithParam<TensorType> {};

TEST_P(EveryTypeTest, QuantisedAndDequantisedFilesHoldTheSameWeights) {
  TinyModelOptions options;
  options.type = GetParam();
  options.hidden = 256;
  options.ffn = 256;
  options.heads = 4;
  options.head_dim = 64;
  const auto stored = OpenGgufBytes(TinyGguf(options));
  ASSERT_TRUE(stored.ok()) << stored.status();
  options.dequantized = true;
  const auto plain = OpenGgufBytes(TinyGguf(options));
  ASSERT_TRUE(plain.ok()) << plain.status();
  EXPECT_EQ((*(*stored)->Find(TensorRole::kGate, 1))->type, GetParam());
  EXPECT_EQ((*(*plain)->Find(TensorRole::kGate, 1))->type, TensorType::kF32);
  double squares = 0;
  for (const TensorRole role : {TensorRole::kQuery, TensorRole::kDown}) {
    const std::vector<float> values = Values(**stored, role, 1);
    EXPECT_EQ(values, Values(**plain, role, 1));
    for (const float value : values) squares += value * value / static_cast<double>(values.size());
  }
  EXPECT_GT(squares, 1e-4);  // weights of a size that makes a model do something
  EXPECT_LT(squares, 1.0);
}

INSTANTIATE_TEST_SUITE_P(Types, EveryTypeTest,
                         ::testing::Values(TensorType::kF32, TensorType::kF16, TensorType::kBF16,
                                           TensorType::kQ4_0, TensorType::kQ4_1, TensorType::kQ5_0,
                                           TensorType::kQ5_1, TensorType::kQ8_0, TensorType::kQ2_K,
                                           TensorType::kQ3_K, TensorType::kQ4_K, TensorType::kQ5_K,
                                           TensorType::kQ6_K),
                         [](const auto& info) { return std::string(NameOf(info.param)); });

TEST(FormatsTest, FolderAndGgufDifferOnlyInTheOrderOfQueryAndKeyRows) {
  TinyModelOptions options;
  options.tied = false;
  options.shards = 3;
  const auto folder = OpenFolderBytes(options);
  ASSERT_TRUE(folder.ok()) << folder.status();
  const auto gguf = OpenGgufBytes(TinyGguf(options));
  ASSERT_TRUE(gguf.ok()) << gguf.status();
  EXPECT_EQ((*folder)->spec().rope.layout, RopeLayout::kHalves);
  EXPECT_EQ((*gguf)->spec().rope.layout, RopeLayout::kInterleaved);
  EXPECT_FALSE((*gguf)->spec().tied_embedding);
  EXPECT_EQ(Values(**folder, TensorRole::kOutputHead, -1),
            Values(**gguf, TensorRole::kOutputHead, -1));
  EXPECT_EQ(Values(**folder, TensorRole::kValue, 1), Values(**gguf, TensorRole::kValue, 1));
  const std::vector<float> halves = Values(**folder, TensorRole::kQuery, 0);
  const std::vector<float> pairs = Values(**gguf, TensorRole::kQuery, 0);
  const size_t columns = 64;
  for (size_t head = 0; head < 4; ++head) {
    for (size_t pair = 0; pair < 8; ++pair) {
      for (size_t half = 0; half < 2; ++half) {
        const float* a = &halves[(head * 16 + half * 8 + pair) * columns];
        const float* b = &pairs[(head * 16 + pair * 2 + half) * columns];
        EXPECT_EQ(std::memcmp(a, b, columns * sizeof(float)), 0)
            << head << " " << pair << " " << half;
      }
    }
  }
}

TEST(FormatsTest, Qwen2HasBiasesAndHalvesInBothFormats) {
  TinyModelOptions options;
  options.architecture = "qwen2";
  const auto gguf = OpenGgufBytes(TinyGguf(options));
  const auto folder = OpenFolderBytes(options);
  ASSERT_TRUE(gguf.ok()) << gguf.status();
  ASSERT_TRUE(folder.ok()) << folder.status();
  EXPECT_TRUE((*gguf)->spec().attention_bias);
  EXPECT_EQ((*gguf)->spec().rope.layout, RopeLayout::kHalves);
  for (const TensorRole role : {TensorRole::kQuery, TensorRole::kKeyBias, TensorRole::kQueryBias}) {
    EXPECT_EQ(Values(**gguf, role, 1), Values(**folder, role, 1));
  }
}

TEST(FormatsTest, SplitGgufIsOneModel) {
  pagoda::testing::TinyModelOptions options;
  const std::string whole = TinyGguf(options);
  const auto header = GgufHeader::Parse(std::as_bytes(std::span(whole)), whole.size());
  ASSERT_TRUE(header.ok());
  std::vector<Checkpoint::RemoteFile> files;
  for (int part = 0; part < 2; ++part) {
    pagoda::testing::GgufWriter writer;
    if (part == 0) {
      for (const char* key :
           {"block_count", "context_length", "embedding_length", "feed_forward_length",
            "attention.head_count", "attention.head_count_kv", "attention.key_length"}) {
        const std::string name = std::string("llama.") + key;
        writer.AddUint32(name, static_cast<uint32_t>(*header->FindUint(name)));
      }
      writer.AddString("general.architecture", "llama");
    }
    writer.AddUint32("split.no", static_cast<uint32_t>(part));
    writer.AddUint32("split.count", 2);
    for (size_t i = static_cast<size_t>(part); i < header->tensors.size(); i += 2) {
      const GgufTensorHeader& tensor = header->tensors[i];
      uint64_t bytes = 4;
      for (const uint64_t side : tensor.dimensions) bytes *= side;
      writer.AddTensor(tensor.name, tensor.dimensions, tensor.type,
                       whole.substr(header->data_begin + tensor.offset, bytes));
    }
    files.push_back({"m-0000" + std::to_string(part + 1) + "-of-00002.gguf",
                     std::make_shared<MemorySource>(writer.Finish())});
  }
  const auto first_only = Checkpoint::Open({files[0]});
  EXPECT_EQ(first_only.status().code(), absl::StatusCode::kInvalidArgument) << first_only.status();
  const auto split = Checkpoint::Open({files[1], files[0]});
  ASSERT_TRUE(split.ok()) << split.status();
  const auto one = OpenGgufBytes(whole);
  ASSERT_TRUE(one.ok());
  for (int layer = 0; layer < 2; ++layer) {
    EXPECT_EQ(Values(**split, TensorRole::kDown, layer), Values(**one, TensorRole::kDown, layer));
  }
}

TEST(FormatsTest, RopeDivisorsOfAGgufFileAreRead) {
  TinyModelOptions options;
  options.rope_divisors = {1, 1, 1.5f, 2, 4, 8, 8, 8};
  const auto model = OpenGgufBytes(TinyGguf(options));
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ((*model)->spec().rope.frequency_divisors, options.rope_divisors);
  options.rope_divisors.pop_back();
  EXPECT_FALSE(OpenGgufBytes(TinyGguf(options)).ok());
}

TEST(FormatsTest, DigestTellsModelsApart) {
  TinyModelOptions options;
  const auto one = OpenGgufBytes(TinyGguf(options));
  const auto same =
      Checkpoint::Open({{"other-name.gguf", std::make_shared<MemorySource>(TinyGguf(options))}});
  options.seed = 2;
  const auto other = OpenGgufBytes(TinyGguf(options));
  ASSERT_TRUE(one.ok() && same.ok() && other.ok());
  EXPECT_EQ((*one)->digest(), (*same)->digest());
  EXPECT_NE((*one)->digest(), (*other)->digest());
}

std::string Config(const std::string& members) {
  return R"({"vocab_size":256,"hidden_size":64,"intermediate_size":128,"num_hidden_layers":4,"num_attention_heads":4,)"
         R"("num_key_value_heads":2,)" +
         members + "}";
}

TEST(ConfigTest, SlidingWindows) {
  const auto window = [](const std::string& members) {
    return SpecFromConfigJson(Config(members));
  };
  EXPECT_EQ(window(R"("model_type":"mistral")")->sliding_window, 4096);
  EXPECT_EQ(window(R"("model_type":"mistral","sliding_window":null)")->sliding_window, 0);
  EXPECT_EQ(window(R"("model_type":"mistral","sliding_window":1024)")->sliding_window, 1024);
  EXPECT_EQ(window(R"("model_type":"qwen2","sliding_window":1024)")->sliding_window, 0);
  EXPECT_EQ(
      window(
          R"("model_type":"qwen2","use_sliding_window":true,"sliding_window":99,"max_window_layers":0)")
          ->sliding_window,
      99);
  EXPECT_EQ(
      window(
          R"("model_type":"qwen2","use_sliding_window":true,"sliding_window":99,"max_window_layers":4)")
          ->sliding_window,
      0);
  EXPECT_EQ(
      window(
          R"("model_type":"qwen2","use_sliding_window":true,"sliding_window":99,"max_window_layers":2)")
          .status()
          .code(),
      absl::StatusCode::kUnimplemented);
}

TEST(ConfigTest, RefusesWhatItWouldComputeWrongly) {
  for (const char* members :
       {R"("model_type":"gpt2")", R"("model_type":"llama","hidden_act":"gelu")",
        R"("model_type":"llama","mlp_bias":true)", R"("model_type":"llama","attention_bias":true)",
        R"("model_type":"llama","quantization_config":{})",
        R"("model_type":"llama","rope_scaling":{"type":"dynamic","factor":2.0})"}) {
    EXPECT_EQ(SpecFromConfigJson(Config(members)).status().code(), absl::StatusCode::kUnimplemented)
        << members;
  }
}

}  // namespace
}  // namespace pagoda::checkpoint
