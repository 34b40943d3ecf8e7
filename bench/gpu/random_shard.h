// A rank of a random-weight model, made on the spot in the backend's memory: for timing shapes without their files. One layer's
// random bytes serve all layers, each packed into memory of its own, so that a step reads as much as the real model's would.
#pragma once

#include <memory>

#include "worker/model/shard.h"

namespace pagoda::bench {

struct RandomModel {
  std::string name;
  int layers = 0;
  int hidden = 0;
  int heads = 0;
  int kv_heads = 0;
  int head_dim = 0;
  int ffn = 0;
  int vocabulary = 0;
  kernels::WeightFormat format = kernels::WeightFormat::kBF16;
};

absl::StatusOr<std::shared_ptr<const worker::Shard>> MakeRandomShard(const RandomModel& model, kernels::Backend& backend,
                                                                     int activation_bits);
// Bytes of weights that one token's step reads.
int64_t WeightBytes(const worker::Shard& shard);

// `rows` x `columns` of a format with finite scales.
std::vector<std::byte> RandomRows(kernels::WeightFormat format, int64_t rows, int64_t columns, uint64_t seed);

}  // namespace pagoda::bench
