// What the cluster state keeps (workers, pipelines, deployments) and what it asks of the control thread: plain values.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "common/ids.h"
#include "coordinator/deployment.h"
#include "coordinator/diagnosis.h"
#include "coordinator/held_blocks.h"
#include "coordinator/placement.h"

namespace pagoda::coordinator {

struct ModelFacts {
  std::string digest;
  std::shared_ptr<const ModelSizes> sizes;
};

struct WorkerInfo {
  std::string name;
  uint64_t incarnation = 0;
  std::string host;
  std::string version;
  std::string numerics_profile;
  std::string implementation;
  int threads = 1;
  int64_t memory_bytes = 0;
  double memory_bandwidth = 0;
  double compute_rate = 0;
  int64_t kv_cache_bytes = 0;  // the most KV that it takes; 0: no cap
  std::string data_address;
  std::string blob_address;
  uint32_t kv_moves = 0;   // it can fill KV blocks from a peer and serve its own; 0: it cannot
  std::string held_shard;  // digest of the shard that it has in memory from before; empty: none
};

// Ranks of one pipeline understand each other only in one build, and its arithmetic is one profile.
inline bool SameBuild(const WorkerInfo& a, const WorkerInfo& b) {
  return a.version == b.version && a.numerics_profile == b.numerics_profile;
}

struct WorkerProgress {  // of a heartbeat
  uint64_t epoch = 0;
  uint64_t last_step = 0;
  uint64_t current_step = 0;
  std::string waiting_for;
  int64_t waiting_us = 0;
  int64_t compute_us = 0;
  int64_t wait_in_us = 0;
  int64_t send_us = 0;
  int64_t steps = 0;
  int64_t bytes_sent = 0;
  // Of steps that decode several sequences and nothing else.
  int64_t layers_us = 0;
  int64_t head_us = 0;
  int64_t decode_rows = 0;
  std::string operation;
};

// What a worker says of its shard while it gets ready.
struct LoadDetails {
  double progress = 0;
  int64_t weights_bytes = 0;
  int64_t kv_bytes = 0;
  std::string shard_digest;
  std::shared_ptr<const HeldBlocks> held;  // its KV that is left of an earlier epoch; null: none
};

enum class LoadPhase : uint8_t { kLoading, kLoaded, kLinked };

enum class WorkerPhase : uint8_t { kIdle, kLoading, kLoaded, kReady, kReleasing, kLost };

struct WorkerRecord {
  WorkerId id;
  WorkerInfo info;
  WorkerPhase phase = WorkerPhase::kIdle;
  int64_t heard_ns = 0;
  int64_t releasing_since_ns = 0;
  uint64_t joined_order = 0;
  PipelineId pipeline;  // 0: none
  Epoch epoch;          // of its assignment
  int stage = 0;
  int rank = 0;
  double load_progress = 0;
  int64_t weights_bytes = 0;
  int64_t kv_bytes = 0;
  std::string shard_digest;                // of what it has, as it names it
  std::shared_ptr<const HeldBlocks> held;  // of its KV, when this epoch began
  int64_t probed_ns = 0;                   // its silence was looked into; 0: it is not silent
  int64_t forget_at_ns = 0;                // lost: until then it is shown as such
  int64_t blamed_until_ns = 0;             // a step stalled in it: another takes its place, where there is one
  std::string wedged;                      // what was found then, when it seems wedged; it has a moment left
  std::string shard;    // what it still has in memory: "digest stage rank layers"; empty: nothing
  WorkerProgress progress;
  double step_ms = 0;   // means over the last heartbeats
  double wait_ms = 0;
  double sent_bytes_per_s = 0;  // between the last two heartbeats
};

enum class PipelinePhase : uint8_t { kPending, kLoading, kLinking, kReady, kDraining };

struct DeploymentRecord;

struct PipelineRecord {
  PipelineId id;
  std::string deployment;
  PipelinePhase phase = PipelinePhase::kPending;
  bool draining = false;       // takes no new work, only streams that were accepted before; goes when empty
  Epoch epoch;
  Placement placement;
  std::vector<WorkerId> workers;  // by stage, then rank
  std::string message;            // why it is not ready
  std::string last_fault;         // why the last epoch or assembly ended; empty once ready
  int failures = 0;               // in a row
  int64_t not_before_ns = 0;      // the next try
  int64_t assembling_since_ns = 0;
  std::string numerics_profile;
  std::string kv_format;          // type and block size, of the last assembly
  std::vector<std::string> shard_digests;  // by place, of the last assembly: who still has one may take its place again
  int64_t wait_for_holders_until_ns = 0;   // after a change of coordinators: they come back within moments
  // Another spec was applied since: what it was made by, and is assembled again by, until one of the new spec takes its place and
  // all that runs here has finished (cluster_rollout.cc).
  std::shared_ptr<const DeploymentRecord> made_by;
  bool starved = false;                    // workers, or room in them, are missing
  bool room_was_made = false;              // others drain for it: their workers are its
  int64_t streams_return_until_ns = 0;     // routers may have streams of it that no coordinator knows: it is not drained before
  // Of a layout with fewer workers than the deployment asks for (cluster_makeshift.cc).
  bool served = false;             // it was ready once
  int64_t short_since_ns = 0;      // too few workers for the layout that is asked for; 0: enough
  int64_t enough_since_ns = 0;     // a makeshift could be left for the layout that is asked for; 0: it could not
  std::string makeshift;           // how it runs instead, for people; empty: as asked for
};

// What the store keeps of a pipeline beside its name, so that its workers find their places again.
struct RestoredPipeline {
  PipelineId id;
  std::string deployment;
  Placement placement;  // empty: it was never ready
  std::vector<std::string> shard_digests;
  std::string numerics_profile = {};
  bool draining = false;
  std::optional<DeploymentSpec> spec = {};  // what it is made by; nothing: its deployment's (of a store of version 1)
  std::string model_digest = {};
  std::shared_ptr<const ModelSizes> sizes = {};  // not stored: of that model, when it is another than its deployment's; null: nobody has it
};

struct DeploymentRecord {
  DeploymentSpec spec;
  ModelFacts model;
  bool draining = false;
  std::string message;  // an error that no retry helps
  MeasuredTimes measured = {};  // by its workers so far
  MeasuredTimes cut_by = {};    // those of `measured` that its layers are cut by: moved only by more than noise
};

struct PlacedStage {
  int layer_begin = 0;
  int layer_end = 0;
  int tensor_parallel = 1;
};

struct Assignment {
  PipelineId pipeline;
  Epoch epoch;
  std::string deployment;
  std::string model;
  std::string model_digest;
  int stage = 0;
  int rank = 0;
  std::vector<PlacedStage> stages;
  int64_t max_model_len = 0;
  int block_tokens = 16;
  int blocks = 0;
  std::string kv_cache_type;
  int activation_bits = 8;
  int max_step_rows = 0;
  int max_slots = 0;
  int max_sample_rows = 0;
  std::vector<std::string> model_peers;
};

struct LinkPeer {
  int stage = 0;
  int rank = 0;
  std::string data_address;
  std::string host;
};

// What the control thread has to do, in order.
struct SaveEpoch { Epoch epoch; };  // nothing below the next one is used again, whatever happens
struct SavePipeline { RestoredPipeline pipeline; };
struct ForgetPipeline { PipelineId pipeline; };
struct SendAssignment { WorkerId worker; Assignment assignment; };
struct SendLinkUp { WorkerId worker; Epoch epoch; std::vector<LinkPeer> peers; };
struct SendRelease { WorkerId worker; Epoch epoch; bool keep_weights = false; };
struct CloseWorker { WorkerId worker; std::string why; };
struct ProbeWorker { WorkerId worker; std::string address; };  // tell Probed what came of a connect
struct ReportFault { FaultKind kind; std::string worker; PipelineId pipeline; std::string text; };
struct CreatePipeline { PipelineId pipeline; std::string deployment; };
struct OpenEpoch { PipelineId pipeline; Epoch epoch; };               // ready: give it work
struct CloseEpoch { PipelineId pipeline; Epoch epoch; std::string why; bool planned = false; };  // planned: nobody failed
enum class StopHow : uint8_t { kDrain, kDrained, kDeleted };  // kDrain: finish what it has, then tell
struct StopPipeline { PipelineId pipeline; StopHow how; };
struct LimitQueue { PipelineId pipeline; int max_queued_requests = 0; };
using Action = std::variant<SaveEpoch, SavePipeline, ForgetPipeline, SendAssignment, SendLinkUp, SendRelease, CloseWorker,
                            ProbeWorker, ReportFault, CreatePipeline, OpenEpoch, CloseEpoch, StopPipeline, LimitQueue>;

std::string_view NameOf(WorkerPhase phase);
std::string_view NameOf(PipelinePhase phase);
// What tokens depend on beside the request and the model's weights: pipelines of one model that agree in it say the same. Empty: not
// known yet.
std::string NumericsOf(const PipelineRecord& pipeline, const DeploymentRecord& made_by);
RestoredPipeline Stored(const PipelineRecord& pipeline, const DeploymentRecord& made_by);
// Why the pipeline is not ready, for people; empty: it is, or it loads for the first time.
std::string Explain(const PipelineRecord& pipeline, int64_t now_ns);

}  // namespace pagoda::coordinator
