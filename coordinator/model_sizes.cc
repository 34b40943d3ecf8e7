#include "checkpoint/checkpoint.h"
#include "coordinator/placement.h"

namespace pagoda::coordinator {
namespace {

using checkpoint::TensorRole;

absl::StatusOr<int64_t> Bytes(const checkpoint::Checkpoint& model, TensorRole role, int layer) {
  if (!model.Has(role, layer)) return 0;
  PAGODA_ASSIGN_OR_RETURN(const checkpoint::TensorInfo* tensor, model.Find(role, layer));
  return static_cast<int64_t>(tensor->bytes);
}

absl::StatusOr<int64_t> Sum(const checkpoint::Checkpoint& model, std::initializer_list<TensorRole> roles, int layer) {
  int64_t total = 0;
  for (const TensorRole role : roles) {
    PAGODA_ASSIGN_OR_RETURN(const int64_t bytes, Bytes(model, role, layer));
    total += bytes;
  }
  return total;
}

// As the CPU backend computes at 8 activation bits: qkv and the head take 12 bits, for which a product needs 20 operations where
// 12 do otherwise; attention runs in f32, at a quarter of the rate, over a context of middling length; choosing a token looks at
// the whole vocabulary a few times.
constexpr double kTwelveBits = 20.0 / 12;
constexpr double kF32 = 4;
constexpr double kContext = 256;
constexpr double kSamplingPerLogit = 40;

void EstimateWork(ModelSizes& sizes) {
  const checkpoint::ModelSpec& spec = sizes.spec;
  const double hidden = spec.hidden;
  const double query = static_cast<double>(spec.heads) * spec.head_dim;
  const double kv = static_cast<double>(spec.kv_heads) * spec.head_dim;
  sizes.layer_work = {.attention_query = hidden * query * (kTwelveBits + 1) + 2 * query * kContext * kF32,
                      .attention_kv = 2 * hidden * kv * kTwelveBits,
                      .ffn = 3 * hidden * spec.ffn};
  sizes.head_work = spec.vocabulary * (hidden * kTwelveBits + kSamplingPerLogit);
}

}  // namespace

absl::StatusOr<ModelSizes> MeasureModel(const checkpoint::Checkpoint& model) {
  ModelSizes sizes;
  sizes.spec = model.spec();
  for (int layer = 0; layer < sizes.spec.layers; ++layer) {
    LayerBytes bytes;
    PAGODA_ASSIGN_OR_RETURN(bytes.attention_query,
                            Sum(model, {TensorRole::kQuery, TensorRole::kQueryBias, TensorRole::kAttentionOutput}, layer));
    PAGODA_ASSIGN_OR_RETURN(
        bytes.attention_kv,
        Sum(model, {TensorRole::kKey, TensorRole::kValue, TensorRole::kKeyBias, TensorRole::kValueBias}, layer));
    PAGODA_ASSIGN_OR_RETURN(bytes.ffn, Sum(model, {TensorRole::kGate, TensorRole::kUp, TensorRole::kDown}, layer));
    PAGODA_ASSIGN_OR_RETURN(bytes.whole, Sum(model, {TensorRole::kAttentionNorm, TensorRole::kFfnNorm}, layer));
    sizes.layers.push_back(bytes);
  }
  PAGODA_ASSIGN_OR_RETURN(sizes.embedding, Bytes(model, TensorRole::kTokenEmbedding, -1));
  PAGODA_ASSIGN_OR_RETURN(sizes.head, Bytes(model, TensorRole::kOutputHead, -1));
  if (sizes.head == 0) sizes.head = sizes.embedding;  // tied
  PAGODA_ASSIGN_OR_RETURN(sizes.final_norm, Bytes(model, TensorRole::kFinalNorm, -1));
  EstimateWork(sizes);
  return sizes;
}

}  // namespace pagoda::coordinator
