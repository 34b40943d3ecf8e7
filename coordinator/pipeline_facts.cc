#include "coordinator/pipeline_facts.h"

#include <utility>

namespace pagoda::coordinator {
namespace {

std::vector<RestoredBlock> SurveyKv(const ClusterState& cluster, const PipelineRecord& pipeline) {
  std::vector<std::vector<const HeldBlocks*>> stages(pipeline.placement.stages.size());
  bool any = false;
  for (const WorkerId id : pipeline.workers) {
    const WorkerRecord* worker = cluster.FindWorker(id);
    if (worker == nullptr) return {};
    stages.at(static_cast<size_t>(worker->stage)).push_back(worker->held.get());
    any = any || worker->held != nullptr;
  }
  return any ? SurveyHeldBlocks(stages, pipeline.placement.blocks) : std::vector<RestoredBlock>();
}

}  // namespace

EpochSettings EpochSettingsOf(const ClusterState& cluster, const OpenEpoch& open) {
  const PipelineRecord& pipeline = cluster.pipelines().at(open.pipeline);
  const DeploymentRecord& deployment = cluster.DeploymentOf(pipeline);
  const DeploymentSpec& spec = deployment.spec;
  std::vector<int> layers;
  for (const StagePlacement& stage : pipeline.placement.stages) layers.push_back(stage.layer_end - stage.layer_begin);
  return {.epoch = open.epoch,
          .stages = static_cast<int>(pipeline.placement.stages.size()),
          .blocks = pipeline.placement.blocks,
          .block_tokens = spec.block_size,
          .max_model_len = pipeline.placement.max_model_len,
          .vocabulary = deployment.model.sizes->spec.vocabulary,
          .max_step_rows = spec.max_num_batched_tokens,
          .max_sequences = spec.max_num_seqs,
          .max_slots = 2 * spec.max_num_seqs,
          .max_sample_rows = spec.max_num_seqs,
          .prefix_caching = !spec.disable_prefix_caching,
          .chunked_prefill = !spec.disable_chunked_prefill,
          .max_queued_requests = spec.max_queued_requests,
          .stage_layers = std::move(layers),
          .restored = spec.disable_prefix_caching ? std::vector<RestoredBlock>() : SurveyKv(cluster, pipeline)};
}

PipelineSnapshot SnapshotOf(const PipelineRecord& pipeline, const DeploymentRecord& deployment, const PipelineCondition& condition) {
  const checkpoint::ModelSpec& spec = deployment.model.sizes->spec;
  const SchedulerStats& stats = condition.stats;
  // Not as the engine says: it hears of the end of an epoch after this snapshot, and the next one would come a second later.
  const bool has_epoch = pipeline.phase == PipelinePhase::kReady || pipeline.phase == PipelinePhase::kDraining;
  return {.pipeline = pipeline.id,
          .epoch = pipeline.epoch,
          .model = pipeline.deployment,
          .model_digest = deployment.model.digest,
          .architecture = spec.architecture,
          .ready = pipeline.phase == PipelinePhase::kReady && !condition.leaving && !condition.moving,
          .max_model_len = pipeline.placement.max_model_len,
          .block_tokens = deployment.spec.block_size,
          .blocks_total = pipeline.placement.blocks,
          .blocks_used = stats.blocks_used,
          .running = stats.running,
          .waiting = stats.waiting,
          .numerics_profile = pipeline.numerics_profile,
          .vocabulary = spec.vocabulary,
          .max_queued_requests = deployment.spec.max_queued_requests,
          .created_unix_s = condition.created_unix_s,
          .preemptions = stats.preemptions,
          .prefix_hit_tokens = stats.prefix_hit_tokens,
          .prefix_query_tokens = stats.prefix_query_tokens,
          // Routers take what runs there to another pipeline that is ready, or keep it until this one has a new epoch.
          .epoch_closed = !has_epoch || condition.leaving,
          .kv_moved_to = condition.kv_moved_to,
          .predicted_wait_ms = stats.predicted_wait_ns / 1'000'000,
          .numerics = NumericsOf(pipeline, deployment),
          .takes_replays = has_epoch && !condition.leaving && !condition.moving};
}

}  // namespace pagoda::coordinator
