// A pipeline is left on purpose: before its epoch is closed another one takes the KV of what runs there (kv_move.h), as far as that
// is sooner than computing it again. On the control thread.
#include "common/clock.h"
#include "common/log.h"
#include "coordinator/coordinator.h"

namespace pagoda::coordinator {

// A worker was told to stop. It stays until the KV of its pipeline is elsewhere, or that is given up.
void Coordinator::WorkerLeaving(std::shared_ptr<WorkerLink> link) {
  const bool posted = Post([this, link] {
    const WorkerRecord* worker = state_.FindWorker(IdOf(link.get()));
    const PipelineId pipeline = worker == nullptr ? PipelineId() : worker->pipeline;
    if (!MoveKv(pipeline)) return LetGo(*link, /*planned=*/true);
    departing_.emplace(pipeline, link);
  });
  if (!posted) link->Farewell();
}

// False: nothing moves.
bool Coordinator::MoveKv(PipelineId from) {
  if (moves_.From(from) != nullptr) return true;
  const auto found = state_.pipelines().find(from);
  const auto engine = FindEngine(from);
  if (found == state_.pipelines().end() || engine == nullptr || left_.contains(from)) return false;
  const PipelineRecord& pipeline = found->second;
  if (pipeline.phase != PipelinePhase::kReady && pipeline.phase != PipelinePhase::kDraining) return false;
  if (engine->status().stats.running == 0) return false;
  std::map<PipelineId, int> running;
  for (const auto& other : Engines()) running[other->options().pipeline] = other->status().stats.running;
  const std::optional<PipelineId> to = ChooseKvPeer(state_, from, moves_.leaving(), running);
  if (!to) {
    engine->CountKvMove(KvMoveEnd::kNoPeer);
    return false;
  }
  const KvMove& move = moves_.Begin(from, pipeline.epoch, *to, state_.pipelines().at(*to).epoch, NowNs());
  snapshot_due_ = true;  // it takes no new work
  engine->OfferKv(move.id, move.from_epoch, [this, id = move.id](KvOffer offer) {
    Post([this, id, offer = std::move(offer)]() mutable { TakeOffer(id, std::move(offer)); });
  });
  return true;
}

void Coordinator::TakeOffer(uint64_t id, KvOffer offer) {
  KvMove* move = moves_.Find(id);
  if (move == nullptr) return;
  const auto engine = FindEngine(move->to);
  const auto to = state_.pipelines().find(move->to);
  if (engine == nullptr || to == state_.pipelines().end()) return EndMove(id, KvMoveEnd::kFailed);
  const KvMoveCost cost{.block_ns = move_rate_.BlockNs(KvBlockBytesOf(state_, to->second))};
  engine->ReserveKv(id, move->to_epoch, std::move(offer), cost, [this, id](KvReservation reservation) {
    Post([this, id, reservation = std::move(reservation)] { Fill(id, reservation); });
  });
}

// Each rank gets its blocks from the same rank of the pipeline that is left.
void Coordinator::Fill(uint64_t id, const KvReservation& reservation) {
  KvMove* move = moves_.Find(id);
  if (move == nullptr) return;
  move->takes_all = reservation.takes_all;
  if (reservation.to.empty()) return EndMove(id, reservation.empty_because);
  const auto from = state_.pipelines().find(move->from);
  const auto to = state_.pipelines().find(move->to);
  const bool both = from != state_.pipelines().end() && to != state_.pipelines().end() && from->second.epoch == move->from_epoch &&
                    to->second.epoch == move->to_epoch && from->second.workers.size() == to->second.workers.size();
  if (!both) return EndMove(id, KvMoveEnd::kFailed);
  move->blocks = static_cast<int64_t>(reservation.to.size());
  WorkerLink::KvFill fill{.move = id,
                          .epoch = move->to_epoch,
                          .source = "",
                          .source_epoch = move->from_epoch,
                          .source_token = link_tokens_.TokenOf(move->from_epoch),
                          .timeout_ms = static_cast<int>((move->began_ns + kKvMoveNs - NowNs()) / kNsPerMs)};
  for (size_t rank = 0; rank < to->second.workers.size(); ++rank) {
    const WorkerId worker = to->second.workers[rank];
    const WorkerRecord* source = state_.FindWorker(from->second.workers[rank]);
    WorkerLink* link = LinkOf(worker);
    if (source == nullptr || link == nullptr) return EndMove(id, KvMoveEnd::kFailed);
    fill.source = source->info.blob_address;
    link->Send(fill, reservation);
    move->awaited.insert(worker);
    move->filling.push_back(worker);
  }
}

void Coordinator::WorkerFilledKv(std::shared_ptr<WorkerLink> link, KvFilledReport report) {
  Post([this, link = std::move(link), report = std::move(report)] {
    const WorkerId worker = IdOf(link.get());
    KvMove* move = moves_.Find(report.move);
    if (move == nullptr || report.epoch != move->to_epoch || !move->awaited.contains(worker)) return;
    if (!report.error.empty()) {
      LogWarning("kv_not_moved", {{"move", report.move}, {"worker", worker.value()}, {"error", report.error}});
      return EndMove(report.move, KvMoveEnd::kFailed);
    }
    if (!KvMoves::Filled(*move, worker, report.bytes, report.took_us)) return;
    move_rate_.Observe(move->slowest_bytes, move->slowest_us);
    EndMove(report.move, KvMoveEnd::kMoved);
  });
}

void Coordinator::EndMove(uint64_t id, KvMoveEnd end) {
  const KvMove move = *moves_.Find(id);
  moves_.Erase(id);
  const bool arrived = end == KvMoveEnd::kMoved;
  // What may still be written is forbidden before a plan can give the blocks out: both go over the ranks' streams in this order.
  for (const WorkerId worker : move.filling) {
    WorkerLink* link = arrived ? nullptr : LinkOf(worker);
    if (link != nullptr) link->EndKvFill(id, move.to_epoch);
  }
  if (const auto engine = FindEngine(move.to)) {
    engine->FinishKv(id, arrived);
    if (arrived) engine->CountKvBytes(move.bytes);
  }
  if (const auto engine = FindEngine(move.from)) {
    engine->FinishKv(id, arrived);
    engine->CountKvMove(end);
  }
  if (arrived) moved_to_[move.from] = move.to;
  LogInfo("kv_move_ended", {{"result", NameOf(end)},
                            {"from", move.from.value()},
                            {"to", move.to.value()},
                            {"blocks", move.blocks},
                            {"bytes", move.bytes},
                            {"slowest_rank_us", move.slowest_us},
                            {"ms", (NowNs() - move.began_ns) / kNsPerMs}});
  snapshot_due_ = true;
  // In a task of its own: this may be in the middle of an epoch's end.
  Post([this, move, end] { Leave(move, end); });
}

// Now the pipeline is left as it would have been at once.
void Coordinator::Leave(const KvMove& move, KvMoveEnd end) {
  const auto [first, last] = departing_.equal_range(move.from);
  const std::vector<std::pair<PipelineId, std::shared_ptr<WorkerLink>>> departing(first, last);
  departing_.erase(first, last);
  for (const auto& [pipeline, link] : departing) LetGo(*link, /*planned=*/true);
  if (!departing.empty()) return;
  // One that drains: what runs there goes over, unless it would wait for room.
  const auto found = state_.pipelines().find(move.from);
  const auto engine = FindEngine(move.from);
  const bool drains = found != state_.pipelines().end() && found->second.draining && found->second.epoch == move.from_epoch &&
                      found->second.phase == PipelinePhase::kDraining;
  const auto to = state_.pipelines().find(move.to);
  const bool serves_all = to != state_.pipelines().end() && to->second.phase == PipelinePhase::kReady && drains &&
                          to->second.placement.max_model_len >= found->second.placement.max_model_len;
  const bool sooner = end == KvMoveEnd::kMoved || end == KvMoveEnd::kNothing || end == KvMoveEnd::kCheaper;
  if (engine == nullptr || !serves_all || !sooner || !move.takes_all) return;
  left_.insert(move.from);
  engine->CloseEpoch(move.from_epoch, EpochEnd::kPlanned);
  Tell("epoch_ended", absl::StrCat("pipeline ", move.from.value(), " is drained: what ran there goes to pipeline ",
                                   move.to.value()));
}

void Coordinator::EndMovesOf(PipelineId pipeline, Epoch epoch) {
  for (const uint64_t id : moves_.Touching(pipeline, epoch)) EndMove(id, KvMoveEnd::kFailed);
}

void Coordinator::EndLateMoves(int64_t now_ns) {
  for (const uint64_t id : moves_.Late(now_ns)) EndMove(id, KvMoveEnd::kLate);
}

// A new epoch of it, or its end: it is not the one that was left.
void Coordinator::ForgetMove(PipelineId pipeline) {
  left_.erase(pipeline);
  moved_to_.erase(pipeline);
}

}  // namespace pagoda::coordinator
