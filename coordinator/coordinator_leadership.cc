// What changes when this coordinator begins to lead and when it stops. On the control thread.
#include "common/clock.h"
#include "common/log.h"
#include "coordinator/coordinator.h"

namespace pagoda::coordinator {
namespace {

constexpr int64_t kRestoreAgainNs = 5 * kNsPerSecond;
constexpr int64_t kProbeLeaderEveryNs = 240 * kNsPerMs;  // a little less than a tick

}  // namespace

absl::Status Coordinator::CheckLeads() const {
  if (leading_.load()) return absl::OkStatus();
  const std::string leader = leader_address();
  return absl::UnavailableError(leader.empty() ? "this coordinator does not lead, and no other one is known to"
                                               : absl::StrCat("this coordinator does not lead; ask ", leader));
}

void Coordinator::Lead(const Leader& leader) {
  LogInfo("leads", {{"term", leader.term}, {"address", leader.who.address}});
  {
    MutexLock lock(&snapshot_mutex_);
    leader_address_.clear();
  }
  (void)TakeUpStoredState();
}

// Nobody is welcomed before it is known what there is.
absl::Status Coordinator::TakeUpStoredState() {
  absl::StatusOr<StoredState> stored = store_->Load();
  stored_state_due_ = !stored.ok();
  if (!stored.ok()) {
    LogError("store_not_read", {{"error", AsStd(stored.status().message())}});
    return stored.status();
  }
  state_ = ClusterState(state_.limits());
  state_.SetOwnBlobAddress(own_blob_address_);
  unrestored_.clear();
  unwritten_.clear();
  former_not_found_.clear();
  restore_again_ns_ = write_again_ns_ = 0;
  for (const DeploymentSpec& spec : stored->deployments) {
    unrestored_[spec.name].spec = spec;
  }
  for (const RestoredPipeline& pipeline : stored->pipelines) {
    if (!unrestored_.contains(pipeline.deployment)) unwritten_[pipeline.id] = std::nullopt;  // of what was deleted: to be forgotten
  }
  state_.Restore(stored->last_epoch, stored->last_pipeline, std::move(stored->pipelines));
  RestoreTheRest(NowNs());
  leading_.store(true);
  CountWorkers();
  Act();
  for (const auto& router : routers_->All()) router->SendHello(true, "");
  snapshot_due_ = true;
  return absl::OkStatus();
}

// Pipelines made by specs of before: they serve, or finish their streams, as they began, as long as their models can still be had.
void Coordinator::FindFormerModels(int64_t now_ns) {
  const std::vector<RestoredPipeline> restored = state_.restored();
  for (const RestoredPipeline& pipeline : restored) {
    if (!state_.deployments().contains(pipeline.deployment)) continue;
    const auto model = catalog_->Open(pipeline.spec->model);
    const bool same = model.ok() && (*model)->digest() == pipeline.model_digest;
    if (!same && former_not_found_.insert(pipeline.id).second) {
      LogWarning("former_pipeline_not_restored",
                 {{"pipeline", pipeline.id.value()},
                  {"deployment", pipeline.deployment},
                  {"why", model.ok() ? "its model's file is another one by now" : AsStd(model.status().message())}});
    }
    if (model.ok()) state_.FoundFormerModel(pipeline.id, same ? (*model)->sizes() : nullptr, now_ns);
  }
}

void Coordinator::RestoreTheRest(int64_t now_ns) {
  if ((unrestored_.empty() && state_.restored().empty()) || now_ns < restore_again_ns_) return;
  restore_again_ns_ = now_ns + kRestoreAgainNs;
  for (auto entry = unrestored_.begin(); entry != unrestored_.end();) {
    const DeploymentSpec& spec = entry->second.spec;
    const auto model = catalog_->Open(spec.model);
    if (!model.ok()) {
      std::string why = absl::StrCat("its model cannot be opened by the coordinator, which tries again: ", model.status().message());
      if (why != entry->second.message) LogError("deployment_not_restored", {{"deployment", spec.name}, {"error", why}});
      entry->second.message = std::move(why);
      ++entry;
      continue;
    }
    state_.Apply(spec, {.digest = (*model)->digest(), .sizes = (*model)->sizes()}, now_ns);
    entry = unrestored_.erase(entry);
  }
  FindFormerModels(now_ns);
}

// As a standby: a leader that was killed is replaced before its lease is over.
void Coordinator::WatchLeader(int64_t now_ns) {
  if (leading_.load() || now_ns < probe_leader_at_ns_ || !store_->CanDepose()) return;
  const std::string leader = leader_address();
  if (leader.empty()) return;
  probe_leader_at_ns_ = now_ns + kProbeLeaderEveryNs;
  prober_.Probe(leader, [this, leader](ProbeResult result) {
    Post([this, leader, result] {
      if (leading_.load() || leader != leader_address() || !leader_watch_.Found(leader, result)) return;
      LogWarning("leader_gone", {{"leader", leader}, {"why", "its host refuses connections for it"}});
      const absl::Status deposed = store_->Depose(leader);
      if (!deposed.ok()) LogWarning("leader_not_deposed", {{"leader", leader}, {"error", AsStd(deposed.message())}});
    });
  });
}

// Another one leads. Workers keep weights and KV and go there; routers replay what ran here.
void Coordinator::StepDown(const std::string& why) {
  LogWarning("leads_no_more", {{"why", why}});
  leading_.store(false);
  stored_state_due_ = false;
  unrestored_.clear();
  unwritten_.clear();
  for (const auto& router : routers_->All()) router->Close("this coordinator does not lead any more");
  for (const auto& [id, link] : links_) {
    link->SetEngine(nullptr);
    link->SendNotLeader("");
  }
  links_.clear();
  worker_ids_.clear();
  const auto engines = Engines();
  {
    MutexLock lock(&engines_mutex_);
    engines_.clear();
  }
  for (const auto& engine : engines) engine->Stop("UNAVAILABLE: this coordinator does not lead any more");
  rates_.clear();
  created_unix_s_.clear();
  drain_deadlines_.clear();
  moves_.Clear();
  departing_.clear();
  moved_to_.clear();
  left_.clear();
  state_ = ClusterState(state_.limits());
  snapshot_due_ = true;
}

}  // namespace pagoda::coordinator
