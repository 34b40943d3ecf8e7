#include "coordinator/deployment.h"

#include <algorithm>

#include "common/limits.h"

namespace pagoda::coordinator {
namespace {

constexpr int kMaxReplicas = 1024;
constexpr int kDefaultSequences = 128;
// A slot may be on its way out while the next sequence is on its way in: twice as many slots as sequences.
constexpr int kMostSequences = limits::kMaxSlots / 2;

absl::Status CheckRange(const char* field, int64_t value, int64_t low, int64_t high) {
  if (value >= low && value <= high) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(field, " is ", value, "; ", low, " to ", high, " are allowed"));
}

bool NameIsAllowed(const std::string& name) {
  if (name.empty() || name.size() > 128) return false;
  return std::all_of(name.begin(), name.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' || c == '_' || c == '/' ||
           c == '-';
  });
}

}  // namespace

absl::StatusOr<DeploymentSpec> Settle(DeploymentSpec spec) {
  if (!NameIsAllowed(spec.name)) {
    return absl::InvalidArgumentError("name: 1 to 128 characters of A-Z a-z 0-9 . _ / - are allowed");
  }
  if (spec.model.empty() || spec.model.size() > 4096) return absl::InvalidArgumentError("model is empty or too long");
  if (spec.pipeline_parallel_size == 0) spec.pipeline_parallel_size = 1;
  if (spec.tensor_parallel_size.empty()) spec.tensor_parallel_size = {1};
  if (spec.kv_cache_type.empty()) spec.kv_cache_type = "f16";
  if (spec.activation_bits == 0) spec.activation_bits = 8;
  if (spec.max_num_batched_tokens == 0) spec.max_num_batched_tokens = limits::kDefaultStepRows;
  if (spec.max_num_seqs == 0) spec.max_num_seqs = std::min(kDefaultSequences, spec.max_num_batched_tokens);
  if (spec.block_size == 0) spec.block_size = limits::kBlockTokens;
  if (spec.max_queued_requests == 0) spec.max_queued_requests = limits::kMaxQueuedRequests;
  PAGODA_RETURN_IF_ERROR(CheckRange("pipeline_parallel_size", spec.pipeline_parallel_size, 1, limits::kMaxStages));
  for (const int ranks : spec.tensor_parallel_size) {
    PAGODA_RETURN_IF_ERROR(CheckRange("tensor_parallel_size", ranks, 1, limits::kMaxTensorParallel));
  }
  PAGODA_RETURN_IF_ERROR(CheckRange("replicas", spec.replicas, 0, kMaxReplicas));
  PAGODA_RETURN_IF_ERROR(CheckRange("max_model_len", spec.max_model_len, 0, limits::kMaxPromptTokens));
  PAGODA_RETURN_IF_ERROR(ParseKvType(spec.kv_cache_type).status());
  if (spec.activation_bits != 8 && spec.activation_bits != 12) {
    return absl::InvalidArgumentError(absl::StrCat("activation_bits is ", spec.activation_bits, "; 8 or 12 are allowed"));
  }
  PAGODA_RETURN_IF_ERROR(CheckRange("max_num_batched_tokens", spec.max_num_batched_tokens, 1, limits::kMaxStepRows));
  PAGODA_RETURN_IF_ERROR(CheckRange("max_num_seqs", spec.max_num_seqs, 1, kMostSequences));
  if (spec.max_num_seqs > spec.max_num_batched_tokens) {
    return absl::InvalidArgumentError(absl::StrCat("max_num_seqs (", spec.max_num_seqs,
                                                   ") is above max_num_batched_tokens (", spec.max_num_batched_tokens,
                                                   "): every running sequence needs a row in a step"));
  }
  PAGODA_RETURN_IF_ERROR(CheckRange("kv_cache_bytes", spec.kv_cache_bytes, 0, int64_t{1} << 50));
  PAGODA_RETURN_IF_ERROR(CheckRange("block_size", spec.block_size, 1, 256));
  if (spec.block_size % limits::kBlockTokens != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("block_size is ", spec.block_size, "; it must be a multiple of ", limits::kBlockTokens));
  }
  PAGODA_RETURN_IF_ERROR(CheckRange("max_queued_requests", spec.max_queued_requests, 1, 1 << 16));
  return spec;
}

bool MakeTheSamePipelines(const DeploymentSpec& a, const DeploymentSpec& b) {
  DeploymentSpec like_b = a;
  like_b.replicas = b.replicas;
  like_b.max_queued_requests = b.max_queued_requests;
  return like_b == b;
}

PlacementRequest PlacementRequestOf(const DeploymentSpec& spec) {
  PlacementRequest request;
  request.stages = spec.pipeline_parallel_size;
  request.tensor_parallel = spec.tensor_parallel_size;
  request.layers_per_stage = spec.layers_per_stage;
  request.max_model_len = spec.max_model_len;
  request.kv_type = ParseKvType(spec.kv_cache_type).value_or(KvType::kF16);
  request.block_tokens = spec.block_size;
  request.kv_cache_bytes = spec.kv_cache_bytes;
  request.max_step_rows = spec.max_num_batched_tokens;
  request.max_sample_rows = spec.max_num_seqs;
  request.allow_shorter_context = true;
  return request;
}

}  // namespace pagoda::coordinator
