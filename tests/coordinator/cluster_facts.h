// A small model and a deployment of it, for tests of the cluster state.
#pragma once

#include <memory>

#include "coordinator/cluster_state.h"

namespace pagoda::coordinator::testing {

inline ModelFacts SmallModel(int layers = 8) {
  auto sizes = std::make_shared<ModelSizes>();
  sizes->spec.layers = layers;
  sizes->spec.hidden = 64;
  sizes->spec.heads = 4;
  sizes->spec.kv_heads = 2;
  sizes->spec.head_dim = 16;
  sizes->spec.ffn = 128;
  sizes->spec.vocabulary = 100;
  sizes->spec.max_context = 256;
  sizes->layers.assign(static_cast<size_t>(layers), {.ffn = 1000});
  return {.digest = "digest", .sizes = sizes};
}

inline DeploymentSpec SmallDeployment(int stages, int ranks, int replicas) {
  DeploymentSpec spec;
  spec.name = "m";
  spec.model = "/m";
  spec.pipeline_parallel_size = stages;
  spec.tensor_parallel_size = {ranks};
  spec.replicas = replicas;
  return *Settle(spec);
}

}  // namespace pagoda::coordinator::testing
