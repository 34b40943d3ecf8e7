// What the cluster state asks for, done: store, worker links, engines.
#include "coordinator/coordinator.h"

#include <chrono>

#include "common/clock.h"
#include "common/log.h"

namespace pagoda::coordinator {
namespace {

int64_t UnixSeconds() {
  return std::chrono::duration_cast<std::chrono::seconds>(std::chrono::system_clock::now().time_since_epoch()).count();
}

}  // namespace

void Coordinator::Do(const SaveEpoch& action) {
  const absl::Status status = store_->AdvanceEpoch(action.epoch);
  if (!status.ok()) LogError("epoch_not_stored", {{"epoch", action.epoch.value()}, {"error", AsStd(status.message())}});
}

void Coordinator::Do(const SavePipeline& action) {
  const absl::Status status = store_->PutPipeline({action.pipeline, action.deployment});
  if (!status.ok()) LogError("pipeline_not_stored", {{"error", AsStd(status.message())}});
}

void Coordinator::Do(const ForgetPipeline& action) {
  const absl::Status status = store_->DeletePipeline(action.pipeline);
  if (!status.ok()) LogError("pipeline_not_forgotten", {{"error", AsStd(status.message())}});
}

void Coordinator::Do(const SendAssignment& action) {
  const Assignment& assignment = action.assignment;
  LogInfo("worker_assigned", {{"worker", action.worker.value()},
                     {"pipeline", assignment.pipeline.value()},
                     {"epoch", assignment.epoch.value()},
                     {"stage", assignment.stage},
                     {"rank", assignment.rank},
                     {"blocks", assignment.blocks},
                     {"max_model_len", assignment.max_model_len}});
  if (WorkerLink* link = LinkOf(action.worker)) link->Send(assignment, options_.step_deadline_ms);
}

void Coordinator::Do(const SendLinkUp& action) {
  if (WorkerLink* link = LinkOf(action.worker)) link->Send(action, link_tokens_.Of(action.epoch));
}

void Coordinator::Do(const SendRelease& action) {
  if (WorkerLink* link = LinkOf(action.worker)) {
    link->SetEngine(nullptr);
    link->Send(action);
  }
}

void Coordinator::Do(const CloseWorker& action) {
  WorkerLink* link = LinkOf(action.worker);
  if (link == nullptr) return;
  LogWarning("worker_closed", {{"worker", action.worker.value()}, {"why", action.why}});
  const std::shared_ptr<WorkerLink> held = links_.at(action.worker);
  worker_ids_.erase(link);
  links_.erase(action.worker);
  held->SetEngine(nullptr);
  held->Close(action.why);
}

void Coordinator::Do(const CreatePipeline& action) {
  const DeploymentRecord& deployment = state_.deployments().at(action.deployment);
  EngineOptions options{.pipeline = action.pipeline,
                        .deployment = action.deployment,
                        .max_queued_requests = deployment.spec.max_queued_requests,
                        .step_deadline_ns = options_.step_deadline_ms * kNsPerMs,
                        .epoch_failed = {},
                        .drained = {}};
  const PipelineId id = action.pipeline;
  options.epoch_failed = [this, id](Epoch epoch, const std::string& why) {
    Post([this, id, epoch, why] { state_.EpochFailed(id, epoch, why + NamesOfTheWaiting(id), NowNs()); });
  };
  options.drained = [this, id] { Post([this, id] { state_.Drained(id, NowNs()); }); };
  auto engine = std::make_shared<PipelineEngine>(std::move(options), routers_,
                                                 std::make_unique<EngineMetrics>(*registry_, action.deployment, id));
  created_unix_s_[id] = UnixSeconds();
  MutexLock lock(&engines_mutex_);
  engines_[id] = std::move(engine);
  snapshot_due_ = true;
}

void Coordinator::Do(const OpenEpoch& action) {
  const PipelineRecord& pipeline = state_.pipelines().at(action.pipeline);
  const DeploymentRecord& deployment = state_.deployments().at(pipeline.deployment);
  const std::shared_ptr<PipelineEngine> engine = FindEngine(action.pipeline);
  if (engine == nullptr) return;
  std::vector<std::shared_ptr<WorkerLink>> ranks;
  for (const WorkerId worker : pipeline.workers) {
    const auto link = links_.find(worker);
    if (link == links_.end()) return;  // it is on its way out, and the epoch with it
    link->second->SetEngine(engine);
    ranks.push_back(link->second);
  }
  const DeploymentSpec& spec = deployment.spec;
  engine->OpenEpoch(EpochSettings{.epoch = action.epoch,
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
                                  .max_queued_requests = spec.max_queued_requests},
                    MakePlanTransport(std::move(ranks)));
  LogInfo("pipeline_ready", {{"pipeline", action.pipeline.value()},
                             {"deployment", pipeline.deployment},
                             {"epoch", action.epoch.value()},
                             {"blocks", pipeline.placement.blocks},
                             {"max_model_len", pipeline.placement.max_model_len}});
  snapshot_due_ = true;
}

void Coordinator::Do(const CloseEpoch& action) {
  LogWarning("epoch_ended", {{"pipeline", action.pipeline.value()}, {"epoch", action.epoch.value()}, {"why", action.why}});
  if (const auto engine = FindEngine(action.pipeline)) engine->CloseEpoch(action.epoch);
  snapshot_due_ = true;
}

void Coordinator::Do(const StopPipeline& action) {
  const auto engine = FindEngine(action.pipeline);
  snapshot_due_ = true;
  if (engine == nullptr) return;
  if (action.draining) {
    engine->Drain();
    return;
  }
  engine->Stop("UNAVAILABLE: the deployment was deleted");
  retired_.push_back(engine);
  rates_.erase(action.pipeline);
  MutexLock lock(&engines_mutex_);
  engines_.erase(action.pipeline);
}

}  // namespace pagoda::coordinator
