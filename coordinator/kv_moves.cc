#include "coordinator/kv_moves.h"

#include <algorithm>
#include <tuple>

#include "common/status.h"

namespace pagoda::coordinator {
namespace {

constexpr int64_t kBytesToMeasure = 1 << 20;

bool AllCanMove(const ClusterState& cluster, const PipelineRecord& pipeline) {
  return std::all_of(pipeline.workers.begin(), pipeline.workers.end(), [&](WorkerId id) {
    const WorkerRecord* worker = cluster.FindWorker(id);
    return worker != nullptr && worker->info.kv_moves > 0 && !worker->info.blob_address.empty();
  });
}

}  // namespace

// Digests of shards say model, layers, rank, activation bits and numerics profile.
std::optional<PipelineId> ChooseKvPeer(const ClusterState& cluster, PipelineId from, const std::set<PipelineId>& leaving,
                                       const std::map<PipelineId, int>& running) {
  const auto found = cluster.pipelines().find(from);
  if (found == cluster.pipelines().end()) return std::nullopt;
  const PipelineRecord& left = found->second;
  if (left.shard_digests.empty() || left.workers.empty() || !AllCanMove(cluster, left)) return std::nullopt;
  std::optional<std::tuple<int, PipelineId>> best;
  for (const auto& [id, pipeline] : cluster.pipelines()) {
    const bool fits = id != from && pipeline.deployment == left.deployment && pipeline.phase == PipelinePhase::kReady &&
                      !pipeline.draining && !leaving.contains(id) && pipeline.shard_digests == left.shard_digests &&
                      pipeline.kv_format == left.kv_format && AllCanMove(cluster, pipeline);
    if (!fits) continue;
    const auto load = running.find(id);
    const std::tuple candidate(load == running.end() ? 0 : load->second, id);
    if (!best || candidate < *best) best = candidate;
  }
  if (!best) return std::nullopt;
  return std::get<1>(*best);
}

int64_t KvBlockBytesOf(const ClusterState& cluster, const PipelineRecord& pipeline) {
  int64_t most = 0;
  for (const WorkerId id : pipeline.workers) {
    const WorkerRecord* worker = cluster.FindWorker(id);
    if (worker != nullptr && pipeline.placement.blocks > 0) most = std::max(most, worker->kv_bytes / pipeline.placement.blocks);
  }
  return most;
}

KvMove& KvMoves::Begin(PipelineId from, Epoch from_epoch, PipelineId to, Epoch to_epoch, int64_t now_ns) {
  PAGODA_CHECK(From(from) == nullptr);
  const uint64_t id = next_++;
  KvMove& move = moves_[id];
  move.id = id;
  move.from = from;
  move.from_epoch = from_epoch;
  move.to = to;
  move.to_epoch = to_epoch;
  move.began_ns = now_ns;
  return move;
}

KvMove* KvMoves::Find(uint64_t id) {
  const auto found = moves_.find(id);
  return found == moves_.end() ? nullptr : &found->second;
}

const KvMove* KvMoves::From(PipelineId pipeline) const {
  for (const auto& [id, move] : moves_) {
    if (move.from == pipeline) return &move;
  }
  return nullptr;
}

std::vector<uint64_t> KvMoves::Touching(PipelineId pipeline, Epoch epoch) const {
  std::vector<uint64_t> ids;
  for (const auto& [id, move] : moves_) {
    const bool source = move.from == pipeline && move.from_epoch == epoch;
    const bool target = move.to == pipeline && move.to_epoch == epoch;
    if (source || target) ids.push_back(id);
  }
  return ids;
}

std::vector<uint64_t> KvMoves::Late(int64_t now_ns) const {
  std::vector<uint64_t> ids;
  for (const auto& [id, move] : moves_) {
    if (now_ns - move.began_ns >= kKvMoveNs) ids.push_back(id);
  }
  return ids;
}

std::set<PipelineId> KvMoves::leaving() const {
  std::set<PipelineId> pipelines;
  for (const auto& [id, move] : moves_) pipelines.insert(move.from);
  return pipelines;
}

bool KvMoves::Filled(KvMove& move, WorkerId worker, int64_t bytes, int64_t took_us) {
  if (move.awaited.erase(worker) == 0) return false;
  move.bytes += std::max<int64_t>(bytes, 0);
  if (took_us >= move.slowest_us) {
    move.slowest_us = took_us;
    move.slowest_bytes = bytes;
  }
  return move.awaited.empty();
}

void KvMoveRate::Observe(int64_t bytes, int64_t took_us) {
  if (bytes < kBytesToMeasure || took_us <= 0) return;
  const double rate = static_cast<double>(bytes) * 1e6 / static_cast<double>(took_us);
  bytes_per_s_ = 0.5 * bytes_per_s_ + 0.5 * rate;
}

}  // namespace pagoda::coordinator
