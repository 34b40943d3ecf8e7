// One micro-batch of one pipeline and its result, as plain values: see pagoda/internal/v1/worker.proto for what each field
// means on the worker. Shapes and order are the wire's.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "common/block_hash.h"
#include "common/ids.h"
#include "coordinator/request.h"

namespace pagoda::coordinator {

struct StartSlot {
  SlotId slot;
  RequestId request;
  int choice = 0;
  int prompt_length = 0;
  std::vector<TokenId> history;
  std::vector<BlockId> blocks;
  std::shared_ptr<const Sampling> sampling;  // null for a fork
  int fork_of = 0;                           // slot + 1; 0: none
  TraceContext trace = {};
};

struct PlanCopy {
  BlockId from;
  BlockId to;
};

struct ReplaceBlock {
  int index = 0;
  BlockId block;
};

struct PlanRows {
  SlotId slot;
  int first_position = 0;
  int count = 0;
  std::vector<BlockId> new_blocks;
  std::vector<ReplaceBlock> replace_blocks;
  bool prompt_logprobs = false;
  std::vector<TokenId> accepted;  // verified drafts of an earlier step, up to the last known token's position
  std::vector<TokenId> drafts;    // tokens of the last rows, guessed
};

struct PlanSample {
  int rows_index = 0;
  SlotId slot;
  int output_index = 0;
};

struct BlockName {
  BlockId block;
  BlockHash hash;
};

struct RebuildChain {
  std::vector<BlockId> blocks;
  int first_block = 0;
  std::vector<TokenId> tokens;  // of the blocks to fill; only when stage 0 runs
};

struct Rebuild {
  int first_stage = 0;
  int last_stage = 0;
  std::vector<RebuildChain> chains;
};

struct StepPlan {
  Epoch epoch;
  StepNumber step;
  std::vector<StartSlot> starts;
  std::vector<PlanCopy> copies;
  std::vector<PlanRows> rows;
  std::vector<PlanSample> samples;
  std::vector<SlotId> ends;
  std::vector<BlockName> names;
  std::optional<Rebuild> rebuild;

  int TotalRows() const {
    int total = 0;
    for (const PlanRows& entry : rows) total += entry.count;
    return total;
  }
};

struct SampledToken {
  SlotId slot;
  TokenId token = 0;
  PositionLogprobs logprobs;
  // After a draft that came true: the token that its row gave, and so on.
  struct Further {
    TokenId token = 0;
    PositionLogprobs logprobs;
  };
  std::vector<Further> further;
};

struct PromptLogprobs {
  SlotId slot;
  int first_position = 0;
  std::vector<PositionLogprobs> positions;
};

struct StepResult {
  Epoch epoch;
  StepNumber step;
  std::vector<SampledToken> samples;  // as in the plan
  std::vector<PromptLogprobs> prompt_logprobs;
  int64_t compute_us = 0;
};

}  // namespace pagoda::coordinator
