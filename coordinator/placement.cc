#include "coordinator/placement.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "absl/strings/str_format.h"
#include "common/limits.h"

namespace pagoda::coordinator {
namespace {

// KV room that is taken unasked, in tokens or in longest contexts, whichever is more: what a worker offers by default is
// not all meant for us. kv_cache_bytes asks for more (or less).
constexpr int64_t kDefaultKvTokens = int64_t{1} << 17;
constexpr int64_t kDefaultKvContexts = 2;
constexpr int64_t kMostKvBlocks = int64_t{1} << 24;
constexpr int64_t kFixedWorkspaceBytes = int64_t{16} << 20;

struct RankShare {
  double query = 1;       // of the query heads
  double kv = 1;          // of the KV heads; above 1/T when heads are replicated
  int64_t kv_heads = 1;
  double ffn = 1;
  double vocabulary = 1;
};

// As the worker cuts (worker/model/tensor_parallel.h): whole virtual shards while there are enough, else parts of one.
RankShare ShareOf(const checkpoint::ModelSpec& spec, int ranks, int rank) {
  const int shards = spec.virtual_shards();
  RankShare share;
  share.vocabulary = 1.0 / ranks;
  if (ranks <= shards) {
    const int owned = shards * (rank + 1) / ranks - shards * rank / ranks;
    share.query = share.kv = share.ffn = static_cast<double>(owned) / shards;
    share.kv_heads = owned;
    return share;
  }
  for (int s = 0; s < shards; ++s) {
    const int begin = ranks * s / shards;
    const int end = ranks * (s + 1) / shards;
    if (rank < begin || rank >= end) continue;
    // Output projections need all of the shard's columns; the rest is cut. The larger is counted.
    share.query = share.ffn = 1.0 / shards;
    share.kv = 1.0 / shards;
    share.kv_heads = 1;
  }
  return share;
}

std::vector<int> RanksPerStage(const PlacementRequest& request) {
  if (request.tensor_parallel.empty()) return std::vector<int>(static_cast<size_t>(request.stages), 1);
  if (request.tensor_parallel.size() == 1) {
    return std::vector<int>(static_cast<size_t>(request.stages), request.tensor_parallel[0]);
  }
  return request.tensor_parallel;
}

absl::Status CheckRequest(const ModelSizes& model, const PlacementRequest& request) {
  const int layers = static_cast<int>(model.layers.size());
  if (request.stages < 1 || request.stages > limits::kMaxStages) {
    return absl::InvalidArgumentError(
        absl::StrCat("pipeline_parallel_size is ", request.stages, "; 1 to ", limits::kMaxStages, " are allowed"));
  }
  if (request.stages > layers) {
    return absl::InvalidArgumentError(absl::StrCat("pipeline_parallel_size is ", request.stages, ", but the model has only ",
                                                   layers, " layers"));
  }
  const size_t given = request.tensor_parallel.size();
  if (given > 1 && given != static_cast<size_t>(request.stages)) {
    return absl::InvalidArgumentError(absl::StrCat("tensor_parallel_size has ", given, " values for ", request.stages,
                                                   " stages: give one, or one per stage"));
  }
  for (const int ranks : request.tensor_parallel) {
    if (ranks < 1 || ranks > limits::kMaxTensorParallel || ranks > model.spec.heads) {
      return absl::InvalidArgumentError(absl::StrCat("tensor_parallel_size is ", ranks, "; 1 to ",
                                                     std::min(limits::kMaxTensorParallel, model.spec.heads),
                                                     " are possible with the model's ", model.spec.heads, " query heads"));
    }
  }
  if (request.block_tokens < 1 || request.block_tokens > 256) {
    return absl::InvalidArgumentError(absl::StrCat("block_size is ", request.block_tokens, "; 1 to 256 are allowed"));
  }
  if (request.max_model_len < 0 || request.max_model_len > model.spec.max_context) {
    return absl::InvalidArgumentError(absl::StrCat("max_model_len is ", request.max_model_len, "; the model's own is ",
                                                   model.spec.max_context));
  }
  if (request.layers_per_stage.empty()) return absl::OkStatus();
  int sum = 0;
  for (const int count : request.layers_per_stage) {
    if (count < 1) return absl::InvalidArgumentError("layers_per_stage has a value below 1");
    sum += count;
  }
  if (request.layers_per_stage.size() != static_cast<size_t>(request.stages) || sum != layers) {
    return absl::InvalidArgumentError(absl::StrCat("layers_per_stage has ", request.layers_per_stage.size(), " values that sum to ",
                                                   sum, "; ", request.stages, " that sum to ", layers, " are needed"));
  }
  return absl::OkStatus();
}

// What decides where layers go, in units of its own: times that workers measured, else the work of the arithmetic, which is what
// micro-batches of some rows wait for, else bytes. A pipeline of one row at a time gains nothing by any cut.
struct StepCosts {
  double query = 0, kv = 0, ffn = 0, whole = 0;  // of a layer
  double head = 0;
};

StepCosts CostsOf(const ModelSizes& model, const MeasuredTimes& measured, int layer) {
  const LayerWork& work = model.layer_work;
  const double layer_work = work.attention_query + work.attention_kv + work.ffn;
  if (layer_work <= 0) {
    const LayerBytes& bytes = model.layers[static_cast<size_t>(layer)];
    return {.query = static_cast<double>(bytes.attention_query), .kv = static_cast<double>(bytes.attention_kv),
            .ffn = static_cast<double>(bytes.ffn), .whole = static_cast<double>(bytes.whole),
            .head = static_cast<double>(model.head)};
  }
  const bool known = measured.layer_ns > 0 && measured.head_ns > 0;
  const double scale = known ? measured.layer_ns / layer_work : 1;
  return {.query = work.attention_query * scale, .kv = work.attention_kv * scale, .ffn = work.ffn * scale, .whole = 0,
          .head = known ? measured.head_ns : model.head_work};
}

struct Group {
  std::vector<RankShare> shares;
  std::vector<WorkerResources> workers;
};

double LayersTime(const ModelSizes& model, const MeasuredTimes& measured, const Group& group, int begin, int end,
                  bool with_head) {
  double slowest = 0;
  for (size_t r = 0; r < group.shares.size(); ++r) {
    const RankShare& share = group.shares[r];
    double cost = with_head ? CostsOf(model, measured, 0).head * share.vocabulary : 0;
    for (int layer = begin; layer < end; ++layer) {
      const StepCosts costs = CostsOf(model, measured, layer);
      cost += costs.query * share.query + costs.kv * share.kv + costs.ffn * share.ffn + costs.whole;
    }
    const double rate = group.workers[r].memory_bandwidth;  // how workers compare; 0: alike
    slowest = std::max(slowest, rate > 0 ? cost / rate : cost);
  }
  return slowest;
}

// Cuts [0, layers) so that the slowest stage is as fast as can be: least[s][e] over the first s stages and e layers.
std::vector<int> BalancedCuts(const ModelSizes& model, const MeasuredTimes& measured, const std::vector<Group>& groups) {
  const int layers = static_cast<int>(model.layers.size());
  const int stages = static_cast<int>(groups.size());
  const double infinite = std::numeric_limits<double>::infinity();
  std::vector<std::vector<double>> least(static_cast<size_t>(stages) + 1,
                                         std::vector<double>(static_cast<size_t>(layers) + 1, infinite));
  std::vector<std::vector<int>> from(static_cast<size_t>(stages) + 1, std::vector<int>(static_cast<size_t>(layers) + 1, 0));
  least[0][0] = 0;
  for (int s = 1; s <= stages; ++s) {
    const bool last = s == stages;
    for (int end = s; end <= layers - (stages - s); ++end) {
      for (int begin = s - 1; begin < end; ++begin) {
        const double before = least[static_cast<size_t>(s - 1)][static_cast<size_t>(begin)];
        if (before == infinite) continue;
        const double time =
            std::max(before, LayersTime(model, measured, groups[static_cast<size_t>(s - 1)], begin, end, last));
        // On a tie the later cut: earlier stages are then not the smaller ones.
        if (time <= least[static_cast<size_t>(s)][static_cast<size_t>(end)]) {
          least[static_cast<size_t>(s)][static_cast<size_t>(end)] = time;
          from[static_cast<size_t>(s)][static_cast<size_t>(end)] = begin;
        }
      }
    }
  }
  std::vector<int> cuts(static_cast<size_t>(stages) + 1);
  cuts[static_cast<size_t>(stages)] = layers;
  for (int s = stages; s > 0; --s) {
    cuts[static_cast<size_t>(s - 1)] = from[static_cast<size_t>(s)][static_cast<size_t>(cuts[static_cast<size_t>(s)])];
  }
  return cuts;
}

int64_t WeightsOf(const ModelSizes& model, const RankShare& share, int begin, int end, bool first, bool last) {
  double bytes = 0;
  for (int layer = begin; layer < end; ++layer) {
    const LayerBytes& sizes = model.layers[static_cast<size_t>(layer)];
    bytes += static_cast<double>(sizes.attention_query) * share.query + static_cast<double>(sizes.attention_kv) * share.kv +
             static_cast<double>(sizes.ffn) * share.ffn + static_cast<double>(sizes.whole);
  }
  const double head = static_cast<double>(model.head) * share.vocabulary;
  const double embedding = static_cast<double>(model.embedding);
  if (first && last && model.spec.tied_embedding) {
    bytes += std::max(head, embedding);
  } else {
    if (first) bytes += embedding;
    if (last) bytes += head;
  }
  if (last) bytes += static_cast<double>(model.final_norm);
  return static_cast<int64_t>(bytes);
}

int64_t WorkspaceOf(const ModelSizes& model, const PlacementRequest& request, const RankShare& share, bool last) {
  const checkpoint::ModelSpec& spec = model.spec;
  const double per_row = 6.0 * spec.hidden + 3.0 * spec.ffn * share.ffn +
                         static_cast<double>(spec.head_dim) * (2.0 * spec.heads * share.query + 2.0 * static_cast<double>(share.kv_heads));
  double floats = per_row * request.max_step_rows;
  if (last) floats += static_cast<double>(spec.vocabulary) * request.max_sample_rows;
  return static_cast<int64_t>(floats * 4) + kFixedWorkspaceBytes;
}

int64_t KvBytesPerBlock(const ModelSizes& model, const PlacementRequest& request, const RankShare& share, int layers) {
  // As the worker lays a block out (kernels/cpu/buffers.cc): values are padded to 16 columns, each part to 64 bytes.
  const auto part = [](int64_t bytes) { return (bytes + 63) / 64 * 64; };
  const int64_t row = KvBytesPerElement(request.kv_type) * request.block_tokens;
  const int64_t padded_dim = (model.spec.head_dim + 15) / 16 * 16;
  int64_t head = part(row * model.spec.head_dim) + part(row * padded_dim);
  if (request.kv_type == KvType::kInt8) head += 2 * part(int64_t{request.block_tokens} * 4);  // scales
  return head * layers * share.kv_heads;
}

std::string MiB(int64_t bytes) { return absl::StrFormat("%.1f MiB", static_cast<double>(bytes) / (1 << 20)); }

struct Fit {
  Placement placement;
  bool fits = false;
  std::string numbers;
};

Fit TryPlace(const ModelSizes& model, const std::vector<WorkerResources>& workers, const PlacementRequest& request) {
  const std::vector<int> ranks_per_stage = RanksPerStage(request);
  std::vector<Group> groups;
  size_t next = 0;
  for (const int ranks : ranks_per_stage) {
    Group group;
    for (int r = 0; r < ranks; ++r) {
      group.shares.push_back(ShareOf(model.spec, ranks, r));
      group.workers.push_back(workers[next++ % workers.size()]);
    }
    groups.push_back(std::move(group));
  }
  std::vector<int> cuts = {0};
  if (request.layers_per_stage.empty()) {
    cuts = BalancedCuts(model, request.measured, groups);
  } else {
    for (const int count : request.layers_per_stage) cuts.push_back(cuts.back() + count);
  }

  Fit fit;
  Placement& placement = fit.placement;
  placement.block_tokens = request.block_tokens;
  const int64_t asked = request.max_model_len > 0 ? request.max_model_len : model.spec.max_context;
  const int64_t blocks_asked = (asked + request.block_tokens - 1) / request.block_tokens;
  int64_t blocks = request.kv_cache_bytes > 0
                       ? kMostKvBlocks
                       : std::max(blocks_asked * kDefaultKvContexts, kDefaultKvTokens / request.block_tokens);
  double slowest = 0;
  int worker = 0;
  bool more_than_any = request.kv_cache_bytes > 0;  // KV is asked for than any of the workers has memory
  for (size_t s = 0; s < groups.size(); ++s) {
    const bool first = s == 0;
    const bool last = s + 1 == groups.size();
    StagePlacement stage{.layer_begin = cuts[s], .layer_end = cuts[s + 1], .tensor_parallel = ranks_per_stage[s]};
    stage.relative_time = LayersTime(model, request.measured, groups[s], cuts[s], cuts[s + 1], last);
    slowest = std::max(slowest, stage.relative_time);
    placement.stages.push_back(stage);
    for (int r = 0; r < ranks_per_stage[s]; ++r, ++worker) {
      const RankShare& share = groups[s].shares[static_cast<size_t>(r)];
      RankPlacement rank{.stage = static_cast<int>(s), .rank = r, .worker = worker};
      rank.memory_bytes = groups[s].workers[static_cast<size_t>(r)].memory_bytes;
      rank.weights_bytes = WeightsOf(model, share, cuts[s], cuts[s + 1], first, last);
      rank.workspace_bytes = WorkspaceOf(model, request, share, last);
      rank.kv_bytes_per_block = KvBytesPerBlock(model, request, share, cuts[s + 1] - cuts[s]);
      const int64_t left = rank.memory_bytes - rank.weights_bytes - rank.workspace_bytes;
      more_than_any = more_than_any && request.kv_cache_bytes > rank.memory_bytes;
      const int64_t own_cap = groups[s].workers[static_cast<size_t>(r)].kv_cache_bytes;
      int64_t budget = request.kv_cache_bytes > 0 ? std::min(request.kv_cache_bytes, left) : left;
      if (own_cap > 0) budget = std::min(budget, own_cap);
      blocks = std::min(blocks, budget > 0 ? budget / rank.kv_bytes_per_block : 0);
      absl::StrAppend(&fit.numbers, fit.numbers.empty() ? "" : "; ", "stage ", s, " rank ", r, " (layers ", cuts[s], "-",
                      cuts[s + 1] - 1, "): weights ", MiB(rank.weights_bytes), " + workspace ", MiB(rank.workspace_bytes),
                      " + KV of one context ", MiB(rank.kv_bytes_per_block * blocks_asked), " of ",
                      MiB(rank.memory_bytes));
      if (request.kv_cache_bytes > 0) absl::StrAppend(&fit.numbers, " (kv_cache_bytes ", MiB(request.kv_cache_bytes), ")");
      if (own_cap > 0) absl::StrAppend(&fit.numbers, " (the worker's own --kv-cache-bytes ", MiB(own_cap), ")");
      placement.ranks.push_back(rank);
    }
  }
  for (StagePlacement& stage : placement.stages) stage.relative_time = slowest > 0 ? stage.relative_time / slowest : 1;
  placement.blocks = static_cast<int>(std::min<int64_t>(blocks, std::numeric_limits<int>::max()));
  for (RankPlacement& rank : placement.ranks) rank.kv_bytes = rank.kv_bytes_per_block * placement.blocks;
  placement.max_model_len = std::min(asked, placement.kv_tokens());
  fit.fits = !more_than_any && (placement.blocks >= blocks_asked || (request.allow_shorter_context && placement.blocks > 0 &&
                                                                     placement.max_model_len >= 2));
  return fit;
}

// How few stages more would do, if there were such workers.
std::string SmallestThatFits(const ModelSizes& model, const std::vector<WorkerResources>& workers,
                             const PlacementRequest& request) {
  const int most = std::min<int>(limits::kMaxStages, static_cast<int>(model.layers.size()));
  for (int stages = request.stages + 1; stages <= most; ++stages) {
    PlacementRequest larger = request;
    larger.stages = stages;
    larger.layers_per_stage.clear();
    if (larger.tensor_parallel.size() > 1) larger.tensor_parallel = {larger.tensor_parallel[0]};
    if (!TryPlace(model, workers, larger).fits) continue;
    const int ranks = larger.tensor_parallel.empty() ? 1 : larger.tensor_parallel[0];
    return absl::StrCat("; with workers like these pipeline_parallel_size ", stages, " (", stages * ranks,
                        " workers) would fit");
  }
  return "; no number of stages of such workers would fit: lower max_model_len, or give the workers more memory";
}

}  // namespace

bool WorthCuttingBy(const ModelSizes& model, const MeasuredTimes& measured, const MeasuredTimes& so_far) {
  constexpr double kMoreThanNoise = 0.2;
  if (measured.layer_ns <= 0 || measured.head_ns <= 0) return false;
  const LayerWork& work = model.layer_work;
  const double estimate = model.head_work / (work.attention_query + work.attention_kv + work.ffn);
  const double supposed = so_far.layer_ns > 0 ? so_far.head_ns / so_far.layer_ns : estimate;
  return std::abs(measured.head_ns / measured.layer_ns / supposed - 1) > kMoreThanNoise;
}

absl::StatusOr<KvType> ParseKvType(const std::string& text) {
  if (text.empty() || text == "f16") return KvType::kF16;
  if (text == "f32") return KvType::kF32;
  if (text == "bf16") return KvType::kBf16;
  if (text == "int8") return KvType::kInt8;
  return absl::InvalidArgumentError(absl::StrCat("kv_cache_type is '", text, "'; f16, f32, bf16 and int8 are known"));
}

int64_t KvBytesPerElement(KvType type) {
  switch (type) {
    case KvType::kF32:
      return 4;
    case KvType::kF16:
    case KvType::kBf16:
      return 2;
    case KvType::kInt8:
      return 1;
  }
  return 2;
}

absl::StatusOr<int> WorkersNeeded(const ModelSizes& model, const PlacementRequest& request) {
  PAGODA_RETURN_IF_ERROR(CheckRequest(model, request));
  int needed = 0;
  for (const int ranks : RanksPerStage(request)) needed += ranks;
  return needed;
}

absl::StatusOr<Placement> PlaceModel(const ModelSizes& model, const std::vector<WorkerResources>& workers,
                                     const PlacementRequest& request) {
  PAGODA_ASSIGN_OR_RETURN(const int needed, WorkersNeeded(model, request));
  if (static_cast<int>(workers.size()) < needed) {
    return absl::FailedPreconditionError(absl::StrCat("needs ", needed, " workers, ", workers.size(), " are there"));
  }
  Fit fit = TryPlace(model, workers, request);
  if (!fit.fits) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the model does not fit: ", fit.numbers, SmallestThatFits(model, workers, request)));
  }
  return std::move(fit.placement);
}

}  // namespace pagoda::coordinator
