// What a decoder-only transformer is made of, independent of the file it came from. The worker's one decoder is driven by
// this; a new architecture is a new set of values, and a small file that fills them in.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/ids.h"

namespace pagoda::checkpoint {

enum class NormKind : uint8_t { kRms, kLayer };
enum class ActivationKind : uint8_t { kSiluGated, kGeluGated, kGelu };
// Which dimensions of a head turn together: (0,1)(2,3).. or (0,d/2)(1,d/2+1)..
enum class RopeLayout : uint8_t { kInterleaved, kHalves };
enum class RopeScalingKind : uint8_t { kNone, kLinear, kLlama3, kYarn };

struct RopeSpec {
  RopeLayout layout = RopeLayout::kHalves;
  int dimensions = 0;  // of each head that turn; = head_dim unless partial
  float base = 10000.0f;
  RopeScalingKind scaling = RopeScalingKind::kNone;
  float factor = 1.0f;
  float low_frequency_factor = 1.0f;       // llama3
  float high_frequency_factor = 4.0f;      // llama3
  int64_t original_context = 0;            // llama3, yarn
  float yarn_beta_fast = 32.0f;
  float yarn_beta_slow = 1.0f;
  bool yarn_truncate = true;               // the two ends of the ramp are whole dimensions
  float yarn_attention_factor = 0.0f;      // 0: 0.1 ln(factor) + 1
  std::vector<float> frequency_divisors;   // [dimensions/2], GGUF rope_freqs.weight; empty: from the fields above
};

struct ModelSpec {
  std::string architecture;  // "llama", "qwen2", "mistral"
  int layers = 0;
  int hidden = 0;
  int heads = 0;
  int kv_heads = 0;
  int head_dim = 0;
  int ffn = 0;
  int vocabulary = 0;
  int64_t max_context = 0;
  NormKind norm = NormKind::kRms;
  float norm_epsilon = 1e-5f;
  ActivationKind activation = ActivationKind::kSiluGated;
  bool tied_embedding = false;
  bool attention_bias = false;  // on q, k, v
  int sliding_window = 0;       // 0: none
  RopeSpec rope;

  // The fixed number of partial sums that tensor parallelism may cut (design section 5).
  int virtual_shards() const { return kv_heads; }
};

// kInvalidArgument when a field is out of range or the fields contradict each other.
absl::Status Validate(const ModelSpec& spec);

// Turning angle per position of each of rope.dimensions/2 pairs, scaling applied, in float64 rounded once.
std::vector<float> RopeFrequencies(const RopeSpec& rope);
// Factor on cos and sin (1 unless yarn).
float RopeAttentionFactor(const RopeSpec& rope);

}  // namespace pagoda::checkpoint
