// config.json of a Hugging Face folder to a ModelSpec. Internal to this folder.
// Source: transformers' configuration classes of llama, mistral, qwen2, and modeling_rope_utils.
#pragma once

#include <string_view>

#include "checkpoint/model_spec.h"
#include "common/status.h"

namespace pagoda::checkpoint {

absl::StatusOr<ModelSpec> SpecFromConfigJson(std::string_view text);

}  // namespace pagoda::checkpoint
