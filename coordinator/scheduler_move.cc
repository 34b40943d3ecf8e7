// KV that moves between pipelines (kv_move.h): what this one offers when it is left, and what it takes of another.
#include <algorithm>
#include <utility>

#include "coordinator/scheduler.h"

namespace pagoda::coordinator {

// From the leaves, so that the prefix cache gives up a chain from there.
void Scheduler::LetGo(MovingIn moving) {
  while (!moving.arriving.empty()) moving.arriving.pop_back();
  while (!moving.kept.empty()) moving.kept.pop_back();
}

// Blocks that some stages do not have, or not yet: the result of the rebuild is still to come.
std::set<BlockId> Scheduler::BlocksToRebuild() const {
  std::set<BlockId> unfinished;
  for (const auto& [block, how] : partial_) unfinished.insert(block);
  for (const RebuildItem& item : rebuilds_) {
    for (size_t i = static_cast<size_t>(item.first_block); i < item.blocks.size(); ++i) unfinished.insert(item.blocks[i].id());
  }
  for (const PlanRecord& record : in_flight_) {
    for (const BlockName& name : record.rebuilt) unfinished.insert(name.block);
  }
  return unfinished;
}

KvOffer Scheduler::OfferKv(uint64_t move) {
  KvOffer offer;
  if (!epoch_open_) return offer;
  offer.sequences = static_cast<int>(running_.size());
  offer.prompt_row_ns = cost_.PromptRowNs();
  if (!settings_.prefix_caching) return offer;
  std::vector<BlockHandle>& held = moving_out_[move];
  const std::set<BlockId> unfinished = BlocksToRebuild();
  std::set<BlockHash> known;
  for (const SequencePointer& sequence : running_) {
    // Those that would not read the cache find nothing there.
    if (sequence->request->bypass_prefix_cache || sequence->wants_prompt_logprobs) continue;
    std::vector<BlockName> chain;
    for (size_t i = 0; i < static_cast<size_t>(sequence->offered_blocks); ++i) {
      if (unfinished.contains(sequence->blocks[i].id())) break;
      chain.push_back({sequence->blocks[i].id(), sequence->hashes[i]});
    }
    if (static_cast<int>(chain.size()) < kLeastBlocksToMove) continue;
    for (size_t i = 0; i < chain.size(); ++i) {
      if (known.insert(chain[i].hash).second) held.push_back(sequence->blocks[i].Share());
    }
    offer.chains.push_back(std::move(chain));
  }
  return offer;
}

KvReservation Scheduler::ReserveKv(uint64_t move, const KvOffer& offer, const KvMoveCost& cost) {
  KvReservation reservation;
  if (!epoch_open_ || !settings_.prefix_caching) return reservation;
  int places = settings_.max_sequences - static_cast<int>(running_.size() + waiting_.size()) - finished_in_flight_;
  for (const auto& [other, incoming] : moving_in_) places -= incoming.sequences;
  reservation.takes_all = places >= offer.sequences;
  MovingIn moving{.kept = {}, .arriving = {}, .sequences = offer.sequences};
  // What is here already stays until the rest has come.
  std::vector<BlockName> lacking;
  std::set<BlockHash> known;
  for (const std::vector<BlockName>& chain : offer.chains) {
    std::vector<BlockHash> hashes;
    for (const BlockName& name : chain) hashes.push_back(name.hash);
    for (BlockHandle& block : cache_->Match(hashes)) moving.kept.push_back(std::move(block));
    for (const BlockName& name : chain) {
      if (!cache_->Knows(name.hash) && known.insert(name.hash).second) lacking.push_back(name);
    }
  }
  // Whoever runs here keeps room to grow.
  int room = Available() - static_cast<int>(running_.size()) - std::max(1, settings_.blocks / 100);
  if (static_cast<int>(lacking.size()) + kLeastBlocksToMove * offer.sequences > room) reservation.takes_all = false;
  const auto without = [&](KvMoveEnd why) {
    LetGo(std::move(moving));
    reservation.empty_because = why;
    return reservation;
  };
  if (lacking.empty()) return without(KvMoveEnd::kNothing);
  const double blocks = static_cast<double>(lacking.size());
  const double row_ns = cost_.PromptRowNs() > 0 ? cost_.PromptRowNs() : offer.prompt_row_ns;
  if (row_ns > 0 && cost.fixed_ns + blocks * cost.block_ns > blocks * settings_.block_tokens * row_ns) {
    return without(KvMoveEnd::kCheaper);
  }
  if (cost.block_ns > 0) room = static_cast<int>(std::min<double>(room, static_cast<double>(kKvMoveTransferNs) / cost.block_ns));
  if (static_cast<int>(lacking.size()) > room) lacking.resize(static_cast<size_t>(std::max(room, 0)));
  if (lacking.empty()) return without(KvMoveEnd::kNoRoom);
  for (const BlockName& name : lacking) {
    moving.arriving.emplace_back(name.hash, *Allocate());
    reservation.from.push_back(name.block);
    reservation.to.push_back(moving.arriving.back().second.id());
  }
  moving_in_.insert_or_assign(move, std::move(moving));
  return reservation;
}

void Scheduler::FinishKv(uint64_t move, bool arrived) {
  moving_out_.erase(move);
  const auto found = moving_in_.find(move);
  if (found == moving_in_.end()) return;
  MovingIn moving = std::move(found->second);
  moving_in_.erase(found);
  for (const auto& [hash, block] : moving.arriving) {
    // Computed here in the meantime: that one stays.
    if (!arrived || !cache_->Insert(hash, block.id())) continue;
    pending_names_.push_back({block.id(), hash});
    ++totals_.moved_blocks;
  }
  LetGo(std::move(moving));
}

int Scheduler::blocks_moving() const {
  size_t blocks = 0;
  for (const auto& [move, moving] : moving_in_) blocks += moving.arriving.size() + moving.kept.size();
  for (const auto& [move, held] : moving_out_) blocks += held.size();
  return static_cast<int>(blocks);
}

}  // namespace pagoda::coordinator
