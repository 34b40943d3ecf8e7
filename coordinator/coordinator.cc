#include "coordinator/coordinator.h"

#include <algorithm>

#include "common/clock.h"
#include "common/limits.h"
#include "common/log.h"
#include "common/pulse.h"

namespace pagoda::coordinator {
namespace {

constexpr size_t kInboxCapacity = 1 << 16;
constexpr int64_t kSnapshotEveryNs = kNsPerSecond;
constexpr int64_t kTickEveryMs = 250;
// An engine's loop comes round each second even when there is nothing to do. What takes longer hangs.
constexpr int64_t kLongestTurnNs = 20 * kNsPerSecond;

ClusterLimits LimitsOf(const CoordinatorOptions& options) {
  ClusterLimits limits{.lease_ns = options.lease_ms * kNsPerMs, .own_blob_addresses = {}};
  const int64_t several_heartbeats_ns = std::max(kNsPerSecond, options.heartbeat_ms * kNsPerMs * 14 / 5);
  limits.makeshift_after_ns = options.makeshift_after_ms * kNsPerMs;
  limits.suspect_after_ns = std::min(limits.lease_ns, several_heartbeats_ns);
  return limits;
}

}  // namespace

Coordinator::Coordinator(CoordinatorOptions options, std::unique_ptr<Store> store, std::shared_ptr<ModelCatalog> catalog,
                         std::shared_ptr<prometheus::Registry> registry)
    : options_(std::move(options)),
      catalog_(std::move(catalog)),
      registry_(std::move(registry)),
      inbox_(kInboxCapacity),
      store_(std::move(store)),
      state_(LimitsOf(options_)) {}

Coordinator::~Coordinator() { Stop(); }

absl::Status Coordinator::Start(const std::string& address) {
  {
    MutexLock lock(&snapshot_mutex_);
    address_ = address;
  }
  thread_ = std::thread([this] { Run(); });
  leadership_ = std::make_unique<Leadership>(
      *store_, Candidate{.name = options_.name, .address = address},
      Leadership::Events{.lead = [this](const Leader& leader) { Post([this, leader] { Lead(leader); }); },
                         .lost = [this](const std::string& why) { Post([this, why] { StepDown(why); }); },
                         .follow =
                             [this](const std::string& leader) {
                               LogInfo("follows", {{"leader", leader}});
                               {
                                 MutexLock lock(&snapshot_mutex_);
                                 leader_address_ = leader;
                               }
                               for (const auto& router : routers_->All()) router->SendHello(false, leader);
                             }});
  leadership_->Begin();
  return absl::OkStatus();
}

void Coordinator::SetBlobAddress(const std::string& address) {
  Post([this, address] {
    own_blob_address_ = address;
    state_.SetOwnBlobAddress(address);
  });
}

bool Coordinator::Post(std::function<void()> task) {
  if (inbox_.TryPush(std::move(task))) return true;
  if (!inbox_.closed()) LogError("control_inbox_full");
  return false;
}

void Coordinator::Run() {
  Pulse pulse(options_.pulse_file);
  while (!stopping_.load()) {
    const std::vector<std::shared_ptr<PipelineEngine>> engines = Engines();
    const MonotonicNs now = NowNs();
    if (std::all_of(engines.begin(), engines.end(), [&](const auto& engine) { return engine->TurnedSince(now - kLongestTurnNs); })) {
      pulse.Beat();
    }
    const std::vector<std::function<void()>> tasks = inbox_.PopAll(absl::Milliseconds(kTickEveryMs));
    for (const auto& task : tasks) {
      task();
      Act();
    }
    TickNow();
  }
  // Whoever waits for an answer gets one.
  for (const auto& task : inbox_.PopAll(absl::ZeroDuration())) task();
}

void Coordinator::TickNow() {
  const int64_t now_ns = NowNs();
  last_tick_ns_.store(now_ns);
  if (stored_state_due_) (void)TakeUpStoredState();
  RestoreTheRest(now_ns);
  WritePipelines(now_ns);
  WatchLeader(now_ns);
  state_.Tick(now_ns);
  EndLateMoves(now_ns);
  EndDrainsThatTookTooLong(now_ns);
  Act();
  if (!snapshot_due_ && now_ns - snapshot_at_ns_ < kSnapshotEveryNs) return;
  snapshot_due_ = false;
  snapshot_at_ns_ = now_ns;
  MeasureRates(now_ns);
  CountWorkers();
  CountResumable(now_ns);
  PublishSnapshot();
}

void Coordinator::Act() {
  for (std::vector<Action> actions = state_.TakeActions(); !actions.empty(); actions = state_.TakeActions()) {
    for (const Action& action : actions) std::visit([this](const auto& which) { Do(which); }, action);
  }
}

void Coordinator::EndDrainsThatTookTooLong(int64_t now_ns) {
  for (auto entry = drain_deadlines_.begin(); entry != drain_deadlines_.end();) {
    if (now_ns < entry->second) {
      ++entry;
      continue;
    }
    std::vector<PipelineId> late;
    for (const auto& [id, pipeline] : state_.pipelines()) {
      if (pipeline.deployment == entry->first && pipeline.draining) late.push_back(id);
    }
    for (const PipelineId id : late) state_.EndDrain(id, StopHow::kDeleted, now_ns);
    entry = drain_deadlines_.erase(entry);
  }
}

WorkerLink* Coordinator::LinkOf(WorkerId worker) const {
  const auto found = links_.find(worker);
  return found == links_.end() ? nullptr : found->second.get();
}

WorkerId Coordinator::IdOf(const WorkerLink* link) const {
  const auto found = worker_ids_.find(link);
  return found == worker_ids_.end() ? WorkerId() : found->second;
}

std::shared_ptr<PipelineEngine> Coordinator::FindEngine(PipelineId pipeline) const {
  MutexLock lock(&engines_mutex_);
  const auto found = engines_.find(pipeline);
  return found == engines_.end() ? nullptr : found->second;
}

std::vector<std::shared_ptr<PipelineEngine>> Coordinator::Engines() const {
  MutexLock lock(&engines_mutex_);
  std::vector<std::shared_ptr<PipelineEngine>> all;
  for (const auto& [id, engine] : engines_) all.push_back(engine);
  return all;
}

std::string Coordinator::address() const {
  MutexLock lock(&snapshot_mutex_);
  return address_;
}

std::string Coordinator::leader_address() const {
  MutexLock lock(&snapshot_mutex_);
  return leader_address_;
}

bool Coordinator::FinishRunning(int timeout_ms) {
  refusing_.store(true);
  Post([this] { snapshot_due_ = true; });
  const int64_t until_ns = NowNs() + timeout_ms * kNsPerMs;
  while (NowNs() < until_ns) {
    bool idle = true;
    for (const auto& engine : Engines()) idle = idle && !engine->busy();
    if (idle) return true;
    absl::SleepFor(absl::Milliseconds(20));
  }
  return false;
}

void Coordinator::Stop() {
  if (stopping_.exchange(true)) return;
  prober_.Stop();
  if (leadership_ != nullptr) leadership_->Stop();  // a standby need not wait for the lease
  inbox_.Close();
  if (thread_.joinable()) thread_.join();
  for (const auto& engine : Engines()) engine->Stop("UNAVAILABLE: the coordinator stops");
  {
    MutexLock lock(&engines_mutex_);
    retired_.clear();
    engines_.clear();  // joins their threads
  }
  for (const auto& [id, link] : links_) {
    link->SetEngine(nullptr);
    link->Close("the coordinator stops");
  }
  for (const auto& router : routers_->All()) router->Close("the coordinator stops");
}

}  // namespace pagoda::coordinator
