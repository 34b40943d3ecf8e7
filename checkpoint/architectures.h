// What is particular to one architecture, as data: its names in both formats, its defaults, where
// its tensors' names differ. A new architecture is a new row of the table in architectures.cc (and,
// where its numbers need thought, a small file). Internal to this folder.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "checkpoint/checkpoint.h"
#include "checkpoint/model_spec.h"

namespace pagoda::checkpoint {

enum class TensorNaming : uint8_t { kGguf, kHuggingFace };

struct Architecture {
  std::string_view name;       // ModelSpec::architecture; config.json's model_type
  std::string_view gguf_name;  // general.architecture; empty: GGUF has none of its own
  RopeLayout gguf_rope;        // "llama" files have q and k rows permuted for kInterleaved
  bool attention_bias;         // always; config.json's attention_bias may add it
  // What config.json may leave out (transformers' configuration class).
  int64_t default_context;
  int default_kv_heads;  // 0: as many as heads
  double default_norm_epsilon;
  int default_sliding_window;  // when the key is absent; 0: none
  bool window_needs_switch;    // only with "use_sliding_window": true
};

// Null when unknown. KnownArchitectures is for the message.
const Architecture* FindByGgufName(std::string_view name);
const Architecture* FindByModelType(std::string_view name);
std::string KnownArchitectures(TensorNaming naming);

// The name of a role's tensor; `layer` is ignored by roles that have none.
std::string TensorNameOf(TensorNaming naming, TensorRole role, int layer);
bool HasLayer(TensorRole role);
// Whether every model of this spec must have it.
bool IsRequired(const ModelSpec& spec, TensorRole role);
struct Shape {
  int64_t rows;
  int64_t columns;
};
Shape ShapeOf(const ModelSpec& spec, TensorRole role);

}  // namespace pagoda::checkpoint
