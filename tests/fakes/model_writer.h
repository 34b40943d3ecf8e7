// Tiny random models of the shapes that real ones have, for tests: as one GGUF file or as a Hugging
// Face folder. The same options and seed always give the same weights, and both formats give the
// same function (GGUF's "llama" has q and k permuted, as llama.cpp's converter does). The tokenizer
// is byte-level: ids 0 to 2 are <|endoftext|>, <|im_start|>,
// <|im_end|> (also the end of an answer), id 3 + b is the byte b, and there are no merges.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "checkpoint/model_spec.h"
#include "checkpoint/tensor_type.h"
#include "common/status.h"

namespace pagoda::testing {

inline constexpr int kTinySpecialTokens = 3;
inline constexpr int kTinyVocabulary = kTinySpecialTokens + 256;

struct TinyModelOptions {
  std::string architecture = "llama";  // llama, mistral (folder only), qwen2 (with q, k, v biases)
  checkpoint::TensorType type = checkpoint::TensorType::kF32;            // of the layers' matrices
  checkpoint::TensorType embedding_type = checkpoint::TensorType::kF32;  // of embedding and head
  bool dequantized =
      false;  // the values of those types, written as F32: a reference for quantised runs
  int layers = 2;
  int hidden = 64;  // a multiple of the type's block (32, or 256 for Q2_K to Q6_K), as is ffn
  int heads = 4;
  int kv_heads = 2;
  int head_dim = 16;
  int ffn = 128;
  int max_context = 512;
  float rope_base = 10000.0f;
  std::vector<float> rope_divisors;  // GGUF: rope_freqs.weight
  bool tied = true;
  int shards = 1;            // folder: number of safetensors files
  std::string extra_config;  // folder: members for config.json, e.g. "\"rope_scaling\": {...},"
  uint64_t seed = 1;
};

// In memory.
std::string TinyGguf(const TinyModelOptions& options);
// name -> bytes of every file of the folder. Types: F32, F16, BF16 (or `dequantized`).
std::vector<std::pair<std::string, std::string>> TinyFolder(const TinyModelOptions& options);

// On disk. The folder is made when it is not there.
absl::Status WriteTinyGguf(const std::string& path, const TinyModelOptions& options);
absl::Status WriteTinyFolder(const std::string& folder, const TinyModelOptions& options);
absl::Status WriteFile(const std::string& path, std::string_view bytes);

// `weights` random weights stored as `type`, of spread about `deviation`.
std::string RandomTensor(checkpoint::TensorType type, int64_t weights, double deviation,
                         uint64_t seed);
uint16_t FloatToHalf(float value);  // round to nearest even; finite values

}  // namespace pagoda::testing
