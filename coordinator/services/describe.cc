#include "coordinator/services/describe.h"

#include "coordinator/services/convert.h"

namespace pagoda::coordinator {

namespace v1 = ::pagoda::v1;

void Describe(const DeploymentRecord& deployment, const ClusterView& view, v1::Deployment& out) {
  ToWire(deployment.spec, *out.mutable_spec());
  int ready = 0, loading = 0, draining = 0, makeshifts = 0, former = 0;
  int64_t former_max_model_len = 0;
  std::string message = deployment.message;
  for (const ClusterView::Pipeline& pipeline : view.pipelines) {
    if (pipeline.record.deployment != deployment.spec.name) continue;
    draining += pipeline.record.draining;
    if (pipeline.record.draining) continue;
    if (pipeline.record.made_by != nullptr) {
      const bool serves = pipeline.record.phase == PipelinePhase::kReady;
      if (serves) former_max_model_len = pipeline.record.placement.max_model_len;
      former += serves;
      continue;
    }
    ready += pipeline.record.phase == PipelinePhase::kReady;
    loading += pipeline.record.phase == PipelinePhase::kLoading || pipeline.record.phase == PipelinePhase::kLinking;
    if (message.empty()) message = Explain(pipeline.record, view.now_ns);
    const bool is_makeshift = pipeline.record.phase == PipelinePhase::kReady && !pipeline.record.makeshift.empty();
    makeshifts += is_makeshift;
    if (message.empty() && is_makeshift) message = absl::StrCat("pipeline ", pipeline.record.id.value(), " ", pipeline.record.makeshift);
    if (pipeline.record.phase == PipelinePhase::kReady) out.set_max_model_len(pipeline.record.placement.max_model_len);
  }
  if (message.empty() && out.max_model_len() > 0 && out.max_model_len() < deployment.spec.max_model_len) {
    message = absl::StrCat("max_model_len is ", out.max_model_len(), " and not ", deployment.spec.max_model_len,
                           ": the KV cache of its workers holds no more");
  }
  if (out.max_model_len() == 0) out.set_max_model_len(former_max_model_len);
  if (former > 0) {
    message = absl::StrCat("the spec applied before serves with ", former, former == 1 ? " pipeline" : " pipelines",
                           " until those of this one are ready", message.empty() ? "" : "; ", message);
  }
  out.set_replicas_ready(ready);
  out.set_message(message);
  if (deployment.spec.replicas == 0) {
    out.set_state(draining > 0 ? v1::DEPLOYMENT_STATE_DRAINING : v1::DEPLOYMENT_STATE_STOPPED);
  } else if (ready >= deployment.spec.replicas && makeshifts == 0) {
    out.set_state(v1::DEPLOYMENT_STATE_READY);
  } else if (former > 0) {
    out.set_state(v1::DEPLOYMENT_STATE_ROLLING);
  } else if (ready > 0) {
    out.set_state(v1::DEPLOYMENT_STATE_DEGRADED);
  } else {
    out.set_state(loading > 0 ? v1::DEPLOYMENT_STATE_LOADING : v1::DEPLOYMENT_STATE_PENDING);
  }
}

namespace {

void Describe(const ClusterView::Pipeline& pipeline, v1::PipelineState& out) {
  const PipelineRecord& record = pipeline.record;
  out.set_id(record.id.value());
  out.set_deployment(record.deployment);
  out.set_epoch(record.epoch.value());
  out.set_state(std::string(NameOf(record.phase)));
  for (const WorkerId worker : record.workers) out.add_workers(worker.value());
  out.set_running(pipeline.status.stats.running);
  out.set_waiting(pipeline.status.stats.waiting);
  out.set_blocks_total(pipeline.status.stats.blocks_total);
  out.set_blocks_used(pipeline.status.stats.blocks_used);
  out.set_prompt_tokens_per_s(pipeline.prompt_tokens_per_s);
  out.set_output_tokens_per_s(pipeline.output_tokens_per_s);
  out.set_max_model_len(record.placement.max_model_len);
  out.set_preemptions(pipeline.status.stats.preemptions);
  out.set_prefix_hit_tokens(pipeline.status.stats.prefix_hit_tokens);
  out.set_prefix_query_tokens(pipeline.status.stats.prefix_query_tokens);
}

void Describe(const WorkerRecord& worker, const ClusterView& view, v1::WorkerState& out) {
  out.set_id(worker.id.value());
  out.set_name(worker.info.name);
  out.set_host(worker.info.host);
  out.set_state(std::string(NameOf(worker.phase)));
  out.set_pipeline(worker.pipeline.value());
  out.set_stage(worker.stage);
  out.set_rank(worker.rank);
  out.set_cores(worker.info.threads);
  out.set_memory_bytes(worker.info.memory_bytes);
  out.set_load_progress(worker.load_progress);
  out.set_numerics_profile(worker.info.numerics_profile);
  out.set_implementation(worker.info.implementation);
  out.set_heartbeat_age_ms(static_cast<double>(view.now_ns - worker.heard_ns) / 1e6);
  out.set_weights_bytes(worker.weights_bytes);
  out.set_kv_bytes(worker.kv_bytes);
  out.set_step_ms(worker.step_ms);
  out.set_wait_ms(worker.wait_ms);
  out.set_sent_bytes_per_s(worker.sent_bytes_per_s);
  for (const ClusterView::Pipeline& pipeline : view.pipelines) {
    if (pipeline.record.id != worker.pipeline) continue;
    if (worker.stage >= static_cast<int>(pipeline.record.placement.stages.size())) continue;
    const StagePlacement& stage = pipeline.record.placement.stages[static_cast<size_t>(worker.stage)];
    out.set_layer_begin(stage.layer_begin);
    out.set_layer_end(stage.layer_end);
  }
}

}  // namespace

void Describe(const ClusterView& view, const CoordinatorOptions& options, v1::ClusterState& out) {
  out.set_coordinator(options.name);
  out.set_leader(view.leads);
  out.set_version(PAGODA_VERSION);
  for (const DeploymentRecord& deployment : view.deployments) Describe(deployment, view, *out.add_deployments());
  for (const ClusterView::Pipeline& pipeline : view.pipelines) Describe(pipeline, *out.add_pipelines());
  for (const WorkerRecord& worker : view.workers) Describe(worker, view, *out.add_workers());
  for (const ClusterEvent& event : view.events) {
    v1::ClusterEvent& shown = *out.add_events();
    shown.set_number(event.number);
    shown.set_unix_ms(event.unix_ms);
    shown.set_kind(event.kind);
    shown.set_text(event.text);
  }
}

}  // namespace pagoda::coordinator
