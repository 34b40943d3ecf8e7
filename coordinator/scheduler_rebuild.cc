// KV that survived an epoch: the prefix cache starts with it, and what some stages lost of it is filled again when a sequence
// needs it, in plans of their own that run on those stages only.
#include <algorithm>
#include <iterator>
#include <utility>

#include "coordinator/scheduler.h"

namespace pagoda::coordinator {

void Scheduler::RestoreBlocks() {
  const std::vector<RestoredBlock> restored = std::exchange(settings_.restored, {});
  if (!settings_.prefix_caching) return;
  std::vector<BlockId> ids;
  for (const RestoredBlock& block : restored) {
    if (block.whole() || settings_.max_step_rows >= settings_.block_tokens) ids.push_back(block.block);
  }
  const std::vector<BlockHandle> handles = pool_->AllocateExactly(ids);  // given back, and so parked, at the end
  for (const RestoredBlock& block : restored) {
    if (!block.whole() && settings_.max_step_rows < settings_.block_tokens) continue;
    if (cache_->Insert(block.hash, block.block) && !block.whole()) partial_.emplace(block.block, block);
  }
}

// What the sequence found in the prefix cache and some stages do not have. Marked as whole at once: every later plan comes
// after the rebuild.
void Scheduler::QueueRebuilds(const Sequence& sequence, int hit_blocks) {
  if (partial_.empty()) return;
  const auto how_of = [this](const BlockHandle& block) {
    const auto found = partial_.find(block.id());
    return found == partial_.end() ? RestoredBlock() : found->second;
  };
  for (int i = 0; i < hit_blocks;) {
    const RestoredBlock how = how_of(sequence.blocks[static_cast<size_t>(i)]);
    if (how.whole()) {
      ++i;
      continue;
    }
    int end = i;
    for (; end < hit_blocks; ++end) {
      const RestoredBlock other = how_of(sequence.blocks[static_cast<size_t>(end)]);
      if (other.first_stage != how.first_stage || other.last_stage != how.last_stage) break;
    }
    RebuildItem item{.how = how, .first_block = i, .blocks = {}, .hashes = {}, .tokens = {}};
    for (int b = 0; b < end; ++b) {
      item.blocks.push_back(sequence.blocks[static_cast<size_t>(b)].Share());
      item.hashes.push_back(sequence.hashes[static_cast<size_t>(b)]);
      if (b >= i) partial_.erase(item.blocks.back().id());
    }
    item.tokens.assign(sequence.tokens.begin(), sequence.tokens.begin() + int64_t{end} * settings_.block_tokens);
    rebuilds_.push_back(std::move(item));
    i = end;
  }
}

int Scheduler::RowsToRebuild() const {
  int rows = 0;
  for (const RebuildItem& item : rebuilds_) rows += item.blocks_left() * settings_.block_tokens;
  return rows;
}

void Scheduler::CountRebuild(const RebuildItem& item, int blocks) {
  int64_t layers = 0;
  for (int stage = item.how.first_stage; stage <= item.how.last_stage; ++stage) {
    if (stage < static_cast<int>(settings_.stage_layers.size())) layers += settings_.stage_layers[static_cast<size_t>(stage)];
  }
  const int64_t token_layers = int64_t{blocks} * settings_.block_tokens * layers;
  (item.how.replayed ? totals_.replayed_token_layers : totals_.refilled_token_layers) += token_layers;
}

// As many blocks of the queue's front as a step takes, for one range of stages.
StepPlan Scheduler::NextRebuild() {
  PAGODA_CHECK(!rebuilds_.empty());
  const int block_tokens = settings_.block_tokens;
  const RestoredBlock how = rebuilds_.front().how;
  Rebuild rebuild{.first_stage = how.first_stage, .last_stage = how.last_stage, .chains = {}};
  Draft draft;
  draft.record.is_rebuild = true;
  int room = settings_.max_step_rows / block_tokens;
  while (!rebuilds_.empty() && room > 0) {
    RebuildItem& item = rebuilds_.front();
    if (item.how.first_stage != how.first_stage || item.how.last_stage != how.last_stage) break;
    const int count = std::min(room, item.blocks_left());
    const int end = item.first_block + count;
    RebuildChain chain{.blocks = {}, .first_block = item.first_block, .tokens = {}};
    for (int b = 0; b < end; ++b) chain.blocks.push_back(item.blocks[static_cast<size_t>(b)].id());
    for (int b = item.first_block; b < end; ++b) {
      draft.record.rebuilt.push_back({item.blocks[static_cast<size_t>(b)].id(), item.hashes[static_cast<size_t>(b)]});
    }
    if (how.first_stage == 0) {
      chain.tokens.assign(item.tokens.begin() + int64_t{item.first_block} * block_tokens,
                          item.tokens.begin() + int64_t{end} * block_tokens);
    }
    rebuild.chains.push_back(std::move(chain));
    CountRebuild(item, count);
    room -= count;
    item.first_block = end;
    if (item.blocks_left() > 0) break;
    std::move(item.blocks.begin(), item.blocks.end(), std::back_inserter(draft.record.rebuilding));
    rebuilds_.pop_front();
  }
  draft.plan.rebuild = std::move(rebuild);
  return Complete(std::move(draft));
}

}  // namespace pagoda::coordinator
