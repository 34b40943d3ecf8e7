#include "coordinator/held_blocks.h"

#include <algorithm>
#include <unordered_map>

namespace pagoda::coordinator {
namespace {

// What the stages say of one block.
struct Opinion {
  BlockHash hash;
  bool named = false;   // every rank of the stage names it, and alike
  bool output = false;  // every rank that feeds the next stage kept its output
};

// By block, of one stage.
std::vector<Opinion> OpinionsOf(const std::vector<const HeldBlocks*>& ranks, size_t next_stage_ranks, int blocks) {
  const size_t size = static_cast<size_t>(blocks);
  std::vector<Opinion> all(size);
  std::vector<size_t> names(size, 0), outputs(size, 0);
  const size_t senders = std::min(ranks.size(), next_stage_ranks);
  for (size_t rank = 0; rank < ranks.size(); ++rank) {
    if (ranks[rank] == nullptr) return std::vector<Opinion>(size);
    for (const HeldBlock& held : *ranks[rank]) {
      if (held.block.value() < 0 || held.block.value() >= blocks) continue;
      const size_t index = static_cast<size_t>(held.block.value());
      if (names[index] != rank) continue;  // an earlier rank does not have it, or it is named twice
      if (rank > 0 && all[index].hash != held.hash) continue;
      all[index].hash = held.hash;
      ++names[index];
      outputs[index] += held.output && rank < senders;
    }
  }
  for (size_t index = 0; index < size; ++index) {
    all[index].named = names[index] == ranks.size();
    all[index].output = all[index].named && senders > 0 && outputs[index] == senders;
  }
  return all;
}

// The name that most stages give the block; the earliest stage's among equals.
const Opinion* MostNamed(std::span<const std::vector<Opinion>> stages, size_t block) {
  const Opinion* best = nullptr;
  long most = 0;
  for (const auto& stage : stages) {
    if (!stage[block].named) continue;
    const long count = std::count_if(stages.begin(), stages.end(), [&](const std::vector<Opinion>& other) {
      return other[block].named && other[block].hash == stage[block].hash;
    });
    if (count > most) {
      most = count;
      best = &stage[block];
    }
  }
  return best;
}

int StagesToRun(const RestoredBlock& block) { return block.whole() ? 0 : block.last_stage - block.first_stage + 1; }

}  // namespace

std::vector<RestoredBlock> SurveyHeldBlocks(std::span<const std::vector<const HeldBlocks*>> stages, int blocks) {
  const int count = static_cast<int>(stages.size());
  std::vector<std::vector<Opinion>> opinions;
  for (size_t stage = 0; stage < stages.size(); ++stage) {
    const size_t next = stage + 1 < stages.size() ? stages[stage + 1].size() : 0;
    opinions.push_back(OpinionsOf(stages[stage], next, blocks));
  }
  std::unordered_map<BlockHash, RestoredBlock> best;
  for (int id = 0; id < blocks; ++id) {
    const size_t index = static_cast<size_t>(id);
    const Opinion* name = MostNamed(opinions, index);
    if (name == nullptr) continue;
    RestoredBlock block{.block = BlockId(id), .hash = name->hash};
    for (int stage = 0; stage < count; ++stage) {
      const Opinion& opinion = opinions[static_cast<size_t>(stage)][index];
      if (opinion.named && opinion.hash == name->hash) continue;
      if (block.whole()) block.first_stage = stage;
      block.last_stage = stage;
    }
    if (!block.whole()) {
      const int lost = block.first_stage;
      const auto fed = [&](int stage) {
        const Opinion& before = opinions[static_cast<size_t>(stage) - 1][index];
        return before.output && before.hash == name->hash;
      };
      while (block.first_stage > 0 && !fed(block.first_stage)) --block.first_stage;
      block.replayed = block.first_stage == lost;
      if (StagesToRun(block) == count) continue;
    }
    const auto [known, added] = best.emplace(block.hash, block);
    if (!added && StagesToRun(block) < StagesToRun(known->second)) known->second = block;
  }
  std::vector<RestoredBlock> restored;
  for (const auto& [hash, block] : best) restored.push_back(block);
  std::sort(restored.begin(), restored.end(),
            [](const RestoredBlock& a, const RestoredBlock& b) { return a.block.value() < b.block.value(); });
  return restored;
}

}  // namespace pagoda::coordinator
