#include "tests/sim/cluster.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "coordinator/deployment.h"
#include "pagoda/internal/v1/pipeline.pb.h"
#include "router/resumed_request.h"

namespace pagoda::sim {
namespace {

constexpr int64_t kToyKvBytes = 2 * 2 * 16 * 2;  // of a token in a layer: K and V, KV heads, head_dim, f16

coordinator::ModelFacts ToyFacts() {
  auto sizes = std::make_shared<coordinator::ModelSizes>();
  sizes->spec.layers = kToyLayers;
  sizes->spec.hidden = 64;
  sizes->spec.heads = 4;
  sizes->spec.kv_heads = 2;
  sizes->spec.head_dim = 16;
  sizes->spec.ffn = 128;
  sizes->spec.vocabulary = kToyVocabulary;
  sizes->spec.max_context = 1024;
  sizes->layers.assign(kToyLayers, {.ffn = 1000});
  return {.digest = "toy", .sizes = sizes};
}

}  // namespace

Cluster::Cluster(const ClusterOptions& options)
    : options_(options), world_(options.seed), network_(world_), store_(world_, 3 * kSecond), model_(ToyFacts()) {
  spec_.name = "toy";
  spec_.model = "toy";
  spec_.pipeline_parallel_size = options.stages;
  spec_.tensor_parallel_size = options.tensor_parallel;
  spec_.replicas = options.replicas;
  spec_.max_model_len = options.max_model_len;
  spec_.max_num_batched_tokens = options.max_step_rows;
  spec_.max_num_seqs = options.max_sequences;
  spec_ = coordinator::Settle(spec_).value();
  spec_.block_size = options.block_tokens;  // smaller than any that a deployment may ask for: more happens in a short run
  const int most_layers = (kToyLayers + options.stages - 1) / options.stages;
  spec_.kv_cache_bytes = int64_t{options.blocks} * most_layers * kToyKvBytes * options.block_tokens;
  const int needed = coordinator::WorkersNeeded(*model_.sizes, coordinator::PlacementRequestOf(spec_)).value();
  const int workers = needed * options.replicas + options.spares;
  for (int i = 0; i < options.coordinators; ++i) {
    coordinator_ids_.push_back(world_.AddProcess(absl::StrCat("coordinator-", i), i % options.hosts));
  }
  for (int i = 0; i < workers; ++i) worker_ids_.push_back(world_.AddProcess(absl::StrCat("worker-", i), i % options.hosts));
  for (int i = 0; i < options.routers; ++i) router_ids_.push_back(world_.AddProcess(absl::StrCat("router-", i), i % options.hosts));
  for (const auto& ids : {coordinator_ids_, worker_ids_, router_ids_}) {
    for (const ProcessId id : ids) Boot(id);
  }
  AddClients();
}

Cluster::~Cluster() = default;

void Cluster::Boot(ProcessId id) {
  if (world_.IsUp(id)) return;
  const Life life = world_.Start(id);
  world_.Note(absl::StrCat(world_.NameOf(id), " starts"));
  switch (world_.NameOf(id).front()) {
    case 'c':
      coordinators_[id] = std::make_unique<SimCoordinator>(*this, life);
      return;
    case 'w':
      workers_[id] = std::make_unique<SimWorker>(*this, life);
      return;
    default:
      routers_[id] = std::make_unique<SimRouter>(*this, life);
  }
}

// Prompts come in a few families that share their beginnings, so that the prefix cache has work.
void Cluster::AddClients() {
  std::vector<std::vector<TokenId>> families;
  for (int f = 0; f < 3; ++f) {
    std::vector<TokenId> tokens;
    for (int64_t i = world_.Uniform(4, 20); i > 0; --i) tokens.push_back(static_cast<TokenId>(world_.Uniform(0, kToyVocabulary - 1)));
    families.push_back(std::move(tokens));
  }
  for (int i = 0; i < options_.requests; ++i) {
    SimClient::Plan plan;
    if (world_.Chance(0.7)) plan.request.prompt = families[static_cast<size_t>(world_.Uniform(0, 2))];
    for (int64_t n = world_.Uniform(1, 12); n > 0; --n) {
      plan.request.prompt.push_back(static_cast<TokenId>(world_.Uniform(0, kToyVocabulary - 1)));
    }
    const int64_t room = options_.max_model_len - static_cast<int64_t>(plan.request.prompt.size());
    plan.request.max_tokens = static_cast<int>(world_.Uniform(1, std::min<int64_t>(room, 30)));
    plan.request.seed = world_.Bits();
    if (world_.Chance(0.5)) plan.request.stop_token_ids = {0, 1};
    if (world_.Chance(0.3)) plan.request.min_tokens = static_cast<int>(world_.Uniform(0, plan.request.max_tokens));
    plan.choices = world_.Chance(0.2) ? 3 : 1;
    plan.priority = static_cast<int>(world_.Uniform(0, 1));
    plan.arrives_ns = kSecond + world_.Uniform(0, options_.arrivals_ns);
    if (world_.Chance(0.1)) plan.cancels_after_ns = world_.Uniform(0, 500 * kMs);
    plan.router = static_cast<int>(world_.Uniform(0, 100));
    if (options_.repeating > 0 && world_.Chance(options_.repeating / 100.0)) Repeat(plan);
    if (options_.resumable > 0 && world_.Chance(options_.resumable / 100.0)) MakeResumable(plan, i);
    clients_.push_back(std::make_unique<SimClient>(*this, i, std::move(plan)));
  }
}

// Most of these are guessed by order, some where it pays.
void Cluster::Repeat(SimClient::Plan& plan) {
  plan.request.period = static_cast<int>(world_.Uniform(2, 6));
  plan.speculative_tokens = world_.Chance(0.7) ? static_cast<int>(world_.Uniform(1, 6)) : 0;
  const int64_t room = options_.max_model_len - static_cast<int64_t>(plan.request.prompt.size());
  plan.request.max_tokens = static_cast<int>(world_.Uniform(std::min<int64_t>(room, 10), room));
  plan.request.min_tokens = std::min(plan.request.min_tokens, plan.request.max_tokens);
}

void Cluster::MakeResumable(SimClient::Plan& plan, int number) {
  plan.resumable = true;
  plan.request.seed = router::SeedOfResumable(SimClient::NameOf(number), 0);
  plan.asks_without_its_request = world_.Chance(0.3);
  for (int64_t n = world_.Uniform(0, 2); n > 0; --n) plan.breaks_at.push_back(static_cast<int>(world_.Uniform(1, 20)));
}

ProcessId Cluster::Find(const std::string& name) const {
  for (const auto& ids : {coordinator_ids_, worker_ids_, router_ids_}) {
    for (const ProcessId id : ids) {
      if (world_.NameOf(id) == name) return id;
    }
  }
  return -1;
}

std::vector<ProcessId> Cluster::ProcessesOf(char kind) const {
  return kind == 'w' ? worker_ids_ : kind == 'c' ? coordinator_ids_ : router_ids_;
}

void Cluster::Apply(int activation_bits) {
  coordinator::DeploymentSpec spec = spec_;
  spec.activation_bits = activation_bits;
  for (const ProcessId id : coordinator_ids_) {
    if (!world_.IsUp(id) || world_.IsStopped(id) || !coordinators_.at(id)->Apply(spec)) continue;
    world_.Note(absl::StrCat("activation_bits ", activation_bits, " is applied at ", world_.NameOf(id)));
    return Count("applied");
  }
  world_.After(100 * kMs, [this, activation_bits] { Apply(activation_bits); });
}

void Cluster::Kill(ProcessId process, int64_t restart_after_ns) {
  if (!world_.IsUp(process)) return;
  world_.Note(absl::StrCat(world_.NameOf(process), " is killed"));
  world_.Kill(process);
  world_.After(restart_after_ns, [this, process] { Boot(process); });
}

void Cluster::Drain(ProcessId process, int64_t restart_after_ns) {
  const Life life = world_.LifeOf(process);
  if (!world_.Lives(life) || drained_[process].first == life) return;
  drained_[process] = {life, restart_after_ns};
  world_.Note(absl::StrCat(world_.NameOf(process), " is told to stop"));
  world_.After(life, 0, [this, process] {
    switch (world_.NameOf(process).front()) {
      case 'c':
        return coordinators_.at(process)->Leave();
      case 'w':
        return workers_.at(process)->Leave();
      default:
        routers_.at(process)->Leave();
    }
  });
}

void Cluster::Exit(Life life) {
  if (!world_.Lives(life)) return;
  world_.Note(absl::StrCat(world_.NameOf(life.process), " has stopped"));
  Count("drained");
  world_.Kill(life.process);
  world_.After(drained_.at(life.process).second, [this, process = life.process] { Boot(process); });
}

void Cluster::Pause(ProcessId process, int64_t for_ns) {
  if (!world_.IsUp(process) || world_.IsStopped(process)) return;
  world_.Note(absl::StrCat(world_.NameOf(process), " is stopped for ", for_ns / kMs, " ms"));
  world_.Stop(process);
  world_.After(for_ns, [this, process] {
    world_.Note(absl::StrCat(world_.NameOf(process), " goes on"));
    world_.Continue(process);
  });
}

void Cluster::RunUntil(int64_t until_ns) {
  while (!world_.violated() && world_.Step(until_ns)) {
  }
}

bool Cluster::AllRequestsEnded() const {
  return std::ranges::all_of(clients_, [](const auto& client) { return client->ended(); });
}

void Cluster::Settle(int64_t within_ns) {
  const int64_t deadline = world_.now_ns() + within_ns;
  while (!world_.violated() && !AllRequestsEnded() && world_.now_ns() < deadline) RunUntil(world_.now_ns() + 100 * kMs);
  if (world_.violated()) return;
  for (size_t i = 0; i < clients_.size(); ++i) {
    if (!clients_[i]->ended()) world_.Violate(absl::StrCat("client-", i, " has no answer ", within_ns / kSecond, " s after the last fault"));
  }
  // Cancels still travel; nothing new comes.
  RunUntil(world_.now_ns() + options_.rest_ns);
  for (const auto& [id, coordinator] : coordinators_) {
    const std::string unrest = world_.IsUp(id) ? coordinator->UnrestOf() : "";
    if (!unrest.empty() && !world_.violated()) world_.Violate(absl::StrCat("no rest: ", unrest));
  }
}

std::map<std::string, int64_t> Cluster::Counts() const {
  SimCoordinator::Totals sum;
  for (const auto& [id, coordinator] : coordinators_) {
    const auto totals = coordinator->totals();
    sum.epochs += totals.epochs;
    sum.replayed += totals.replayed;
    sum.refilled += totals.refilled;
    sum.recomputed += totals.recomputed;
    sum.preemptions += totals.preemptions;
    sum.drafts += totals.drafts;
    sum.kept_streams += totals.kept_streams;
    sum.accepted_drafts += totals.accepted_drafts;
  }
  std::map<std::string, int64_t> counts = counts_;
  for (const char* name : {"applied", "numerics_changed", "model_changed", "answers_of_8_bits", "answers_of_12_bits", "drained", "planned_ends", "makeshifts", "faults", "deaths", "cut", "quarantined", "broken", "handed_over", "resumed_by_log", "resumed_by_request"}) counts.try_emplace(name, 0);
  counts["kept_streams"] = sum.kept_streams;
  counts["epochs"] = sum.epochs;
  counts["replayed"] = sum.replayed;
  counts["refilled"] = sum.refilled;
  counts["recomputed"] = sum.recomputed;
  counts["preemptions"] = sum.preemptions;
  counts["drafts"] = sum.drafts;
  counts["accepted_drafts"] = sum.accepted_drafts;
  return counts;
}

SimCoordinator* Cluster::Reach(ProcessId from, int nth) {
  const ProcessId id = coordinator_ids_[static_cast<size_t>(nth) % coordinator_ids_.size()];
  if (!world_.IsUp(id) || world_.IsStopped(id) || !network_.Connected(from, id)) return nullptr;
  return coordinators_.at(id).get();
}

SimCoordinator* Cluster::CoordinatorOf(Life life) {
  return world_.Lives(life) ? coordinators_.at(life.process).get() : nullptr;
}

int Cluster::IndexOfCoordinator(const std::string& name) const {
  for (size_t i = 0; i < coordinator_ids_.size(); ++i) {
    if (world_.NameOf(coordinator_ids_[i]) == name) return static_cast<int>(i);
  }
  return -1;
}

void Cluster::SendToWorker(Life from, const coordinator::LinkPeer& peer, std::function<void(SimWorker&)> what) {
  const auto process = static_cast<ProcessId>(std::stoi(peer.data_address));
  if (!world_.IsUp(process)) return;
  SimWorker* to = workers_.at(process).get();
  network_.SendPacket(from, to->life(), [to, what = std::move(what)] { what(*to); });
}

void Cluster::ToWorkerProcess(const std::shared_ptr<Stream>& stream, ProcessId from, Life worker, std::function<void(SimWorker&)> what) {
  if (!world_.Lives(worker)) return;
  SimWorker* to = workers_.at(worker.process).get();
  stream->Send(from, [to, what = std::move(what)] { what(*to); });
}

void Cluster::ToRouterProcess(const std::shared_ptr<Stream>& stream, ProcessId from, Life router,
                              std::shared_ptr<internal::v1::CoordinatorMessage> message) {
  if (!world_.Lives(router)) return;
  SimRouter* to = routers_.at(router.process).get();
  const auto link = link_names_.find(stream.get());
  if (link == link_names_.end()) return;
  stream->Send(from, [to, number = link->second, message] { to->OnMessage(number, *message); });
}

void Cluster::NameLink(Life, const Stream* stream, int link) { link_names_[stream] = link; }

void Cluster::CheckEpoch(Epoch epoch, const std::string& coordinator) {
  const auto [found, added] = epoch_owners_.try_emplace(epoch.value(), coordinator);
  if (!added && found->second != coordinator) {
    world_.Violate(absl::StrCat("epoch ", epoch.value(), " is given out by ", found->second, " and by ", coordinator));
  }
}

bool Cluster::MayBeQuarantined(const std::vector<TokenId>& prompt, int64_t since_ns) {
  constexpr int64_t kDeathsOfTheConvicted = 4;
  const bool enough = std::ranges::count_if(losses_ns_, [=](int64_t at_ns) { return at_ns >= since_ns; }) >= kDeathsOfTheConvicted;
  if (enough) quarantined_.insert(prompt);
  return enough || quarantined_.contains(prompt);
}

int Cluster::SlownessOf(ProcessId process) const {
  const auto found = slowness_.find(process);
  return found == slowness_.end() ? 1 : found->second;
}

SimRouter* Cluster::RouterOf(int index) {
  const ProcessId id = router_ids_[static_cast<size_t>(index) % router_ids_.size()];
  return world_.IsUp(id) && !world_.IsStopped(id) ? routers_.at(id).get() : nullptr;
}

SimRouter* Cluster::RouterOfLife(Life life) { return world_.Lives(life) ? routers_.at(life.process).get() : nullptr; }

}  // namespace pagoda::sim
