#include "coordinator/store/encoding.h"

#include <nlohmann/json.hpp>

namespace pagoda::coordinator {
namespace {

using nlohmann::json;

json Encode(const Placement& placement) {
  json stages = json::array();
  for (const StagePlacement& stage : placement.stages) {
    stages.push_back({{"layer_begin", stage.layer_begin},
                      {"layer_end", stage.layer_end},
                      {"tensor_parallel", stage.tensor_parallel},
                      {"relative_time", stage.relative_time}});
  }
  json ranks = json::array();
  for (const RankPlacement& rank : placement.ranks) {
    ranks.push_back({{"stage", rank.stage},
                     {"rank", rank.rank},
                     {"worker", rank.worker},
                     {"weights_bytes", rank.weights_bytes},
                     {"kv_bytes_per_block", rank.kv_bytes_per_block},
                     {"kv_bytes", rank.kv_bytes},
                     {"workspace_bytes", rank.workspace_bytes},
                     {"memory_bytes", rank.memory_bytes}});
  }
  return {{"stages", stages},
          {"ranks", ranks},
          {"blocks", placement.blocks},
          {"block_tokens", placement.block_tokens},
          {"max_model_len", placement.max_model_len}};
}

Placement DecodePlacement(const json& value) {
  Placement placement;
  for (const json& entry : value.at("stages")) {
    placement.stages.push_back({.layer_begin = entry.at("layer_begin"),
                                .layer_end = entry.at("layer_end"),
                                .tensor_parallel = entry.at("tensor_parallel"),
                                .relative_time = entry.value("relative_time", 0.0)});
  }
  for (const json& entry : value.at("ranks")) {
    placement.ranks.push_back({.stage = entry.at("stage"),
                               .rank = entry.at("rank"),
                               .worker = entry.at("worker"),
                               .weights_bytes = entry.at("weights_bytes"),
                               .kv_bytes_per_block = entry.at("kv_bytes_per_block"),
                               .kv_bytes = entry.at("kv_bytes"),
                               .workspace_bytes = entry.at("workspace_bytes"),
                               .memory_bytes = entry.at("memory_bytes")});
  }
  placement.blocks = value.at("blocks");
  placement.block_tokens = value.at("block_tokens");
  placement.max_model_len = value.at("max_model_len");
  return placement;
}

json EncodeSpec(const DeploymentSpec& spec) {
  return json{{"name", spec.name},
              {"model", spec.model},
              {"pipeline_parallel_size", spec.pipeline_parallel_size},
              {"tensor_parallel_size", spec.tensor_parallel_size},
              {"replicas", spec.replicas},
              {"max_model_len", spec.max_model_len},
              {"kv_cache_type", spec.kv_cache_type},
              {"activation_bits", spec.activation_bits},
              {"max_num_batched_tokens", spec.max_num_batched_tokens},
              {"max_num_seqs", spec.max_num_seqs},
              {"disable_prefix_caching", spec.disable_prefix_caching},
              {"disable_chunked_prefill", spec.disable_chunked_prefill},
              {"layers_per_stage", spec.layers_per_stage},
              {"kv_cache_bytes", spec.kv_cache_bytes},
              {"block_size", spec.block_size},
              {"max_queued_requests", spec.max_queued_requests}};
}

DeploymentSpec DecodeSpec(const json& value) {
  DeploymentSpec spec;
  value.at("name").get_to(spec.name);
  value.at("model").get_to(spec.model);
  spec.pipeline_parallel_size = value.value("pipeline_parallel_size", spec.pipeline_parallel_size);
  spec.tensor_parallel_size = value.value("tensor_parallel_size", spec.tensor_parallel_size);
  spec.replicas = value.value("replicas", spec.replicas);
  spec.max_model_len = value.value("max_model_len", spec.max_model_len);
  spec.kv_cache_type = value.value("kv_cache_type", spec.kv_cache_type);
  spec.activation_bits = value.value("activation_bits", spec.activation_bits);
  spec.max_num_batched_tokens = value.value("max_num_batched_tokens", spec.max_num_batched_tokens);
  spec.max_num_seqs = value.value("max_num_seqs", spec.max_num_seqs);
  spec.disable_prefix_caching = value.value("disable_prefix_caching", spec.disable_prefix_caching);
  spec.disable_chunked_prefill = value.value("disable_chunked_prefill", spec.disable_chunked_prefill);
  spec.layers_per_stage = value.value("layers_per_stage", spec.layers_per_stage);
  spec.kv_cache_bytes = value.value("kv_cache_bytes", spec.kv_cache_bytes);
  spec.block_size = value.value("block_size", spec.block_size);
  spec.max_queued_requests = value.value("max_queued_requests", spec.max_queued_requests);
  return spec;
}

}  // namespace

std::string Encode(const DeploymentSpec& spec) { return EncodeSpec(spec).dump(); }

absl::StatusOr<DeploymentSpec> DecodeDeployment(const std::string& text) {
  try {
    return DecodeSpec(json::parse(text));
  } catch (const json::exception& error) {
    return absl::DataLossError(absl::StrCat("the store has a deployment that cannot be read: ", error.what()));
  }
}

std::string Encode(const RestoredPipeline& pipeline) {
  json value{{"id", pipeline.id.value()}, {"deployment", pipeline.deployment}, {"draining", pipeline.draining}};
  if (pipeline.spec) {
    value["spec"] = EncodeSpec(*pipeline.spec);
    value["model_digest"] = pipeline.model_digest;
  }
  if (!pipeline.placement.ranks.empty()) {
    value["placement"] = Encode(pipeline.placement);
    value["shard_digests"] = pipeline.shard_digests;
    value["numerics_profile"] = pipeline.numerics_profile;
  }
  return value.dump();
}

absl::StatusOr<RestoredPipeline> DecodePipeline(const std::string& text) {
  try {
    const json value = json::parse(text);
    RestoredPipeline pipeline;
    pipeline.id = PipelineId(value.at("id").get<uint64_t>());
    value.at("deployment").get_to(pipeline.deployment);
    if (value.contains("placement")) {
      pipeline.placement = DecodePlacement(value.at("placement"));
      value.at("shard_digests").get_to(pipeline.shard_digests);
      pipeline.numerics_profile = value.value("numerics_profile", "");
    }
    pipeline.draining = value.value("draining", false);
    if (value.contains("spec")) {
      pipeline.spec = DecodeSpec(value.at("spec"));
      pipeline.model_digest = value.value("model_digest", "");
    }
    return pipeline;
  } catch (const json::exception& error) {
    return absl::DataLossError(absl::StrCat("the store has a pipeline that cannot be read: ", error.what()));
  }
}

}  // namespace pagoda::coordinator
