// The weights of one rank of one stage, packed for the backend: reads just this rank's rows and columns through the checkpoint
// (from its own disk, or range by range from a peer) and nothing else. Owned by the engine's thread; immutable once loaded.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "kernels/backend.h"
#include "worker/model/tensor_parallel.h"

namespace pagoda::worker {

struct ShardRequest {
  std::shared_ptr<const checkpoint::Checkpoint> model;
  int layer_begin = 0;
  int layer_end = 0;  // exclusive
  int tensor_parallel = 1;
  int rank = 0;
  int activation_bits = 8;  // 8: 8 for o, gate, up, down and 12 for qkv and head; 12: 12 everywhere
};

// Called between tensors with the part done, 0..1. False stops the load (kCancelled).
using LoadProgress = std::function<bool(double)>;

struct LayerWeights {
  const float* attention_norm = nullptr;  // [hidden], in Shard::norms
  const float* ffn_norm = nullptr;        // [hidden]
  std::unique_ptr<kernels::PackedMatrix> qkv;      // [(query + 2 kv heads) * head_dim, hidden]
  std::unique_ptr<kernels::PackedMatrix> output;   // [output rows, owned attention columns]
  std::unique_ptr<kernels::PackedMatrix> gate_up;  // [2 * ffn of this rank, hidden]
  std::unique_ptr<kernels::PackedMatrix> down;     // [output rows, owned FFN columns]
};

struct Shard {
  ShardRequest request;
  GroupPartition partition;
  checkpoint::ModelSpec spec;

  std::vector<LayerWeights> layers;                // [layer_end - layer_begin]
  std::unique_ptr<kernels::Buffer> norms;
  const float* final_norm = nullptr;               // last stage
  std::unique_ptr<kernels::PackedMatrix> head;     // last stage; null when this rank has no vocabulary rows
  checkpoint::Checkpoint::Bytes embedding_bytes;   // first stage: the whole table as stored, unless the backend holds it
  std::unique_ptr<kernels::Buffer> embedding_held;
  kernels::MatrixRows embedding;

  int64_t bytes = 0;   // of everything above
  std::string digest;  // of what would be loaded: model, layers, rank of how many, activation bits, numerics profile

  bool first() const { return request.layer_begin == 0; }
  bool last() const { return request.layer_end == spec.layers; }
  const RankPartition& mine() const { return partition.ranks[static_cast<size_t>(request.rank)]; }
};

// What `digest` of the loaded shard will be.
std::string ShardDigest(const ShardRequest& request, std::string_view numerics_profile);

// 256 when any down matrix is stored in super-blocks, else 32 (see MakePartition).
int FfnUnit(const checkpoint::Checkpoint& model);

// kInvalidArgument: layers or rank outside the model. Errors of the source are passed on with the tensor's name.
absl::StatusOr<std::unique_ptr<Shard>> LoadShard(const ShardRequest& request, kernels::Backend& backend,
                                                 const LoadProgress& progress);

}  // namespace pagoda::worker
