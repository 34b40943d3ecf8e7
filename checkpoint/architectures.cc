#include "checkpoint/architectures.h"

#include <array>

#include "common/status.h"

namespace pagoda::checkpoint {
namespace {

constexpr std::array<Architecture, 3> kArchitectures = {{
    {.name = "llama",
     .gguf_name = "llama",
     .gguf_rope = RopeLayout::kInterleaved,
     .attention_bias = false,
     .default_context = 2048,
     .default_kv_heads = 0,
     .default_norm_epsilon = 1e-6,
     .default_sliding_window = 0,
     .window_needs_switch = false},
    {.name = "mistral",
     .gguf_name = "",
     .gguf_rope = RopeLayout::kInterleaved,
     .attention_bias = false,
     .default_context = 131072,
     .default_kv_heads = 8,
     .default_norm_epsilon = 1e-6,
     .default_sliding_window = 4096,
     .window_needs_switch = false},
    {.name = "qwen2",
     .gguf_name = "qwen2",
     .gguf_rope = RopeLayout::kHalves,
     .attention_bias = true,
     .default_context = 32768,
     .default_kv_heads = 32,
     .default_norm_epsilon = 1e-6,
     .default_sliding_window = 4096,
     .window_needs_switch = true},
}};

struct RoleRow {
  std::string_view name;          // for messages
  std::string_view gguf;          // after "blk.N." where there is a layer
  std::string_view hugging_face;  // after "model.layers.N."
  bool has_layer;
};

// In the order of TensorRole.
constexpr std::array<RoleRow, kTensorRoles> kRoles = {{
    {"token embedding", "token_embd.weight", "model.embed_tokens.weight", false},
    {"output head", "output.weight", "lm_head.weight", false},
    {"final norm", "output_norm.weight", "model.norm.weight", false},
    {"attention norm", "attn_norm.weight", "input_layernorm.weight", true},
    {"query", "attn_q.weight", "self_attn.q_proj.weight", true},
    {"key", "attn_k.weight", "self_attn.k_proj.weight", true},
    {"value", "attn_v.weight", "self_attn.v_proj.weight", true},
    {"query bias", "attn_q.bias", "self_attn.q_proj.bias", true},
    {"key bias", "attn_k.bias", "self_attn.k_proj.bias", true},
    {"value bias", "attn_v.bias", "self_attn.v_proj.bias", true},
    {"attention output", "attn_output.weight", "self_attn.o_proj.weight", true},
    {"FFN norm", "ffn_norm.weight", "post_attention_layernorm.weight", true},
    {"FFN gate", "ffn_gate.weight", "mlp.gate_proj.weight", true},
    {"FFN up", "ffn_up.weight", "mlp.up_proj.weight", true},
    {"FFN down", "ffn_down.weight", "mlp.down_proj.weight", true},
}};

const RoleRow& RowOf(TensorRole role) { return kRoles[static_cast<size_t>(role)]; }

}  // namespace

std::string_view NameOf(TensorRole role) { return RowOf(role).name; }

const Architecture* FindByGgufName(std::string_view name) {
  for (const Architecture& architecture : kArchitectures) {
    if (!architecture.gguf_name.empty() && architecture.gguf_name == name) return &architecture;
  }
  return nullptr;
}

const Architecture* FindByModelType(std::string_view name) {
  for (const Architecture& architecture : kArchitectures) {
    if (architecture.name == name) return &architecture;
  }
  return nullptr;
}

std::string KnownArchitectures(TensorNaming naming) {
  std::string names;
  for (const Architecture& architecture : kArchitectures) {
    const std::string_view name =
        naming == TensorNaming::kGguf ? architecture.gguf_name : architecture.name;
    if (name.empty()) continue;
    absl::StrAppend(&names, names.empty() ? "" : ", ", AsAbsl(name));
  }
  return names;
}

std::string TensorNameOf(TensorNaming naming, TensorRole role, int layer) {
  const RoleRow& row = RowOf(role);
  const bool gguf = naming == TensorNaming::kGguf;
  const std::string_view name = gguf ? row.gguf : row.hugging_face;
  if (!row.has_layer) return std::string(name);
  return absl::StrCat(gguf ? "blk." : "model.layers.", layer, ".", AsAbsl(name));
}

bool HasLayer(TensorRole role) { return RowOf(role).has_layer; }

bool IsRequired(const ModelSpec& spec, TensorRole role) {
  switch (role) {
    case TensorRole::kOutputHead:
      return !spec.tied_embedding;
    case TensorRole::kQueryBias:
    case TensorRole::kKeyBias:
    case TensorRole::kValueBias:
      return spec.attention_bias;
    case TensorRole::kGate:
      return spec.activation != ActivationKind::kGelu;
    default:
      return true;
  }
}

Shape ShapeOf(const ModelSpec& spec, TensorRole role) {
  const int64_t queries = int64_t{spec.heads} * spec.head_dim;
  const int64_t keys = int64_t{spec.kv_heads} * spec.head_dim;
  switch (role) {
    case TensorRole::kTokenEmbedding:
    case TensorRole::kOutputHead:
      return {spec.vocabulary, spec.hidden};
    case TensorRole::kFinalNorm:
    case TensorRole::kAttentionNorm:
    case TensorRole::kFfnNorm:
      return {1, spec.hidden};
    case TensorRole::kQuery:
      return {queries, spec.hidden};
    case TensorRole::kKey:
    case TensorRole::kValue:
      return {keys, spec.hidden};
    case TensorRole::kQueryBias:
      return {1, queries};
    case TensorRole::kKeyBias:
    case TensorRole::kValueBias:
      return {1, keys};
    case TensorRole::kAttentionOutput:
      return {spec.hidden, queries};
    case TensorRole::kGate:
    case TensorRole::kUp:
      return {spec.ffn, spec.hidden};
    case TensorRole::kDown:
      return {spec.hidden, spec.ffn};
  }
  return {0, 0};
}

}  // namespace pagoda::checkpoint
