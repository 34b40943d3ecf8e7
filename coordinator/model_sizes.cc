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
  return sizes;
}

}  // namespace pagoda::coordinator
