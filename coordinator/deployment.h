// What an operator asks for (pagoda.v1.DeploymentSpec), as a plain value, with its checks.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/status.h"
#include "coordinator/placement.h"

namespace pagoda::coordinator {

struct DeploymentSpec {
  std::string name;
  std::string model;
  int pipeline_parallel_size = 1;
  std::vector<int> tensor_parallel_size;
  int replicas = 0;
  int64_t max_model_len = 0;
  std::string kv_cache_type = "f16";
  int activation_bits = 8;
  int max_num_batched_tokens = 256;
  int max_num_seqs = 128;
  bool disable_prefix_caching = false;
  bool disable_chunked_prefill = false;
  std::vector<int> layers_per_stage;
  int64_t kv_cache_bytes = 0;
  int block_size = 16;
  int max_queued_requests = 2048;
  bool operator==(const DeploymentSpec&) const = default;
};

// Zeros become defaults; then every field is in range or the error names it. What depends on the model is checked by
// PlaceModel.
absl::StatusOr<DeploymentSpec> Settle(DeploymentSpec spec);

// They differ in nothing that a pipeline is made by: in how many there are and how long their queues may be.
bool MakeTheSamePipelines(const DeploymentSpec& a, const DeploymentSpec& b);

PlacementRequest PlacementRequestOf(const DeploymentSpec& spec);

}  // namespace pagoda::coordinator
