// What the cluster state asks for, done: store, worker links, engines.
#include "coordinator/coordinator.h"

#include <prometheus/counter.h>
#include <prometheus/registry.h>

#include <algorithm>
#include <chrono>

#include "common/clock.h"
#include "common/log.h"
#include "common/stream_errors.h"
#include "coordinator/pipeline_facts.h"

namespace pagoda::coordinator {
namespace {

constexpr int64_t kWriteAgainNs = 10 * kNsPerSecond;  // each try may wait for the store's timeout

int64_t UnixSeconds() {
  return std::chrono::duration_cast<std::chrono::seconds>(std::chrono::system_clock::now().time_since_epoch()).count();
}

}  // namespace

void Coordinator::Do(const SaveEpoch& action) {
  const absl::Status status = store_->AdvanceEpoch(action.epoch);
  if (status.ok()) {
    refused_epoch_ = Epoch();  // in a later reign the same number may be granted
    return;
  }
  // Without the store's word there is no such epoch: another coordinator may lead by now.
  LogError("epoch_not_stored", {{"epoch", action.epoch.value()}, {"error", AsStd(status.message())}});
  refused_epoch_ = action.epoch;
  for (const auto& [id, pipeline] : state_.pipelines()) {
    if (pipeline.epoch != action.epoch) continue;
    Post([this, id, epoch = action.epoch, why = absl::StrCat("the store did not take epoch ", action.epoch.value(), ": ",
                                                             status.message())] {
      state_.EpochFailed(id, epoch, why, NowNs());
    });
  }
}

void Coordinator::Do(const SavePipeline& action) {
  unwritten_[action.pipeline.id] = action.pipeline;
  WritePipelines(NowNs());
}

void Coordinator::Do(const ForgetPipeline& action) {
  unwritten_[action.pipeline] = std::nullopt;
  WritePipelines(NowNs());
}

// The newest of each pipeline. What the store does not take is tried again: a successor finds workers' places by it.
void Coordinator::WritePipelines(int64_t now_ns) {
  if (now_ns < write_again_ns_) return;
  for (auto entry = unwritten_.begin(); entry != unwritten_.end();) {
    const absl::Status status = entry->second ? store_->PutPipeline(*entry->second) : store_->DeletePipeline(entry->first);
    if (!status.ok()) {
      LogError(entry->second ? "pipeline_not_stored" : "pipeline_not_forgotten",
               {{"pipeline", entry->first.value()}, {"error", AsStd(status.message())}});
      write_again_ns_ = now_ns + kWriteAgainNs;
      return;
    }
    entry = unwritten_.erase(entry);
  }
}

void Coordinator::Do(const SendAssignment& action) {
  const Assignment& assignment = action.assignment;
  if (assignment.epoch == refused_epoch_) return;
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
  WorkerLink* link = LinkOf(action.worker);
  if (link == nullptr) return;
  link->Send(action, {.token = link_tokens_.TokenOf(action.epoch),
                      .key = options_.encrypt_data_plane ? link_tokens_.KeyOf(action.epoch) : ""});
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
  const WorkerRecord* worker = state_.FindWorker(action.worker);
  Tell("worker_lost", absl::StrCat(worker == nullptr ? absl::StrCat("worker ", action.worker.value()) : worker->info.name,
                                   " was let go: ", action.why));
  LogWarning("worker_closed", {{"worker", action.worker.value()}, {"why", action.why}});
  const std::shared_ptr<WorkerLink> held = links_.at(action.worker);
  worker_ids_.erase(link);
  links_.erase(action.worker);
  held->SetEngine(nullptr);
  held->Close(action.why);
}

// On a thread of its own: a connect may take its whole time.
void Coordinator::Do(const ProbeWorker& action) {
  prober_.Probe(action.address, [this, worker = action.worker](ProbeResult result) {
    Post([this, worker, result] { state_.Probed(worker, result, NowNs()); });
  });
}

void Coordinator::Do(const ReportFault& action) {
  Tell("worker_fault", absl::StrCat(action.worker, " (", AsAbsl(NameOf(action.kind)), "): ", action.text));
  LogWarning("fault_found", {{"kind", NameOf(action.kind)},
                             {"worker", action.worker},
                             {"pipeline", action.pipeline.value()},
                             {"what", action.text}});
  prometheus::BuildCounter()
      .Name("pagoda_coordinator_faults_total")
      .Help("Workers found dead, wedged, slow or cut off, by kind")
      .Register(*registry_)
      .Add({{"kind", std::string(NameOf(action.kind))}})
      .Increment();
}

void Coordinator::Do(const CreatePipeline& action) {
  const DeploymentRecord& deployment = state_.deployments().at(action.deployment);
  EngineOptions options{.pipeline = action.pipeline,
                        .deployment = action.deployment,
                        .max_queued_requests = deployment.spec.max_queued_requests,
                        .step_deadline_ns = options_.step_deadline_ms * kNsPerMs,
                        .tracer = options_.tracer,
                        .canary_every_ns = options_.canary_every_ms * kNsPerMs,
                        .resumable = resumable_,
                        .epoch_failed = {},
                        .drained = {}};
  const PipelineId id = action.pipeline;
  options.epoch_failed = [this, id](Epoch epoch, StepNumber stalled, const std::string& why) {
    Post([this, id, epoch, stalled, why] {
      if (stalled.value() == 0) return state_.EpochFailed(id, epoch, why, NowNs());
      state_.StepStalled(id, epoch, stalled, why, NowNs());
    });
  };
  options.drained = [this, id] {
    Post([this, id] {
      const int64_t now_ns = NowNs();
      if (!resumable_->HasLately(id, now_ns - state_.limits().streams_return_ns)) state_.Drained(id, now_ns);
    });
  };
  auto engine = std::make_shared<PipelineEngine>(std::move(options), routers_,
                                                 std::make_unique<EngineMetrics>(*registry_, action.deployment, id));
  created_unix_s_[id] = UnixSeconds();
  MutexLock lock(&engines_mutex_);
  engines_[id] = std::move(engine);
  snapshot_due_ = true;
}

void Coordinator::Do(const OpenEpoch& action) {
  const PipelineRecord& pipeline = state_.pipelines().at(action.pipeline);
  const std::shared_ptr<PipelineEngine> engine = FindEngine(action.pipeline);
  if (engine == nullptr) return;
  std::vector<std::shared_ptr<WorkerLink>> ranks;
  for (const WorkerId worker : pipeline.workers) {
    const auto link = links_.find(worker);
    if (link == links_.end()) return;  // it is on its way out, and the epoch with it
    link->second->SetEngine(engine);
    ranks.push_back(link->second);
  }
  ForgetMove(action.pipeline);
  EpochSettings settings = EpochSettingsOf(state_, action);
  const std::vector<RestoredBlock>& restored = settings.restored;
  const int64_t whole = std::count_if(restored.begin(), restored.end(), [](const RestoredBlock& b) { return b.whole(); });
  const int64_t partial = static_cast<int64_t>(restored.size()) - whole;
  engine->OpenEpoch(std::move(settings), MakePlanTransport(std::move(ranks)));
  Tell("pipeline_ready", absl::StrCat("pipeline ", action.pipeline.value(), " (", pipeline.deployment, ") is ready, epoch ",
                                      action.epoch.value(), pipeline.makeshift.empty() ? "" : "; it ", pipeline.makeshift));
  LogInfo("pipeline_ready", {{"pipeline", action.pipeline.value()},
                             {"deployment", pipeline.deployment},
                             {"epoch", action.epoch.value()},
                             {"workers", pipeline.workers.size()},
                             {"blocks", pipeline.placement.blocks},
                             {"blocks_kept", whole},
                             {"blocks_kept_by_some_stages", partial},
                             {"max_model_len", pipeline.placement.max_model_len}});
  snapshot_due_ = true;
}

void Coordinator::Do(const CloseEpoch& action) {
  EndMovesOf(action.pipeline, action.epoch);
  Tell("epoch_ended", absl::StrCat("pipeline ", action.pipeline.value(), ", epoch ", action.epoch.value(), " ended: ",
                                   action.why));
  LogWarning("epoch_ended", {{"pipeline", action.pipeline.value()},
                             {"epoch", action.epoch.value()},
                             {"planned", action.planned},
                             {"why", action.why}});
  if (const auto engine = FindEngine(action.pipeline)) engine->CloseEpoch(action.epoch, action.planned ? EpochEnd::kPlanned : EpochEnd::kLost);
  snapshot_due_ = true;
}

void Coordinator::Do(const LimitQueue& action) {
  if (const auto engine = FindEngine(action.pipeline)) engine->LimitQueue(action.max_queued_requests);
}

void Coordinator::Do(const StopPipeline& action) {
  const auto engine = FindEngine(action.pipeline);
  snapshot_due_ = true;
  if (engine == nullptr) return;
  if (action.how == StopHow::kDrain) {
    engine->Drain();
    MoveKv(action.pipeline);
    return;
  }
  ForgetMove(action.pipeline);
  // A stream that comes back to what is drained goes elsewhere, if there is somewhere.
  engine->Stop(action.how == StopHow::kDeleted ? std::string(kDeletedError) : "UNAVAILABLE: the pipeline is drained");
  retired_.push_back(engine);
  rates_.erase(action.pipeline);
  MutexLock lock(&engines_mutex_);
  engines_.erase(action.pipeline);
}

}  // namespace pagoda::coordinator
