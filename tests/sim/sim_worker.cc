#include "tests/sim/sim_worker.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "coordinator/services/convert.h"
#include "tests/sim/cluster.h"
#include "tests/sim/toy_model.h"
#include "worker/control/wire.h"

namespace pagoda::sim {
namespace {

constexpr int64_t kRetryEvery = 200 * kMs;
constexpr int64_t kHeartbeatEvery = 500 * kMs;
constexpr int64_t kFarewell = 500 * kMs;  // as worker/control/coordinator_client.cc

}  // namespace

SimWorker::SimWorker(Cluster& cluster, Life life)
    : cluster_(cluster),
      world_(cluster.world()),
      life_(life),
      name_(world_.NameOf(life.process)),
      incarnation_(world_.Bits() | 1) {
  world_.After(life_, world_.Uniform(0, 300 * kMs), [this] { Connect(); });
}

void SimWorker::Connect() {
  if (stream_ != nullptr || leaving_) return;
  const int tried = next_coordinator_++;
  SimCoordinator* coordinator = cluster_.Reach(life_.process, tried);
  if (coordinator == nullptr) {
    world_.After(life_, kRetryEvery, [this] { Connect(); });
    return;
  }
  coordinator_ = coordinator->life();
  const Life peer = *coordinator_;
  std::weak_ptr<Stream>* slot = new std::weak_ptr<Stream>();
  const std::shared_ptr<std::weak_ptr<Stream>> handle(slot);
  stream_ = cluster_.network().Connect(
      {life_, [this, handle] { if (stream_ == handle->lock()) OnStreamLost(); }},
      {peer, [coordinator, handle] { coordinator->OnWorkerLost(handle->lock()); }});
  *handle = stream_;
  coordinator::WorkerInfo info;
  info.name = name_;
  info.incarnation = incarnation_;
  info.host = absl::StrCat("host-", world_.HostOf(life_.process));
  info.version = "sim";
  info.numerics_profile = "toy-1";
  info.implementation = "toy";
  info.memory_bytes = int64_t{1} << 30;
  info.data_address = absl::StrCat(life_.process);
  info.blob_address = "none";
  info.held_shard = shard_;
  stream_->Send(life_.process, [coordinator, stream = stream_, info, life = life_] { coordinator->OnWorkerJoined(stream, info, life); });
  Beat();
}

void SimWorker::OnStreamLost() {
  stream_ = nullptr;
  EndEpoch();
  if (leaving_) return cluster_.Exit(life_);
  world_.After(life_, world_.Uniform(10 * kMs, kRetryEvery), [this] { Connect(); });
}

// It goes on with its work until the coordinator has heard of it and ends the stream, or for so long as it may take.
void SimWorker::Leave() {
  leaving_ = true;
  if (stream_ == nullptr) return cluster_.Exit(life_);
  SimCoordinator* coordinator = cluster_.CoordinatorOf(*coordinator_);
  if (coordinator != nullptr) {
    stream_->Send(life_.process, [coordinator, stream = stream_] { coordinator->OnWorkerLeaving(stream); });
  }
  world_.After(life_, kFarewell, [this] { cluster_.Exit(life_); });
}

void SimWorker::OnWelcome() {}

void SimWorker::OnNotLeader(const std::string& leader) {
  if (stream_ == nullptr) return;
  stream_->Close(life_.process);
  const int named = cluster_.IndexOfCoordinator(leader);
  if (named >= 0) next_coordinator_ = named;
  OnStreamLost();
}

void SimWorker::Beat() {
  if (stream_ == nullptr) return;
  coordinator::WorkerProgress progress;
  progress.epoch = assignment_ ? assignment_->epoch.value() : 0;
  progress.last_step = last_step_;
  progress.current_step = phase_ == Phase::kIdle ? 0 : last_step_ + 1;
  if (phase_ != Phase::kIdle && phase_ != Phase::kCompute) {
    progress.waiting_for = waiting_for_;
    progress.waiting_us = (world_.now_ns() - waiting_since_ns_) / kUs;
  }
  progress.operation = waiting_for_;
  SimCoordinator* coordinator = cluster_.CoordinatorOf(*coordinator_);
  if (coordinator != nullptr) {
    stream_->Send(life_.process, [coordinator, stream = stream_, progress] { coordinator->OnHeartbeat(stream.get(), progress); });
  }
  world_.After(life_, kHeartbeatEvery, [this, beating = std::weak_ptr<Stream>(stream_)] {
    if (stream_ != nullptr && beating.lock() == stream_) Beat();
  });
}

void SimWorker::OnAssignment(coordinator::Assignment assignment) {
  EndEpoch();
  assignment_ = std::move(assignment);
  const std::string shard = absl::StrCat(assignment_->model_digest, " ", stage().layer_begin, "-", stage().layer_end, " ",
                                         assignment_->rank, "/", stage().tensor_parallel, " bits ", assignment_->activation_bits);
  const bool held = shard == shard_;
  const int64_t takes = held ? world_.Uniform(kMs, 5 * kMs) : world_.Uniform(30 * kMs, 400 * kMs);
  world_.After(life_, takes, [this, shard, epoch_life = epoch_life_] {
    if (epoch_life != epoch_life_) return;
    const int layers = stage().layer_end - stage().layer_begin;
    const std::string shape = absl::StrCat(shard, " ", assignment_->blocks, " ", assignment_->block_tokens);
    shard_ = shard;
    if (shape != kv_shape_) {
      kv_shape_ = shape;
      kv_.assign(static_cast<size_t>(layers * assignment_->blocks * assignment_->block_tokens), 0);
      record_ = std::make_unique<worker::KvRecord>(worker::KvRecord::Shape{.blocks = assignment_->blocks,
                                                                           .block_tokens = assignment_->block_tokens,
                                                                           .hidden = 4,
                                                                           .output_bytes = cluster_.options().replay_bytes});
    }
    Report(coordinator::LoadPhase::kLoaded, true);
  });
}

void SimWorker::Report(coordinator::LoadPhase phase, bool whole) {
  if (stream_ == nullptr) return;
  coordinator::LoadDetails details;
  details.progress = 1;
  details.weights_bytes = 1000;
  details.kv_bytes = static_cast<int64_t>(kv_.size() * sizeof(uint64_t));
  details.shard_digest = shard_;
  if (whole) {
    auto blocks = std::make_shared<coordinator::HeldBlocks>();
    for (const worker::KvRecord::Held& held : record_->held()) {
      blocks->push_back({.block = BlockId(held.block), .hash = held.hash, .output = held.output});
    }
    details.held = blocks;
  }
  SimCoordinator* coordinator = cluster_.CoordinatorOf(*coordinator_);
  if (coordinator == nullptr) return;
  stream_->Send(life_.process, [coordinator, stream = stream_, epoch = assignment_->epoch, phase, details] {
    coordinator->OnLoaded(stream.get(), epoch, phase, details);
  });
}

void SimWorker::OnLinkUp(coordinator::SendLinkUp link_up) {
  if (!assignment_ || link_up.epoch != assignment_->epoch) return;
  peers_ = std::move(link_up.peers);
  slots_ = std::make_unique<worker::SlotTable>(worker::SlotTable::Shape{.slots = assignment_->max_slots,
                                                                        .blocks = assignment_->blocks,
                                                                        .block_tokens = assignment_->block_tokens,
                                                                        .vocabulary = kToyVocabulary});
  for (const coordinator::LinkPeer& peer : peers_) {
    const auto process = static_cast<ProcessId>(std::stoi(peer.data_address));
    if (!world_.IsUp(process) || !cluster_.network().Connected(life_.process, process)) {
      return Fault(absl::StrCat("connect to stage ", peer.stage, " rank ", peer.rank, ": refused"));
    }
  }
  linked_ = true;
  world_.After(life_, world_.Uniform(kMs, 10 * kMs), [this, epoch_life = epoch_life_] {
    if (epoch_life == epoch_life_) Report(coordinator::LoadPhase::kLinked, false);
  });
}

void SimWorker::OnRelease(Epoch epoch, bool keep_weights) {
  if (assignment_ && assignment_->epoch > epoch) return;
  EndEpoch();
  if (!keep_weights) {
    shard_.clear();
    kv_shape_.clear();
    kv_.clear();
    record_ = nullptr;
  }
  SimCoordinator* coordinator = cluster_.CoordinatorOf(*coordinator_);
  if (stream_ == nullptr || coordinator == nullptr) return;
  stream_->Send(life_.process, [coordinator, stream = stream_, epoch] { coordinator->OnLeft(stream.get(), epoch); });
}

void SimWorker::Fault(const std::string& what) {
  if (!assignment_) return;
  const std::string text = absl::StrCat("stage ", assignment_->stage, " rank ", assignment_->rank, " (", name_, ") step ",
                                        last_step_ + 1, ": ", what);
  const Epoch epoch = assignment_->epoch;
  world_.Note(absl::StrCat("fault of ", text));
  EndEpoch();
  SimCoordinator* coordinator = coordinator_ ? cluster_.CoordinatorOf(*coordinator_) : nullptr;
  if (stream_ == nullptr || coordinator == nullptr) return;
  stream_->Send(life_.process, [coordinator, stream = stream_, epoch, text] { coordinator->OnFault(stream.get(), epoch, text); });
}

void SimWorker::EndEpoch() {
  ++epoch_life_;
  assignment_.reset();
  linked_ = false;
  slots_ = nullptr;
  plans_.clear();
  pending_.clear();
  hidden_.clear();
  tokens_.clear();
  gathered_.clear();
  last_step_ = 0;
  phase_ = Phase::kIdle;
}

}  // namespace pagoda::sim
