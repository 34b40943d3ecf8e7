#include "checkpoint/hf_config.h"

#include <cmath>

#include "checkpoint/architectures.h"
#include "checkpoint/strict_json.h"

namespace pagoda::checkpoint {
namespace {

constexpr int64_t kMost = int64_t{1} << 40;

absl::Status Unsupported(std::string_view what) {
  return absl::UnimplementedError(absl::StrCat("config.json: ", AsAbsl(what), " is not supported"));
}

float YarnAttentionFactor(JsonSettings& scaling, float factor) {
  if (scaling.Find("attention_factor") != nullptr)
    return static_cast<float>(scaling.Float("attention_factor", 1.0));
  const auto mscale_of = [factor](double mscale) {
    return factor <= 1 ? 1.0 : 0.1 * mscale * std::log(factor) + 1.0;
  };
  const double mscale = scaling.Float("mscale", 0);
  const double mscale_all = scaling.Float("mscale_all_dim", 0);
  if (mscale == 0 || mscale_all == 0) return 0.0f;  // the usual 0.1 ln(factor) + 1
  return static_cast<float>(mscale_of(mscale) / mscale_of(mscale_all));
}

absl::Status ReadScaling(JsonSettings& scaling, int64_t max_context, RopeSpec& rope) {
  const std::string kind = scaling.String("rope_type", scaling.String("type", "default"));
  if (kind == "default") return scaling.status();
  rope.factor = static_cast<float>(scaling.Float("factor", 0));
  rope.original_context = scaling.Int("original_max_position_embeddings", max_context, kMost);
  if (kind == "linear") {
    rope.scaling = RopeScalingKind::kLinear;
  } else if (kind == "llama3") {
    rope.scaling = RopeScalingKind::kLlama3;
    rope.low_frequency_factor = static_cast<float>(scaling.Float("low_freq_factor", 0));
    rope.high_frequency_factor = static_cast<float>(scaling.Float("high_freq_factor", 0));
  } else if (kind == "yarn") {
    rope.scaling = RopeScalingKind::kYarn;
    if (rope.factor == 0 && rope.original_context > 0) {
      rope.factor = static_cast<float>(static_cast<double>(max_context) /
                                       static_cast<double>(rope.original_context));
    }
    rope.yarn_beta_fast = static_cast<float>(scaling.Float("beta_fast", 32));
    rope.yarn_beta_slow = static_cast<float>(scaling.Float("beta_slow", 1));
    rope.yarn_truncate = scaling.Bool("truncate", true);
    rope.yarn_attention_factor = YarnAttentionFactor(scaling, rope.factor);
  } else {
    return Unsupported(absl::StrCat("rope scaling of type \"", kind,
                                    "\" (default, linear, llama3 and yarn are read)"));
  }
  return scaling.status();
}

// "rope_scaling" beside "rope_theta", or since transformers 5 "rope_parameters" with rope_theta
// inside.
absl::Status ReadRope(JsonSettings& config, ModelSpec& spec) {
  RopeSpec& rope = spec.rope;
  rope.layout = RopeLayout::kHalves;
  rope.base = static_cast<float>(config.Float("rope_theta", 10000.0));
  double partial = config.Float("partial_rotary_factor", 1.0);
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    const Json* object = config.Find(key);
    if (object == nullptr) continue;
    if (!object->is_object())
      return absl::InvalidArgumentError(
          absl::StrCat("config.json: \"", key, "\" is not an object"));
    JsonSettings scaling(*object, absl::StrCat("config.json, ", key));
    rope.base = static_cast<float>(scaling.Float("rope_theta", rope.base));
    partial = scaling.Float("partial_rotary_factor", partial);
    PAGODA_RETURN_IF_ERROR(ReadScaling(scaling, spec.max_context, rope));
  }
  if (!(partial > 0 && partial <= 1))
    return absl::InvalidArgumentError("config.json: partial_rotary_factor is not in (0, 1]");
  rope.dimensions = static_cast<int>(spec.head_dim * partial);
  return absl::OkStatus();
}

absl::Status ReadWindow(JsonSettings& config, const Architecture& architecture, ModelSpec& spec) {
  int64_t window = config.Has("sliding_window") ? config.Int("sliding_window", 0)
                                                : architecture.default_sliding_window;
  if (architecture.window_needs_switch && !config.Bool("use_sliding_window", false)) window = 0;
  int sliding = 0;
  int full = 0;
  if (const Json* types = config.Find("layer_types"); types != nullptr && types->is_array()) {
    for (const Json& type : *types) {
      if (type == "sliding_attention") {
        ++sliding;
      } else if (type == "full_attention") {
        ++full;
      } else {
        return Unsupported("a layer type other than full_attention and sliding_attention");
      }
    }
  } else if (architecture.window_needs_switch && window > 0) {
    full = static_cast<int>(std::min<int64_t>(config.Int("max_window_layers", 28), spec.layers));
    sliding = spec.layers - full;
  }
  if (window > 0 && sliding > 0 && full > 0)
    return Unsupported("a sliding window on some layers only");
  if (full > 0) window = 0;
  spec.sliding_window = static_cast<int>(window);
  return absl::OkStatus();
}

absl::Status RefuseUnsupported(JsonSettings& config, const Architecture& architecture) {
  const std::string activation = config.String("hidden_act", "silu");
  if (activation != "silu") return Unsupported(absl::StrCat("hidden_act \"", activation, "\""));
  if (config.Bool("mlp_bias", false)) return Unsupported("mlp_bias");
  if (config.Bool("attention_bias", false) && !architecture.attention_bias) {
    return Unsupported("attention_bias (it puts one on the attention's output too)");
  }
  if (config.Find("quantization_config") != nullptr) return Unsupported("quantization_config");
  if (config.Find("num_local_experts") != nullptr) return Unsupported("a mixture of experts");
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ModelSpec> SpecFromConfigJson(std::string_view text) {
  PAGODA_ASSIGN_OR_RETURN(const Json json, ParseJsonObject(text, "config.json"));
  JsonSettings config(json, "config.json");
  const std::string type = config.String("model_type", "");
  const Architecture* architecture = FindByModelType(type);
  if (architecture == nullptr) {
    return absl::UnimplementedError(
        absl::StrCat("config.json: the model_type \"", type, "\" is not supported; ",
                     KnownArchitectures(TensorNaming::kHuggingFace), " are"));
  }
  ModelSpec spec;
  spec.architecture = architecture->name;
  spec.layers = static_cast<int>(config.Int("num_hidden_layers"));
  spec.hidden = static_cast<int>(config.Int("hidden_size"));
  spec.heads = static_cast<int>(config.Int("num_attention_heads"));
  const int kv_heads = architecture->default_kv_heads;
  spec.kv_heads =
      static_cast<int>(config.Int("num_key_value_heads", kv_heads > 0 ? kv_heads : spec.heads));
  spec.head_dim =
      static_cast<int>(config.Int("head_dim", spec.heads > 0 ? spec.hidden / spec.heads : 0));
  spec.ffn = static_cast<int>(config.Int("intermediate_size"));
  spec.vocabulary = static_cast<int>(config.Int("vocab_size"));
  spec.max_context = config.Int("max_position_embeddings", architecture->default_context, kMost);
  spec.norm_epsilon =
      static_cast<float>(config.Float("rms_norm_eps", architecture->default_norm_epsilon));
  spec.tied_embedding = config.Bool("tie_word_embeddings", false);
  spec.attention_bias = architecture->attention_bias;
  PAGODA_RETURN_IF_ERROR(RefuseUnsupported(config, *architecture));
  PAGODA_RETURN_IF_ERROR(ReadWindow(config, *architecture, spec));
  PAGODA_RETURN_IF_ERROR(ReadRope(config, spec));
  PAGODA_RETURN_IF_ERROR(config.status());
  return spec;
}

}  // namespace pagoda::checkpoint
