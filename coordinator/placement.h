// Where the layers of a model go: a pure function of the model's exact sizes, the workers and what is asked for. Used by the
// coordinator when it assembles a pipeline and by `pagoda plan`. Thread-safe.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "checkpoint/model_spec.h"
#include "common/status.h"

namespace pagoda::checkpoint {
class Checkpoint;
}

namespace pagoda::coordinator {

// Bytes as stored in the file; a rank of a TP group holds its share of what is cut and all of what is not.
struct LayerBytes {
  int64_t attention_query = 0;   // q rows and o columns: cut by query heads
  int64_t attention_kv = 0;      // k and v rows: cut by KV heads
  int64_t ffn = 0;               // gate, up, down: cut by FFN columns
  int64_t whole = 0;             // norms, biases of o: on every rank
  int64_t total() const { return attention_query + attention_kv + ffn + whole; }
};

// What a decoding row costs, in 8-bit multiply-adds.
struct LayerWork {
  double attention_query = 0;
  double attention_kv = 0;
  double ffn = 0;
};

struct ModelSizes {
  checkpoint::ModelSpec spec;
  std::vector<LayerBytes> layers;
  int64_t embedding = 0;  // on every rank of stage 0
  int64_t head = 0;       // cut by vocabulary rows over the ranks of the last stage; the embedding's bytes when tied
  int64_t final_norm = 0;
  LayerWork layer_work;   // of one layer; 0: not known, the bytes are taken
  double head_work = 0;   // with choosing a token
};
// From the file's headers; nothing is estimated but the work.
absl::StatusOr<ModelSizes> MeasureModel(const checkpoint::Checkpoint& model);

// As workers measured it while they decoded: better than any estimate. 0: not measured.
struct MeasuredTimes {
  double layer_ns = 0;  // of a decoding row, one layer
  double head_ns = 0;   // with choosing tokens
};

// The head weighs against a layer so much otherwise than the cut so far supposes that layers should move. A little more or less
// is noise, and moving layers means loading weights.
bool WorthCuttingBy(const ModelSizes& model, const MeasuredTimes& measured, const MeasuredTimes& so_far);

struct WorkerResources {
  std::string name;
  int64_t memory_bytes = 0;     // for weights, KV and workspace
  int threads = 1;
  double memory_bandwidth = 0;  // bytes/s; 0: not measured, all are taken as equal
  double compute_rate = 0;      // multiply-adds/s of int8; 0: not measured
  int64_t kv_cache_bytes = 0;   // the most KV that it takes; 0: no cap of its own
};

enum class KvType : uint8_t { kF16, kF32, kBf16, kInt8 };
absl::StatusOr<KvType> ParseKvType(const std::string& text);  // "" is f16
int64_t KvBytesPerElement(KvType type);

struct PlacementRequest {
  int stages = 1;
  std::vector<int> tensor_parallel = {1};  // one for all stages, or one per stage
  std::vector<int> layers_per_stage;       // empty: balanced by estimated time
  int64_t max_model_len = 0;               // 0: the model's own
  KvType kv_type = KvType::kF16;
  int block_tokens = 16;
  int64_t kv_cache_bytes = 0;              // per worker; 0: what is left
  int max_step_rows = 256;
  int max_sample_rows = 128;
  MeasuredTimes measured;                  // of this model, on workers like these
  bool allow_shorter_context = false;      // cap max_model_len by the KV found instead of refusing
};

struct RankPlacement {
  int stage = 0;
  int rank = 0;
  int worker = 0;  // index into the workers given
  int64_t weights_bytes = 0;
  int64_t kv_bytes_per_block = 0;
  int64_t kv_bytes = 0;  // of `blocks`
  int64_t workspace_bytes = 0;
  int64_t memory_bytes = 0;
};

struct StagePlacement {
  int layer_begin = 0;
  int layer_end = 0;
  int tensor_parallel = 1;
  double relative_time = 0;  // estimated, of a decode step; the slowest stage is 1
};

struct Placement {
  std::vector<StagePlacement> stages;
  std::vector<RankPlacement> ranks;  // by stage, then rank
  int blocks = 0;                    // the least that any rank has room for
  int64_t max_model_len = 0;         // as it can be served
  int64_t kv_tokens() const { return int64_t{blocks} * block_tokens; }
  int block_tokens = 16;
};

// Workers are taken in the order given, by stage, then rank. kInvalidArgument: the request contradicts itself or the model;
// kFailedPrecondition: there are too few workers; kResourceExhausted: it does not fit, with each rank's numbers and the
// smallest number of stages that would.
absl::StatusOr<Placement> PlaceModel(const ModelSizes& model, const std::vector<WorkerResources>& workers,
                                     const PlacementRequest& request);

// Workers that the request needs; kInvalidArgument when its fields contradict each other or the model.
absl::StatusOr<int> WorkersNeeded(const ModelSizes& model, const PlacementRequest& request);

}  // namespace pagoda::coordinator
