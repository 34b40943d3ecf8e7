// One decoder for every architecture, driven by the model spec: runs the layers of one rank's shard over the rows of one step.
// A layer is seven operations of the backend (eleven when ranks share a shard) and two gathers; the sum that ends a layer is added by the norm that begins the
// next, so a boundary between layers costs one operation. Owns the KV cache and all workspace, sized once for `max_rows`.
// Owned by the engine's thread.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "kernels/backend.h"
#include "worker/model/group_exchange.h"
#include "worker/model/shard.h"

namespace pagoda::worker {

struct DecoderOptions {
  int max_rows = 256;      // of one step
  int max_head_rows = 32;  // rows that one call of Logits takes
  int kv_blocks = 0;
  int block_tokens = 16;
  kernels::KvType kv_type = kernels::KvType::kF16;
};

class Decoder {
 public:
  static absl::StatusOr<std::unique_ptr<Decoder>> Make(std::shared_ptr<const Shard> shard, kernels::Backend& backend,
                                                       const DecoderOptions& options);

  struct Input {
    kernels::StepRows step;
    std::span<const TokenId> tokens;  // [rows]; first stage
    const float* hidden = nullptr;    // [rows, hidden]; other stages
  };
  // Runs all layers. Every rank of the group calls it with the same step.
  absl::Status Run(const Input& input, GroupExchange& group);
  ~Decoder() { backend_.ForgetSteps(this); }

  // [rows, hidden] of the last Run, in host memory: what the next stage takes. Not on the last stage.
  const float* hidden() const { return hidden_host_; }

  // Last stage, after Run: final norm and head for these rows (at most max_head_rows). Rank 0 gets [rows, vocabulary], valid
  // until the next call; other ranks get an empty view.
  absl::StatusOr<kernels::F32View> Logits(std::span<const int> rows, GroupExchange& group);

  // As Logits, but the logits stay on the device: tokens[i] is chosen as choices[i] says (its `row` counts within `rows`), -1 where
  // that is left to the host. Only where samples_here().
  bool samples_here(const GroupExchange& group) const { return backend_.samples() && group.alone(); }
  absl::Status Sample(std::span<const int> rows, std::span<const kernels::Backend::SampleRow> choices, std::span<TokenId> tokens,
                      GroupExchange& group);
  // The token of the largest logit of each of these rows (at most max_head_rows), the lowest of equals: without writing the
  // logits. Of a pipeline's last stage that is one rank.
  absl::StatusOr<std::vector<TokenId>> LargestLogits(std::span<const int> rows);

  absl::Status CopyBlocks(std::span<const kernels::Backend::BlockCopy> copies);

  const Shard& shard() const { return *shard_; }
  kernels::Backend& backend() { return backend_; }
  kernels::KvCache& kv() { return *kv_; }
  int64_t kv_bytes() const { return static_cast<int64_t>(kv_->bytes()); }
  int64_t workspace_bytes() const { return workspace_bytes_; }

 private:
  Decoder(std::shared_ptr<const Shard> shard, kernels::Backend& backend, const DecoderOptions& options)
      : shard_(std::move(shard)), backend_(backend), options_(options) {}
  absl::Status Allocate();
  absl::StatusOr<float*> Floats(int64_t count);
  absl::StatusOr<float*> HostFloats(int64_t count);
  absl::StatusOr<float*> Keep(absl::StatusOr<std::unique_ptr<kernels::Buffer>> buffer);
  absl::StatusOr<std::unique_ptr<kernels::Activation>> NewActivation(int64_t rows, int64_t columns,
                                                                     kernels::ActivationForms forms);

  absl::Status NormHeadRows(std::span<const int> rows);
  // Final norm and head of these rows to `out`, in the backend's memory.
  absl::Status RunHead(std::span<const int> rows, float* out);
  absl::StatusOr<std::vector<TokenId>> LargestOnDevice(std::span<const int> rows);
  absl::Status RunLayers(int64_t rows, const kernels::StepRows& step, GroupExchange& group);
  // Ranks' parts lie one after another from `base` in the backend's memory, `floats` of each; all ranks (or `members`) give
  // theirs and have all afterwards. Goes through host memory where the transport cannot read the backend's.
  absl::Status GatherParts(float* base, std::span<const int64_t> floats, std::span<const int> members, GroupExchange& group);
  absl::Status AddPlanes(int64_t rows, bool planes, const float* norm, kernels::Activation* out);
  absl::Status Attention(const LayerWeights& weights, int layer, const kernels::StepRows& step, GroupExchange& group);
  absl::Status FeedForward(const LayerWeights& weights, int64_t rows, GroupExchange& group);
  // Multiplies by o or down and leaves all ranks' planes in planes_.
  absl::Status PartialSums(const kernels::PackedMatrix& matrix, const kernels::Activation& input, int64_t rows,
                           GroupExchange& group);
  // Several ranks share a shard: member m's [rows, columns[m]] in parts_ become [rows, sum of columns] in `out`; `halves` = 2
  // keeps first and second half of each row apart (gate, up).
  absl::Status JoinSubGroup(std::span<const int64_t> columns, int halves, int64_t rows, float* out,
                            GroupExchange& group);

  std::shared_ptr<const Shard> shard_;
  kernels::Backend& backend_;
  const DecoderOptions options_;
  std::vector<float> rope_frequencies_;
  kernels::RopeParams rope_;
  std::vector<int32_t> kv_head_of_;
  kernels::AttentionParams attention_;
  std::unique_ptr<kernels::KvCache> kv_;
  std::vector<int64_t> sub_attention_columns_;  // of each member of the sub-group
  std::vector<int64_t> sub_ffn_columns_;        // gate and up together

  std::vector<std::unique_ptr<kernels::Buffer>> buffers_;
  int64_t workspace_bytes_ = 0;
  float* residual_ = nullptr;       // [max_rows, hidden]
  float* planes_ = nullptr;         // [planes of the group, rows, hidden]
  float* parts_ = nullptr;          // scratch of gathers that need putting together; null when T <= V
  float* qkv_ = nullptr;            // [max_rows, (query + 2 kv heads) * head_dim]
  float* attended_ = nullptr;       // [max_rows, output query heads * head_dim]
  float* gate_up_ = nullptr;        // [max_rows, 2 * down_ffn]
  float* head_residual_ = nullptr;  // [max_head_rows, hidden]
  float* logits_ = nullptr;         // host: [max_head_rows, vocabulary] on rank 0, else this rank's rows of the vocabulary
  float* logit_parts_ = nullptr;    // host: rank 0 of a group: the ranks' parts before they are put together
  float* head_out_ = nullptr;       // this rank's part of the logits where the host cannot read the backend's memory
  float* hidden_host_ = nullptr;    // residual_, or its copy in host memory
  float* gather_host_ = nullptr;    // ranks' parts of a gather in host memory
  std::unique_ptr<kernels::Activation> attention_input_;
  std::unique_ptr<kernels::Activation> output_input_;
  std::unique_ptr<kernels::Activation> ffn_input_;
  std::unique_ptr<kernels::Activation> down_input_;
  std::unique_ptr<kernels::Activation> head_input_;
};

}  // namespace pagoda::worker
