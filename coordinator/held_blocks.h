// What is left of a pipeline's KV when an epoch begins: each rank says which full blocks it still holds, by chain hash, and of
// which it kept what it sent to the next stage. From that follows which blocks the new epoch's prefix cache may start with,
// which stages have to fill a block again first, and from where they can take its input. Pure values and one function.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "common/block_hash.h"
#include "common/ids.h"

namespace pagoda::coordinator {

struct HeldBlock {
  BlockId block;
  BlockHash hash;
  bool output = false;  // what this rank sent on for the block's rows is kept
};
using HeldBlocks = std::vector<HeldBlock>;

struct RestoredBlock {
  BlockId block;
  BlockHash hash;
  int first_stage = -1;    // stages first..last have to run over it before it can be used; -1: it is whole
  int last_stage = -1;
  bool replayed = false;   // by the lost stages alone; else also by stages that had it, because an input was not kept
  bool whole() const { return first_stage < 0; }
};

// `stages[s][r]`: what rank r of stage s holds; null: nothing. Blocks that all stages would have to run over are left out:
// nothing is won by them. Of two blocks with one hash the better stays.
std::vector<RestoredBlock> SurveyHeldBlocks(std::span<const std::vector<const HeldBlocks*>> stages, int blocks);

}  // namespace pagoda::coordinator
