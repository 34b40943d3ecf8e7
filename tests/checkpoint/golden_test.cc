// Values against the programs that define them: transformers for rope, llama.cpp's gguf package for
// dequantisation. The reference files are made by scripts beside them in tests/golden.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>

#include "checkpoint/checkpoint.h"
#include "checkpoint/dequantize.h"
#include "checkpoint/hf_config.h"

namespace pagoda::checkpoint {
namespace {

nlohmann::json ReadGolden(const std::string& name) {
  std::ifstream file("tests/golden/" + name);
  EXPECT_TRUE(file.good()) << "run from the repository's root: tests/golden/" << name;
  return nlohmann::json::parse(file);
}

std::vector<std::byte> FromHex(const std::string& text) {
  std::vector<std::byte> bytes;
  for (size_t i = 0; i + 1 < text.size(); i += 2) {
    bytes.push_back(static_cast<std::byte>(std::stoi(text.substr(i, 2), nullptr, 16)));
  }
  return bytes;
}

TEST(RopeGoldenTest, FrequenciesAreThoseOfTransformers) {
  const nlohmann::json cases = ReadGolden("rope_reference.json");
  ASSERT_EQ(cases.size(), 18u);
  for (const nlohmann::json& reference : cases) {
    SCOPED_TRACE(reference["name"].get<std::string>());
    const auto spec = SpecFromConfigJson(reference["config"].dump());
    ASSERT_TRUE(spec.ok()) << spec.status();
    ASSERT_TRUE(Validate(*spec).ok()) << Validate(*spec);
    const std::vector<float> got = RopeFrequencies(spec->rope);
    const auto want = reference["frequencies"].get<std::vector<double>>();
    ASSERT_EQ(got.size(), want.size());
    // transformers computes in float32, we in float64 rounded once.
    for (size_t i = 0; i < want.size(); ++i)
      EXPECT_NEAR(got[i] / want[i], 1.0, 2e-6) << "pair " << i;
    EXPECT_NEAR(RopeAttentionFactor(spec->rope), reference["attention_factor"].get<double>(), 1e-6);
  }
}

TEST(RopeGoldenTest, DivisorsOfAGgufFileAreLlama3ScalingWrittenOut) {
  RopeSpec scaled;
  scaled.dimensions = 64;
  scaled.base = 500000.0f;
  scaled.scaling = RopeScalingKind::kLlama3;
  scaled.factor = 32.0f;
  scaled.original_context = 8192;
  RopeSpec plain = scaled;
  plain.scaling = RopeScalingKind::kNone;
  const std::vector<float> want = RopeFrequencies(scaled);
  const std::vector<float> unscaled = RopeFrequencies(plain);
  RopeSpec divided = plain;
  for (size_t i = 0; i < want.size(); ++i)
    divided.frequency_divisors.push_back(unscaled[i] / want[i]);
  const std::vector<float> got = RopeFrequencies(divided);
  EXPECT_FLOAT_EQ(divided.frequency_divisors.front(), 1.0f);
  EXPECT_FLOAT_EQ(divided.frequency_divisors.back(), 32.0f);
  for (size_t i = 0; i < want.size(); ++i) EXPECT_NEAR(got[i] / want[i], 1.0, 1e-6);
}

TEST(DequantizeGoldenTest, EveryTypeIsGgmlsToTheBit) {
  const nlohmann::json cases = ReadGolden("dequantize_reference.json");
  for (int index = 0; index <= static_cast<int>(TensorType::kQ6_K); ++index) {
    const TensorType type = static_cast<TensorType>(index);
    const std::string name(NameOf(type));
    SCOPED_TRACE(name);
    ASSERT_TRUE(cases.contains(name));
    const std::vector<std::byte> stored = FromHex(cases[name]["stored"].get<std::string>());
    const std::vector<std::byte> values = FromHex(cases[name]["values"].get<std::string>());
    std::vector<float> want(values.size() / sizeof(float));
    std::memcpy(want.data(), values.data(), values.size());
    ASSERT_EQ(*TensorBytes(type, 1, static_cast<int64_t>(want.size())), stored.size());
    std::vector<float> got(want.size());
    Dequantize(type, stored, got);
    for (size_t i = 0; i < want.size(); ++i) {
      uint32_t got_bits = 0;
      uint32_t want_bits = 0;
      std::memcpy(&got_bits, &got[i], sizeof(got_bits));
      std::memcpy(&want_bits, &want[i], sizeof(want_bits));
      EXPECT_EQ(got_bits, want_bits) << "weight " << i << ": " << got[i] << " is not " << want[i];
    }
  }
}

TEST(DequantizeGoldenTest, HalvesAtTheEdges) {
  EXPECT_EQ(HalfToFloat(0x0001), 0x1.0p-24f);
  EXPECT_EQ(HalfToFloat(0x7bff), 65504.0f);
  EXPECT_TRUE(std::isinf(HalfToFloat(0xfc00)) && HalfToFloat(0xfc00) < 0);
  EXPECT_TRUE(std::isnan(HalfToFloat(0x7e00)));
  EXPECT_TRUE(std::signbit(HalfToFloat(0x8000)));
}

TEST(GoldenFolderTest, OpensWhatTransformersSaved) {
  const auto llama = Checkpoint::Open("tests/golden/tiny_llama");
  ASSERT_TRUE(llama.ok()) << llama.status();
  EXPECT_EQ((*llama)->spec().architecture, "llama");
  EXPECT_EQ((*llama)->spec().rope.scaling, RopeScalingKind::kLlama3);
  EXPECT_EQ((*llama)->spec().rope.original_context, 64);
  EXPECT_FALSE((*llama)->spec().tied_embedding);
  EXPECT_EQ((*(*llama)->Find(TensorRole::kDown, 2))->columns, 224);

  const auto qwen = Checkpoint::Open("tests/golden/tiny_qwen2");
  ASSERT_TRUE(qwen.ok()) << qwen.status();
  EXPECT_TRUE((*qwen)->spec().tied_embedding);
  EXPECT_TRUE((*qwen)->spec().attention_bias);
  EXPECT_EQ((*qwen)->spec().sliding_window, 0);
  EXPECT_EQ((*(*qwen)->Find(TensorRole::kKeyBias, 1))->columns, 48);
  const auto bundle = (*qwen)->TextBundle();
  ASSERT_TRUE(bundle.ok());
  EXPECT_EQ(bundle->size(), 4u);  // config, tokenizer, tokenizer_config, generation_config
}

}  // namespace
}  // namespace pagoda::checkpoint
